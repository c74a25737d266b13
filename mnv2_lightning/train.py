"""Train a network, test it, and leave a run: `python -m mnv2_lightning.train key=value ...`."""

import logging
import math
import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mnv2_lightning.command import Command, Job
from mnv2_lightning.runs import config, folder
from mnv2_lightning.schema.errors import ConfigError

log = logging.getLogger(__name__)


def train(cfg: DictConfig) -> dict[str, Any]:
    """Fit and test as `cfg` says, into `cfg.run_dir`; the run's record.

    With `cfg.resume` the run goes on from its last checkpoint. ConfigError, DataError.
    """
    from lightning.pytorch import seed_everything

    from mnv2_lightning import build
    from mnv2_lightning.callbacks.throughput import Throughput
    from mnv2_lightning.networks import complexity
    from mnv2_lightning.reports import tables
    from mnv2_lightning.runs import checkpoint, noise
    from mnv2_lightning.runs.hardware import hardware
    from mnv2_lightning.runs.record import Record, git_commit, peak_rss_bytes, versions

    noise.quiet()
    run_dir = Path(cfg.run_dir)
    config_hash = config.outcome_hash(config.plain(cfg))
    resume_from = folder.require_checkpoint("resume", run_dir, "last") if cfg.resume else None
    if resume_from and folder.is_finished(run_dir, config_hash):
        log.info("already finished: %s", run_dir)
        return Record(run_dir, writes=False).data

    seed_everything(cfg.seed, verbose=False)
    datamodule = build.build_datamodule(cfg)
    network = build.build_network(cfg)
    classifier = build.build_classifier(cfg, network)
    callbacks = build.build_callbacks(cfg)
    purge_step = checkpoint.global_step(resume_from) if resume_from else None
    trainer = build.build_trainer(cfg, callbacks, build.build_loggers(cfg, purge_step))

    record = Record(run_dir, writes=trainer.is_global_zero)
    with record.following():
        costs = complexity.measure(
            network, in_channels=cfg.model.in_channels, image_size=cfg.data.image_size
        )
        record.update(
            precision=trainer.precision,
            seed=cfg.seed,
            config_hash=config_hash,
            versions=versions(),
            hardware=hardware(),
            git_commit=git_commit(),
            **costs.as_dict(),
        )
        if trainer.is_global_zero:
            config.save(run_dir / "config.yaml", config.plain(cfg))
            log.info("%s", tables.start(record.data, trainer.accelerator.name(), cfg))
        datamodule.setup()  # before the clock starts: getting the files is not training
        trainer.fit(classifier, datamodule=datamodule, ckpt_path=resume_from, weights_only=True)

        name, path, val_accuracy = checkpoint.to_test(trainer)
        for callback in callbacks:
            if isinstance(callback, Throughput):
                record.update(
                    train_seconds=callback.fit_seconds,
                    images_per_second=callback.images_per_second,
                )
        record.update(
            epochs=trainer.current_epoch, val_accuracy=val_accuracy, tested_checkpoint=name
        )
        if path is not None:
            checkpoint.load_weights(classifier, path)
        (metrics,) = trainer.test(classifier, datamodule=datamodule, verbose=False)
        record.update(
            status="finished" if math.isfinite(metrics.get("test/loss", 0.0)) else "diverged",
            test_accuracy=metrics.get("test/accuracy"),
            test_loss=metrics.get("test/loss"),
            peak_rss_bytes=peak_rss_bytes(),
        )
    if trainer.is_global_zero:
        log.info("%s", tables.end(record.data, run_dir))
    return record.data


def final_config(cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """A resumed run's own config in place of the one that was composed."""
    return folder.resumed_config(cfg.resume, overrides) if cfg.resume else cfg


def check_job(job: Job) -> None:
    """What needs torch or the disk, before any work. ConfigError."""
    cfg = job.cfg
    if any(override.startswith("run_dir=") for override in job.overrides):
        raise ConfigError("run_dir: is set by hydra.run.dir=PATH, or by resume=PATH")
    if cfg.resume:
        folder.require_checkpoint("resume", Path(cfg.run_dir), "last")
        if job.folder is None or Path(job.folder).resolve() != Path(cfg.resume).resolve():
            raise ConfigError("resume: goes on with one run in its own folder; no -m, no run.dir")
    elif job.folder and "LOCAL_RANK" not in os.environ:  # other ranks find what the first made
        folder.refuse_occupied(job.folder)

    from mnv2_lightning.runs import hardware

    hardware.check_accelerator("trainer.accelerator", cfg.trainer.accelerator)
    hardware.check_devices(cfg.trainer.devices, cfg.trainer.accelerator)

    from mnv2_lightning.schema.targets import check_targets

    check_targets(config.plain(cfg))

    from hydra.errors import InstantiationException

    from mnv2_lightning import build
    from mnv2_lightning.runs import noise

    noise.quiet()
    try:
        trainer = build.build_trainer(cfg, [], [])
    except InstantiationException as error:
        raise ConfigError(f"trainer: {str(error.__cause__ or error).splitlines()[0]}") from error
    if job.folder is None and trainer.world_size > 1:  # each rank would start the sweep again
        raise ConfigError("-m: a job of a sweep takes one device; set trainer.devices=1")


COMMAND = Command("train", train, check_job=check_job, final_config=final_config)
main = COMMAND.run


if __name__ == "__main__":
    main()
