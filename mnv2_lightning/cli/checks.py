"""Hydra's callback that checks all jobs of a command before any folder is made."""

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, flag_override

from mnv2_lightning.cli import composing
from mnv2_lightning.cli.command import Command, Job, named
from mnv2_lightning.cli.report_error import Reported, report_error
from mnv2_lightning.runs import folder as folders
from mnv2_lightning.runs.config import plain
from mnv2_lightning.schema.check import check
from mnv2_lightning.schema.errors import ConfigError, empty
from mnv2_lightning.system import processes, signals
from mnv2_lightning.system.durable_files import require_writable

log = logging.getLogger(__name__)


class Checks(Callback):
    """Hydra's callback; in `hydra.callbacks` of each command's config."""

    def __init__(self, command: str) -> None:
        self.command = named(command)

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._call(check_run, config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._call(check_multirun, config)

    def _call(self, check: Callable[[Command, DictConfig], None], config: DictConfig) -> None:
        """Only SystemExit ends the command; Hydra turns other exceptions into warnings."""
        with report_error() as outcome, composing.as_config_errors():
            check(self.command, config)
        if outcome.status:
            raise Reported(outcome.status)
        self.command.is_checked = True
        signals.raise_errors()


def check_run(command: Command, config: DictConfig) -> None:
    """Check the composed `config`, which includes Hydra's part. ConfigError, StorageError."""
    check_jobs(command, [_job(command, config, composing.unresolved(config.hydra.overrides.task))])


def check_multirun(command: Command, config: DictConfig) -> None:
    """Compose and check each job of a multirun. ConfigError, StorageError."""
    command.launcher = config.hydra.runtime.choices["hydra/launcher"]
    if command.launcher != "basic" and command.sweep is None:
        raise ConfigError(f"hydra/launcher={command.launcher}: is for sweeps of train")
    if command.launcher == "submitit_slurm" and shutil.which("srun") is None:
        raise ConfigError("hydra/launcher=submitit_slurm: no srun here; use submitit_local")
    if command.launcher == "basic":
        processes.start_server()  # it imports while the jobs are checked
    shared = composing.shared_keys(config)
    names = ",".join(f"'{key}'" for key in shared)
    extra = [f"hydra.job.config.override_dirname.exclude_keys=[{names}]"]
    typed = composing.unresolved(config.hydra.overrides.hydra)
    typed = [o for o in typed if not o.startswith("hydra.mode")] + extra
    jobs = []
    for number, overrides in enumerate(composing.jobs(config)):
        try:
            composed = composing.composed(config.hydra.job.config_name, [*overrides, *typed])
            jobs.append(_job(command, composed, overrides, number=number))
        except ConfigError as error:
            job = folders.job_folder(overrides, shared)
            raise ConfigError(f"{error} (job {job})") from error
    if command.launcher != "basic" and any(job.cfg.get("fail_fast") for job in jobs):
        raise ConfigError(
            f"fail_fast=true: hydra/launcher={command.launcher} starts jobs before others have "
            "ended; leave out one of the two"
        )
    check_jobs(command, jobs)
    if len(jobs) == 1:
        log.info("-m: one job, as nothing is swept; several values sweep a key: seed=0,1")
    sweep_dir = jobs[0].folder.parent.absolute()
    if command.sweep is not None:
        command.sweep.begin(jobs)
    # For Hydra, which composes each job again; `job_folder` gets the keys that are not swept.
    with flag_override(config.hydra, ["struct", "readonly"], False):
        config.hydra.sweep.dir = str(sweep_dir)
        place = f"hydra.sweep.dir={composing.quoted(sweep_dir)}"
        config.hydra.overrides.hydra += [*extra, place]
    command.jobs, command.outcome.folder = jobs, sweep_dir


def check_jobs(command: Command, jobs: list[Job]) -> None:
    """ConfigError, StorageError."""
    for folder, count in Counter(job.folder for job in jobs).items():
        if count > 1:
            raise ConfigError(f"-m: {count} jobs would share the folder {folder}")
        if folder.resolve() != Path.cwd():
            require_writable(folder)
    for job in jobs:
        command.check_job(job)


def job(command: Command, overrides: Sequence[str], folder: Path) -> Job:
    """Compose and check a run that another command starts in `folder`. ConfigError."""
    config = composing.composed(command.name, overrides)
    composed = _job(command, config, list(overrides), folder, number=0)
    command.check_job(composed)
    return composed


def _job(
    command: Command,
    config: DictConfig,
    overrides: list[str],
    folder: Path | None = None,
    *,
    number: int | None = None,
) -> Job:
    """`number`: of a job of a multirun; None for a single run. ConfigError."""
    if number is not None:
        overrides = overrides + (added := command.job_overrides(config))
        config.merge_with_dotlist(added)
        with flag_override(config.hydra, ["struct", "readonly"], False):
            config.hydra.job.num = number  # for `hydra.sweep.subdir`
    if any(folders.key_of(o) == "run_dir" for o in overrides) and OmegaConf.is_interpolation(
        compose(command.name), "run_dir"
    ):
        raise ConfigError("run_dir: is set by hydra.run.dir=PATH")
    # For `${hydra:...}`. Hydra 1.3 sets it only when a job starts
    # (github.com/hydra-ecosystem/hydra/issues/3427).
    HydraConfig.instance().set_config(config)
    hydra: Any = HydraConfig.get()
    with flag_override(hydra, ["struct", "readonly"], False):
        hydra.mode = RunMode.RUN if number is None else RunMode.MULTIRUN
        hydra.job.num = number or 0
        cfg = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        require_values(cfg)
        keys = ("run.dir",) if number is None else ("sweep.dir", "sweep.subdir")
        place = {f"hydra.{key}": OmegaConf.select(hydra, key) for key in keys}
        for key, value in place.items():
            if value == "":
                raise empty(key)
        folder = folder or Path(*place.values())
        hydra.runtime.output_dir = str(folder.absolute())
    cfg = command.final_config(cfg, overrides)
    OmegaConf.resolve(cfg)
    check(command.name, plain(cfg))
    return Job(cfg, overrides, folder, is_swept=number is not None)


def require_values(cfg: DictConfig) -> None:
    """ConfigError: a key has no value."""
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise ConfigError(f"{missing[0]}: a value is required: {missing[0]}=...")
