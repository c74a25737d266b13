"""Train a network and test it: `python -m mnv2_lightning.train key=value ...`."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2_lightning.cli.command import Command, Job, announce_imports
from mnv2_lightning.runs import config, folder, pretrained, stored_config
from mnv2_lightning.runs.record import Record, read_record
from mnv2_lightning.schema.check import check_batches, has_idx_files
from mnv2_lightning.schema.errors import ConfigError, Diverged, RankError, one_line
from mnv2_lightning.sweeps import manifest
from mnv2_lightning.system import durable_files, processes, ranks

if TYPE_CHECKING:
    import lightning.pytorch as L
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers import Logger
    from omegaconf import DictConfig
    from torch import nn

log = logging.getLogger(__name__)


def train(cfg: DictConfig, more_callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Fit and test a network, and write the run into `cfg.run_dir`; return its record and folder.

    A run of this config that is there already is resumed from its last checkpoint, or if it has
    finished, returned. ConfigError: the config is wrong, or another run is there; nothing is
    written. DataError, Diverged, StorageError.
    """
    from mnv2_lightning.cli import from_python

    cfg = from_python.checked(COMMAND, cfg)
    if (count := _processes_to_start(cfg)) > 1:
        raise ConfigError(
            f"trainer.devices={cfg.trainer.devices}: train() is one process, and {count} are "
            "needed; set it to 1, use the command, or start the script by torchrun"
        )
    return fit_and_test(cfg, more_callbacks)


