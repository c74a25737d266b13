"""Train a network and test it: `python -m mnv2_lightning.train key=value ...`."""

import logging
import math
import shlex
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from mnv2_lightning.cli import composing, preflight
from mnv2_lightning.cli.command import Command
from mnv2_lightning.runs import config, folder
from mnv2_lightning.runs.record import Record, git_commit, read_record, versions
from mnv2_lightning.schema.errors import Diverged, RankError
from mnv2_lightning.sweeps import manifest
from mnv2_lightning.system import durable_files, processes, ranks

if TYPE_CHECKING:
    import lightning.pytorch as L
    from lightning.pytorch.callbacks import Callback

log = logging.getLogger(__name__)


def train(cfg: DictConfig, more_callbacks: Sequence["Callback"] = ()) -> dict[str, Any]:
    """Fit and test as `cfg` says, into `cfg.run_dir`; returns the run's record.

    With `cfg.resume` the run resumes from its last checkpoint. ConfigError, DataError, Diverged,
    StorageError.
    """
    from lightning.pytorch import seed_everything
    from lightning.pytorch.utilities import rank_zero_only

    from mnv2_lightning import build
    from mnv2_lightning.callbacks.throughput import throughput
    from mnv2_lightning.networks import complexity
    from mnv2_lightning.reports import tables
    from mnv2_lightning.system import memory, warning_filters
    from mnv2_lightning.system.hardware import hardware

    warning_filters.quiet()
    memory.keep_freed_memory()
    run_dir = Path(cfg.run_dir)
    if cfg.resume and folder.is_finished(run_dir, cfg.trainer.max_epochs):
        log.info("already finished: %s", run_dir)
        return read_record(run_dir)
    is_first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    record = Record(run_dir, writes=is_first)
    with folder.locked(run_dir) if is_first else nullcontext(), record.tracking():
        record.update(overrides=config.override_values(cfg.overrides), command=cfg.command)
        if is_first:
            _prepare_folder(run_dir, cfg)
        checkpoint, purge_step = _checkpoint_to_resume(run_dir) if cfg.resume else (None, None)
        seed_everything(cfg.seed, verbose=False)
        datamodule = build.build_datamodule(cfg)
        network = build.build_network(cfg)
        classifier = build.build_classifier(cfg, network)
        callbacks = [*build.build_callbacks(cfg), *more_callbacks]
        trainer = build.build_trainer(cfg, callbacks, build.build_loggers(cfg, purge_step))
        costs = complexity.measure(network, in_channels=1, image_size=cfg.data.image_size)
        record.update(
            precision=trainer.precision,
            seed=cfg.seed,
            config_hash=config.config_hash(config.plain(cfg)),
            versions=versions(),
            hardware=hardware(),
            git_commit=git_commit(),
            **costs.as_dict(),
        )
        if is_first:
            log.info("%s", tables.start(record.data, trainer.accelerator.name(), cfg))
        datamodule.setup()  # before the clock starts: a download is not training
        try:
            trainer.fit(classifier, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
        finally:
            record.note(epochs=trainer.current_epoch, **throughput(callbacks))
        _test(trainer, classifier, datamodule, record)
    if is_first:
        _close(trainer)
        log.info("%s", tables.end(record.data, run_dir))
    return record.data


def _test(
    trainer: "L.Trainer", classifier: Any, datamodule: "L.LightningDataModule", record: Record
) -> None:
    """Measure the best checkpoint, or the last, on the test set. Diverged."""
    from mnv2_lightning.runs import checkpoints
    from mnv2_lightning.system.memory import peak_rss_bytes

    if (path := checkpoints.to_test(trainer)) is not None:
        val_accuracy = checkpoints.load_weights(classifier, path).get("val/accuracy")
        record.update(tested_checkpoint=path.stem, val_accuracy=val_accuracy)
        if val_accuracy is not None:  # the curve of val/accuracy ends with the last epoch's
            for logger in trainer.loggers:
                logger.log_metrics({"tested/val_accuracy": val_accuracy}, trainer.global_step)
    tested = trainer.test(classifier, datamodule=datamodule, verbose=False)
    metrics = tested[0] if tested else {}  # trainer.limit_test_batches=0
    record.update(
        status="finished",
        test_accuracy=metrics.get("test/accuracy"),
        test_loss=metrics.get("test/loss"),
        peak_rss_bytes=peak_rss_bytes(),
    )
    if not math.isfinite(loss := metrics.get("test/loss", 0.0)):
        where = record.path.parent
        raise Diverged(f"the test loss is {loss}; a smaller optimizer.lr? ({where})")


def _close(trainer: "L.Trainer") -> None:
    """HPARAMS shows that the run has ended well."""
    from mnv2_lightning.runs.tensorboard_logger import TensorBoardLogger

    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.succeed()


def _prepare_folder(run_dir: Path, cfg: DictConfig) -> None:
    """Write the config, and remove what an interrupted attempt left. StorageError."""
    from mnv2_lightning.runs import checkpoints

    durable_files.settle(run_dir)
    config.save(run_dir / "config.yaml", config.plain(cfg))
    checkpoints.tidy(run_dir)
    (run_dir / "error.txt").unlink(missing_ok=True)


def _checkpoint_to_resume(run_dir: Path) -> tuple[Path | None, int]:
    """With the step from which the loggers drop what they have. StorageError."""
    from mnv2_lightning.runs import checkpoints

    newest = checkpoints.newest(run_dir)
    if newest is None:
        log.info("resumes from the beginning, as no epoch was finished: %s", run_dir)
        return None, 0
    checkpoint = checkpoints.read(newest)
    log.info("resumes after epoch %d: %s", checkpoint["epoch"] + 1, newest)
    return newest, checkpoint["global_step"]


def launch(cfg: DictConfig) -> dict[str, Any]:
    """`train`, in as many processes on this machine as the Trainer is to have."""
    if processes.is_child():  # a launcher may run several jobs at a time
        take_a_gpu(cfg)
    if (count := _processes_to_start(cfg)) == 1:
        return train(cfg)
    from mnv2_lightning.system import torchrun

    hydra, run_dir = HydraConfig.get(), Path(cfg.run_dir)
    overrides = composing.as_typed(hydra.overrides.task)
    arguments = composing.arguments(hydra, "train", overrides, run_dir.absolute())
    try:
        torchrun.run(["mnv2_lightning.train", *arguments], count)
    except RankError as error:
        record = read_record(run_dir)
        if error.rank and record.get("status") != "diverged":  # the first rank did not record it
            failed = {"status": "failed", "error": str(error)}
            durable_files.write_json(run_dir / "result.json", record | failed)
        raise
    return read_record(run_dir)


def take_a_gpu(cfg: DictConfig) -> None:
    """Where one device is asked for and there are several GPUs: one that no other job holds."""
    if cfg.trainer.devices != 1:
        return
    import torch

    from mnv2_lightning.system import hardware

    accelerator = cfg.trainer.accelerator
    if accelerator == "auto":
        accelerator = hardware.auto_accelerator()
    if accelerator in ("gpu", "cuda") and torch.cuda.device_count() > 1:
        cfg.trainer.devices = [hardware.own_gpu()[0]]


def _processes_to_start(cfg: DictConfig) -> int:
    """1: this process trains itself."""
    from mnv2_lightning import build

    trainer = build.build_trainer(cfg, [], [])
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if environment is None or environment.creates_processes_externally:
        return 1
    return trainer.world_size


def final_config(cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """Resolve `resume`, also where the run's folder holds an unfinished run of this config; record
    the overrides; give each job of a sweep one device by default. ConfigError.
    """
    hydra = HydraConfig.get()
    if cfg.resume:
        cfg = folder.resumed_config(cfg, overrides)
    else:
        cfg.overrides = [override for override in overrides if "${" not in override]  # no values
        is_swept = hydra.mode == RunMode.MULTIRUN
        if is_swept and cfg.trainer.devices == "auto":
            cfg.trainer.devices = 1
            cfg.overrides.append("trainer.devices=1")
        run_dir = Path(cfg.run_dir)
        if ranks.rank():  # the first, which has looked at it, may be writing into the folder
            resumes = any((run_dir / "checkpoints").glob("*.ckpt"))
        else:
            resumes = folder.holds_this_run(run_dir, cfg, is_swept=is_swept)
        if resumes:
            cfg.resume = cfg.run_dir
    repeat = composing.arguments(hydra, "train", cfg.overrides)
    cfg.command = shlex.join(["python", "-m", "mnv2_lightning.train", *repeat])
    return cfg


COMMAND = Command(
    "train", launch, check_job=preflight.check, final_config=final_config, sweep=manifest
)
main = COMMAND.main

if __name__ == "__main__":
    main()
