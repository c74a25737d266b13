"""Train a network, test it, and leave a run: `python -m mnv2_lightning.train key=value ...`."""

if __name__ == "__main__":  # before what takes time to import
    from mnv2_lightning.cli import scripts

    scripts.train()

import logging
import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from mnv2_lightning.cli import preflight
from mnv2_lightning.cli.command import Command
from mnv2_lightning.cli.composing import quoted
from mnv2_lightning.runs import config, folder
from mnv2_lightning.schema.errors import Diverged
from mnv2_lightning.sweeps import manifest
from mnv2_lightning.system import ranks

if TYPE_CHECKING:
    import lightning.pytorch as L
    from lightning.pytorch.callbacks import Callback

    from mnv2_lightning.classifier import Classifier
    from mnv2_lightning.runs.record import Record

log = logging.getLogger(__name__)


def train(cfg: DictConfig, more_callbacks: Sequence["Callback"] = ()) -> dict[str, Any]:
    """Fit and test as `cfg` says, into `cfg.run_dir`; the run's record.

    With `cfg.resume` the run goes on from its last checkpoint. ConfigError, DataError, Diverged,
    StorageError.
    """
    from lightning.pytorch import seed_everything
    from lightning.pytorch.utilities import rank_zero_only

    from mnv2_lightning import build
    from mnv2_lightning.callbacks.throughput import throughput
    from mnv2_lightning.networks import complexity
    from mnv2_lightning.reports import tables
    from mnv2_lightning.runs import checkpoints
    from mnv2_lightning.runs.record import Record, git_commit, versions
    from mnv2_lightning.system import durable_files, warning_filters
    from mnv2_lightning.system.hardware import hardware
    from mnv2_lightning.system.memory import begin_run, keep_freed_memory, peak_rss_bytes

    warning_filters.quiet()
    keep_freed_memory()
    begin_run()
    run_dir = Path(cfg.run_dir)
    if cfg.resume and folder.is_finished(run_dir, cfg.trainer.max_epochs):
        log.info("already finished: %s", run_dir)
        return durable_files.read_json(run_dir / "result.json")
    writes = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    record = Record(run_dir, writes=writes)
    with folder.locked(run_dir) if writes else nullcontext(), record.following():
        record.update(overrides=config.typed(cfg.overrides))
        if writes:
            _make_ready(run_dir, cfg)
        resume_from, purge_step = _go_on(run_dir) if cfg.resume else (None, None)
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
            config_hash=config.outcome_hash(config.plain(cfg)),
            versions=versions(),
            hardware=hardware(),
            git_commit=git_commit(),
            **costs.as_dict(),
        )
        if trainer.is_global_zero:
            log.info("%s", tables.start(record.data, trainer.accelerator.name(), cfg))
        datamodule.setup()  # before the clock starts: getting the files is not training
        try:
            trainer.fit(classifier, datamodule=datamodule, ckpt_path=resume_from, weights_only=True)
        finally:
            record.note(epochs=trainer.current_epoch, **throughput(callbacks))

        if (path := checkpoints.to_test(trainer)) is not None:
            _restore(path, classifier, trainer, record)
        tested = trainer.test(classifier, datamodule=datamodule, verbose=False)
        metrics = tested[0] if tested else {}  # trainer.limit_test_batches=0
        record.update(
            status="finished",
            test_accuracy=metrics.get("test/accuracy"),
            test_loss=metrics.get("test/loss"),
            peak_rss_bytes=peak_rss_bytes(),
        )
        if not math.isfinite(loss := metrics.get("test/loss", 0.0)):
            raise Diverged(f"the test loss is {loss}; a smaller optimizer.lr? ({run_dir})")
    if trainer.is_global_zero:
        _succeed(trainer)
        log.info("%s", tables.end(record.data, run_dir))
    return record.data


def _restore(path: Path, classifier: "Classifier", trainer: "L.Trainer", record: "Record") -> None:
    """Put the checkpoint's weights back to be tested, and note what they were validated with."""
    from mnv2_lightning.runs import checkpoints

    val_accuracy = checkpoints.load_weights(classifier, path).get("val/accuracy")
    record.update(tested_checkpoint=path.stem, val_accuracy=val_accuracy)
    if val_accuracy is not None:  # the curve ends with the last epoch's
        for logger in trainer.loggers:
            logger.log_metrics({"tested/val_accuracy": val_accuracy}, trainer.global_step)


