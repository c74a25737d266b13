"""The checkpoint that a run starts from, and what a new length makes of the run."""

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mnv2_lightning.runs import checkpoints, config, stored_config
from mnv2_lightning.schema.errors import ConfigError
from mnv2_lightning.schema.models import BY_TARGET, WarmupConfig

log = logging.getLogger(__name__)


def is_new(cfg: DictConfig) -> bool:
    """Whether the run has no checkpoint to start from. ConfigError: it has trained more epochs or
    steps already. StorageError: all its checkpoints are damaged.
    """
    if cfg.resume and stored_config.is_finished(Path(cfg.run_dir), cfg.trainer):
        return False
    newest = checkpoints.newest(Path(cfg.run_dir)) if cfg.resume else None
    if newest is None:
        return True
    if all(cfg.trainer[key] in (None, -1) for key in config.LENGTH_KEYS):
        return False
    found = checkpoints.read(newest)
    done = {"max_epochs": found["epoch"] + 1, "max_steps": found["global_step"]}
    for key, count in done.items():
        if cfg.trainer[key] not in (None, -1) and cfg.trainer[key] < count:
            raise ConfigError(
                f"trainer.{key}={cfg.trainer[key]}: {cfg.resume} has trained {count} "
                f"{key.removeprefix('max_')} already"
            )
    return False


def checkpoint(run_dir: Path, cfg: DictConfig) -> tuple[Path | None, int]:
    """The newest checkpoint, and the step from which loggers drop their records. StorageError."""
    newest = checkpoints.newest(run_dir)
    if newest is None:
        log.info("resumes from the beginning, as there is no checkpoint: %s", run_dir)
        return None, 0
    found = checkpoints.read(newest)
    epoch, step = found["epoch"] + 1, found["global_step"]
    log.info("resumes after epoch %d, step %d: %s", epoch, step, newest)
    if (message := _change_of_length(found, cfg)) is not None:
        log.info("%s", message)
    return newest, step


def _change_of_length(checkpoint: dict[str, Any], cfg: DictConfig) -> str | None:
    """How the result differs from that of a run of this length from the start; None: it does not,
    or the length is that of the checkpoint.
    """
    before = checkpoint["hyper_parameters"]["trainer"]
    changed = [
        f"trainer.{key}={cfg.trainer[key]} instead of {before[key]}"
        for key in config.LENGTH_KEYS
        if cfg.trainer[key] != before[key]
    ]
    reasons = []
    if issubclass(BY_TARGET.get(cfg.scheduler._target_, WarmupConfig), WarmupConfig):
        reasons.append("the learning rate follows the schedule of the new length from here on")
    if not checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"]:
        reasons.append(f"the rest of epoch {checkpoint['epoch'] + 1} is left out")
    if not changed or not reasons:
        return None
    return (
        f"{', '.join(changed)}: {', and '.join(reasons)}; "
        "the result differs from that of an uninterrupted run"
    )
