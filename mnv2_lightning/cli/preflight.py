"""What can be known of a run of `train` before any work, with torch and a look at the disk."""

from pathlib import Path

from omegaconf import DictConfig

from mnv2_lightning.cli.command import Job
from mnv2_lightning.data.sets import TRAIN
from mnv2_lightning.runs import config, folder
from mnv2_lightning.schema.errors import ConfigError
from mnv2_lightning.system import ranks


def check(job: Job) -> None:
    """ConfigError, StorageError where this job cannot work. What needs no torch comes first."""
    cfg = job.cfg
    if cfg.resume and job.folder.resolve() != Path(cfg.resume).resolve():
        raise ConfigError("resume: goes on with one run in its own folder; no -m, no run.dir")
    if cfg.sweep is not None and not job.is_swept:
        raise ConfigError(f"sweep={cfg.sweep}: names a sweep, which -m starts")
    config.require_inside(config.plain(cfg))

    from mnv2_lightning.data import idx_files
    from mnv2_lightning.schema.targets import check_targets
    from mnv2_lightning.system import hardware, warning_filters

    idx_files.require_folder(cfg.data.dir)
    hardware.check_accelerator("trainer.accelerator", cfg.trainer.accelerator)
    hardware.check_devices(cfg.trainer.devices, cfg.trainer.accelerator)
    check_targets(config.plain(cfg))
    warning_filters.quiet()
    _check_processes(job, _try_to_build(cfg))
    _check_epochs(cfg)


def _try_to_build(cfg: DictConfig) -> int:
    """Build the Trainer, and the network without its weights; train it on the smallest batch.

    The number of processes that the Trainer will train in. ConfigError.
    """
    import torch
    from hydra.errors import InstantiationException

    from mnv2_lightning import build

    part = "trainer"
    try:
        world_size = build.build_trainer(cfg, [], []).world_size
        part = "model"
        images = _smallest_batch(cfg) // world_size
        with torch.device("meta"):
            shape = (max(1, images), 1, cfg.data.image_size, cfg.data.image_size)
            build.build_network(cfg).train()(torch.empty(shape))
    except (InstantiationException, RuntimeError, ValueError) as error:
        raise ConfigError(f"{part}: {str(error.__cause__ or error).splitlines()[0]}") from error
    return world_size


def _smallest_batch(cfg: DictConfig) -> int:
    """Images, over all devices."""
    from mnv2_lightning.data.batches import smallest_batch

    return smallest_batch(TRAIN - cfg.data.val_size, cfg.data.batch_size)


def _check_processes(job: Job, world_size: int) -> None:
    """ConfigError where they were started in another way than the config says, or lack images."""
    cfg = job.cfg
    if job.is_swept and ranks.are_several():  # each would run the sweep
        raise ConfigError("-m: a sweep is one process, which starts those of its jobs; no torchrun")
    if ranks.are_several() and ranks.shared_id() is None and folder.RUN_ID in str(job.folder):
        raise ConfigError("hydra.run.dir: several processes need one folder; type it, or resume=")
    if cfg.trainer.num_nodes > 1 and not ranks.are_several():
        raise ConfigError(
            f"trainer.num_nodes={cfg.trainer.num_nodes}: start it on each by torchrun or srun"
        )
    if (smallest := _smallest_batch(cfg)) < world_size:
        raise ConfigError(
            f"data.batch_size={cfg.data.batch_size}: the smallest batch, of {smallest}, has too "
            f"few images for each of {world_size} devices"
        )


def _check_epochs(cfg: DictConfig) -> None:
    """ConfigError where a run that goes on has trained more of them; StorageError where no
    checkpoint of it is whole.
    """
    from mnv2_lightning.runs import checkpoints

    max_epochs = cfg.trainer.max_epochs
    if not cfg.resume or folder.is_finished(Path(cfg.run_dir), max_epochs):
        return
    newest = checkpoints.newest(Path(cfg.run_dir))
    if newest is None or max_epochs in (None, -1):
        return
    if max_epochs < (done := checkpoints.read(newest)["epoch"] + 1):
        raise ConfigError(
            f"trainer.max_epochs={max_epochs}: {cfg.resume} has trained {done} already"
        )