def fit_and_test(cfg: DictConfig, more_callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """`train` with a config that is resolved and checked."""
    from lightning.pytorch import seed_everything
    from lightning.pytorch.utilities import rank_zero_only

    from mnv2_lightning import build
    from mnv2_lightning.callbacks.throughput import throughput
    from mnv2_lightning.networks import complexity
    from mnv2_lightning.reports import tables
    from mnv2_lightning.runs import resuming
    from mnv2_lightning.runs.environment import environment
    from mnv2_lightning.system import memory, warning_filters

    warning_filters.install()
    memory.keep_freed_memory()
    run_dir = Path(cfg.run_dir)
    if cfg.resume and stored_config.is_finished(run_dir, cfg.trainer):
        log.info("already finished: %s", run_dir)
        return read_record(run_dir) | {"run_dir": str(run_dir)}
    is_first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    record = Record(run_dir, writes=is_first)
    lock = folder.locked(run_dir) if is_first else nullcontext()
    with lock, _ending_loggers(record) as loggers, record.tracking():
        record.update(overrides=config.override_values(cfg.overrides), command=cfg.command)
        if is_first:
            _prepare_folder(run_dir, cfg)
        checkpoint, purge_step = resuming.checkpoint(run_dir, cfg) if cfg.resume else (None, None)
        seed_everything(cfg.seed, verbose=False)
        datamodule = build.build_datamodule(cfg)
        network = build.build_network(cfg)
        loaded = pretrained.load(network, cfg) if checkpoint is None else None
        classifier = build.build_classifier(cfg, network)
        callbacks = [*build.build_callbacks(cfg), *more_callbacks]
        loggers.extend(build.build_loggers(cfg, purge_step))
        trainer = build.build_trainer(cfg, callbacks, loggers)
        in_channels, image_size = build.channels_of(cfg), cfg.data.image_size
        costs = complexity.measure(network, in_channels=in_channels, image_size=image_size)
        record.update(
            precision=trainer.precision,
            seed=cfg.seed,
            config_hash=config.config_hash(config.plain(cfg)),
            weights_sha256=cfg.get("weights_sha256"),
            **environment(),
            **costs.as_dict(),
        )
        if is_first:
            _log_start(record, cfg, network, trainer, loaded)
        if has_idx_files(cfg.data):  # before the clock starts: a download is not training
            datamodule.setup()
        try:
            trainer.fit(classifier, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
        finally:
            record.note(epochs=trainer.current_epoch, **throughput(callbacks))
        _test(trainer, classifier, datamodule, record)
    if is_first:
        log.info("%s", tables.end(record.data, run_dir))
    return record.data | {"run_dir": str(run_dir)}


def _log_start(
    record: Record, cfg: DictConfig, network: nn.Module, trainer: L.Trainer, loaded: str | None
) -> None:
    """Log what is trained and its costs, and warn if the memory is too small.

    `loaded`: see `pretrained.load`.
    """
    from mnv2_lightning import build
    from mnv2_lightning.networks import complexity
    from mnv2_lightning.reports import tables
    from mnv2_lightning.system import memory

    device, batch_size = trainer.strategy.root_device, cfg.data.get("batch_size")
    needed = batch_size and complexity.training_bytes(
        network,
        in_channels=build.channels_of(cfg),
        image_size=cfg.data.image_size,
        batch_size=math.ceil(batch_size / trainer.world_size),
        precision=str(trainer.precision),
    )
    in_use = memory.peak_rss_bytes() if device.type == "cpu" else 0
    peak = None if needed is None or in_use is None else needed + in_use
    accelerator = trainer.accelerator.name()
    log.info("%s", tables.start(record.data, accelerator, cfg, memory=peak, loaded=loaded))
    free = memory.free_bytes(device)
    processes = trainer.num_devices if device.type == "cpu" else 1  # that share the memory
    if needed is not None and free is not None and processes * needed > free:
        log.warning(
            "warning: data.batch_size=%d needs about %.1f GB more, and %.1f GB are free; take a "
            "smaller one",
            batch_size,
            processes * needed / 1e9,
            free / 1e9,
        )


def _test(
    trainer: L.Trainer, classifier: Any, datamodule: L.LightningDataModule, record: Record
) -> None:
    """Test the best checkpoint, or the last if there is none. Diverged."""
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


@contextmanager
def _ending_loggers(record: Record) -> Iterator[list[Logger]]:
    """Tell the loggers that are added to the list how the run ended."""
    from mnv2_lightning.runs.run_logger import RunLogger

    loggers: list[Logger] = []
    try:
        yield loggers
    finally:
        for logger in loggers:
            if isinstance(logger, RunLogger):
                try:
                    logger.end(record.data["status"])
                except Exception as error:  # of a network, say; the run's own is not to be lost
                    log.warning("%s: %s", type(logger).__name__, one_line(error))


def _prepare_folder(run_dir: Path, cfg: DictConfig) -> None:
    """Write the config, and remove temporary files of an interrupted run. StorageError."""
    from mnv2_lightning.runs import checkpoints

    for parent in run_dir.resolve().parents:  # Hydra has made the folder
        with suppress(OSError):  # not all can be opened
            durable_files.sync_folder(parent)
    config.save(run_dir / "config.yaml", config.plain(cfg))
    checkpoints.tidy(run_dir)
    (run_dir / "error.txt").unlink(missing_ok=True)


def launch(cfg: DictConfig) -> dict[str, Any]:
    """`fit_and_test`, in as many processes on this machine as the Trainer needs."""
    processes.exit_if_orphan()  # a rank without it would wait for the others
    if processes.is_child():  # a launcher may run several jobs at a time
        take_a_gpu(cfg)
    if (count := _processes_to_start(cfg)) == 1:
        return fit_and_test(cfg)
    from hydra.core.hydra_config import HydraConfig

    from mnv2_lightning.cli import composing
    from mnv2_lightning.system import torchrun

    hydra, run_dir = HydraConfig.get(), Path(cfg.run_dir)
    overrides = composing.unresolved(hydra.overrides.task)
    arguments = composing.command_line(hydra, "train", overrides, run_dir.absolute())
    try:
        torchrun.run(["mnv2_lightning.train", *arguments], count)
    except RankError as error:  # rank 0, which writes the record, may not have seen it
        record = read_record(run_dir)
        if error.rank and record.get("status") != "diverged":
            failed = {"status": "failed", "error": str(error)}
            durable_files.write_json(run_dir / "result.json", record | failed)
        raise
    return read_record(run_dir)


def take_a_gpu(cfg: DictConfig) -> None:
    """Choose a free GPU if one device is requested and there are several."""
    if cfg.trainer.devices != 1:
        return
    import torch

    from mnv2_lightning.system import accelerators

    accelerator = cfg.trainer.accelerator
    if accelerator == "auto":
        accelerator = accelerators.auto_accelerator()
    if accelerator in ("gpu", "cuda") and torch.cuda.device_count() > 1:
        cfg.trainer.devices = [accelerators.own_gpu()[0]]


def _processes_to_start(cfg: DictConfig) -> int:
    """Number of ranks to start; 1: train in this process."""
    from mnv2_lightning import build

    trainer = build.build_trainer(cfg, [], [])
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if environment is None or environment.creates_processes_externally:
        return 1
    return trainer.world_size


def final_config(cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """Resolve `resume`, also where the run's folder holds an unfinished run of this config; record
    the overrides and the command. ConfigError.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from mnv2_lightning.cli import composing

    hydra = HydraConfig.get()
    _check_study(hydra, overrides)
    if cfg.resume:
        resumed = stored_config.resumed_config(cfg, overrides)
        resumed.sweep, resumed.fail_fast = cfg.sweep, cfg.fail_fast  # which `check_job` refuses
        cfg = resumed
    elif cfg.trust and cfg.resume is None:
        raise ConfigError("trust: is for the config in a run's folder, with resume=RUN_DIR")
    else:
        cfg.overrides = [override for override in overrides if "${" not in override]  # no values
        pretrained.identify(cfg)
        is_swept = hydra.mode == RunMode.MULTIRUN
        resumes = stored_config.holds_this_run(Path(cfg.run_dir), cfg, is_swept=is_swept)
        if resumes and cfg.resume is None:  # an empty one is refused
            cfg.resume = cfg.run_dir
    repeat = composing.command_line(hydra, "train", cfg.overrides)
    cfg.command = shlex.join(["python", "-m", "mnv2_lightning.train", *repeat])
    return cfg


def _check_study(hydra: Any, overrides: list[str]) -> None:
    """ConfigError: a study, which is a sweep, is started as a run of no arm."""
    given = {folder.key_of(override) for override in overrides}
    keys = [key for key in hydra.sweeper.get("params") or () if key not in {*given, "seed"}]
    if (study := hydra.runtime.choices.get("study")) and keys:
        values = " ".join(f"{key}=VALUE" for key in keys)
        raise ConfigError(f"study={study}: is a sweep; add -m, or for a single run {values}")


def job_overrides(cfg: DictConfig) -> list[str]:
    """One device for each job of a sweep by default, so that jobs can run side by side."""
    return ["trainer.devices=1"] if cfg.trainer.devices == "auto" else []


def check_job(job: Job) -> None:
    """Check a job, first without torch. ConfigError, StorageError."""
    cfg = job.cfg
    if cfg.resume and folder.require_run("resume", cfg.resume).resolve() != job.folder.resolve():
        raise ConfigError("resume: takes one run in its own folder; no -m, no hydra.run.dir")
    if cfg.sweep is not None and not job.is_swept:
        raise ConfigError(f"sweep={cfg.sweep}: names a sweep, which -m starts")
    if cfg.fail_fast and not job.is_swept:
        raise ConfigError("fail_fast=true: is for a sweep, which -m starts")
    config.require_inside(config.plain(cfg))

    images = _training_images(cfg)
    announce_imports()

    from mnv2_lightning import build
    from mnv2_lightning.runs import resuming
    from mnv2_lightning.schema.targets import check_targets
    from mnv2_lightning.system import accelerators, warning_filters

    accelerators.check_accelerator("trainer.accelerator", cfg.trainer.accelerator)
    check_targets(config.plain(cfg))
    warning_filters.install()
    devices = build.build_trainer(cfg, [], []).world_size
    _check_processes(job)
    needs_two = build.check_parts(cfg)
    if images is not None:
        check_batches(config.plain(cfg), images, devices, needs_two=needs_two)
    if resuming.is_new(cfg) and cfg.model.get("weights") is not None:
        pretrained.load(build.build_network(cfg), cfg)


def _training_images(cfg: DictConfig) -> int | None:
    """Number of training images; None if it is not known. ConfigError, DataError."""
    from mnv2_lightning.data import idx_files, sets

    data = cfg.data
    if not has_idx_files(data):
        return None
    idx_files.require_folder(data.dir, data.dataset)
    if data.dataset in sets.DATA_SETS:  # it may have to be downloaded
        return sets.TRAIN
    count, side, _ = idx_files.load(data.dataset, data.dir, len(data.classes))["train-images"].shape
    if data.crop > side:
        raise ConfigError(f"data.crop={data.crop}: must be less than or equal to {side}")
    return count


def _check_processes(job: Job) -> None:
    """ConfigError: the processes were not started as the config says."""
    cfg = job.cfg
    if job.is_swept and ranks.are_several():  # each would run the sweep
        raise ConfigError("-m: a sweep is one process, which starts those of its jobs; no torchrun")
    if ranks.are_several() and ranks.shared_id() is None and folder.run_id() in str(job.folder):
        raise ConfigError("hydra.run.dir: several processes need one folder; type it, or resume=")
    if cfg.trainer.num_nodes > 1 and not ranks.are_several():
        raise ConfigError(
            f"trainer.num_nodes={cfg.trainer.num_nodes}: start it on each by torchrun or srun"
        )


COMMAND = Command(
    "train",
    launch,
    check_job=check_job,
    final_config=final_config,
    job_overrides=job_overrides,
    sweep=manifest,
)
main = COMMAND.main

if __name__ == "__main__":
    main()