def _succeed(trainer: "L.Trainer") -> None:
    from mnv2_lightning.runs.tensorboard_logger import TensorBoardLogger

    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.succeed()


def launch(cfg: DictConfig) -> dict[str, Any]:
    """`train`, in as many processes on this machine as the Trainer is to have."""
    if COMMAND.is_elsewhere():
        take_a_gpu(cfg)
    if (count := _to_start(cfg)) == 1:
        return train(cfg)
    from mnv2_lightning.system import torchrun

    own, folder_of_run = HydraConfig.get(), Path(cfg.run_dir)
    typed = [o for o in own.overrides.task if not o.startswith("sweep=")]
    place = [] if "resume" in {o.partition("=")[0] for o in typed} else [folder_of_run.absolute()]
    where = [f"--config-dir={COMMAND.config_dir}"] if COMMAND.config_dir else []
    torchrun.run(
        [
            "mnv2_lightning.train",
            *where,
            f"--config-name={own.job.config_name}",
            *typed,
            *(f"hydra.run.dir={quoted(path)}" for path in place),
        ],
        count,
        folder_of_run,
    )
    return folder.read_record(folder_of_run)


def take_a_gpu(cfg: DictConfig) -> None:
    """Where one is asked for, and there are several: one that no process beside this trains on."""
    if cfg.trainer.devices != 1:
        return
    import torch

    from mnv2_lightning.system import hardware

    accelerator = cfg.trainer.accelerator
    if accelerator == "auto":
        accelerator = hardware.auto_accelerator()
    if accelerator in ("gpu", "cuda") and torch.cuda.device_count() > 1:
        cfg.trainer.devices = [hardware.own_gpu()[0]]


def _to_start(cfg: DictConfig) -> int:
    """How many processes this one is to start; 1: it trains itself."""
    from mnv2_lightning import build
    from mnv2_lightning.system import warning_filters

    warning_filters.quiet()  # a launcher's worker builds its first Trainer here
    trainer = build.build_trainer(cfg, [], [])
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if environment is None or environment.creates_processes_externally:
        return 1
    return trainer.world_size


def _go_on(run_dir: Path) -> tuple[Path | None, int]:
    """The checkpoint that a resumed run goes on from, if one was written, and the step from which
    it logs again. StorageError.
    """
    from mnv2_lightning.runs import checkpoints

    newest = checkpoints.newest(run_dir)
    if newest is None:
        log.info("goes on: %s, from its beginning: no epoch was finished", run_dir)
        return None, 0
    log.info("goes on: after epoch %d, %s", checkpoints.epochs(newest), newest)
    return newest, checkpoints.global_step(newest)


def _make_ready(run_dir: Path, cfg: DictConfig) -> None:
    """The folder gets the run's config and loses what is of an earlier attempt: what a crash left
    half-written, and its traceback. StorageError.
    """
    from mnv2_lightning.runs import checkpoints
    from mnv2_lightning.system import durable_files

    durable_files.settle(run_dir)
    config.save(run_dir / "config.yaml", config.plain(cfg))
    checkpoints.tidy(run_dir)
    (run_dir / "error.txt").unlink(missing_ok=True)


def final_config(cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """A resumed run's own config in place of the one that was composed; a device a job of a sweep,
    where none is asked for; what was typed. A command goes on with the run that it left in the
    same folder.
    """
    if cfg.resume:
        return folder.resumed_config(cfg, overrides)
    cfg.overrides = [typed for typed in overrides if "${" not in typed]  # which are no values
    is_swept = HydraConfig.get().mode == RunMode.MULTIRUN
    if is_swept and cfg.trainer.devices == "auto":
        cfg.trainer.devices = 1
    run_dir = Path(cfg.run_dir)
    if ranks.rank():  # the first may be writing into the folder already; it has looked at it
        goes_on = any((run_dir / "checkpoints").glob("*.ckpt"))
    else:
        goes_on = folder.holds_this_run(run_dir, cfg, is_swept=is_swept)
    if goes_on:
        cfg.resume = cfg.run_dir
    return cfg


COMMAND = Command(
    "train", launch, check_job=preflight.check, final_config=final_config, sweep=manifest
)
main = COMMAND.run
