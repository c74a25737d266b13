"""A command: Hydra composes its config, all jobs are checked before any work, a function runs."""

import logging
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, flag_override

from mnv2_lightning.cli import composing
from mnv2_lightning.cli.report_error import Outcome, Reported, is_waited_for, report_error
from mnv2_lightning.runs import folder as folders
from mnv2_lightning.runs.config import plain
from mnv2_lightning.runs.record import record_death
from mnv2_lightning.schema.check import check
from mnv2_lightning.schema.errors import ConfigError, empty
from mnv2_lightning.system import hydra_compat, processes, ranks, signals
from mnv2_lightning.system.durable_files import require_writable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A single run or a job of a multirun: its config, its overrides, its output folder."""

    cfg: DictConfig
    overrides: list[str]
    folder: Path
    is_swept: bool


class Command:
    """`python -m mnv2_lightning.NAME key=value ...`, with `conf/NAME.yaml` and what it includes.

    `check_job` is called for each job before any folder is made. `final_config` maps the composed
    config and the overrides to the config that `function` gets. Each job of a multirun is this
    command in its own process, with `job_overrides` added. `sweep`: for multiruns, a module with
    `begin(jobs)` and `end(jobs) -> bool`, such as `sweeps.manifest`.
    """

    def __init__(
        self,
        name: str,
        function: Callable[[DictConfig], dict[str, Any]],
        *,
        check_job: Callable[[Job], None] = lambda job: None,
        final_config: Callable[[DictConfig, list[str]], DictConfig] = lambda cfg, overrides: cfg,
        job_overrides: Callable[[DictConfig], list[str]] = lambda cfg: [],
        sweep: ModuleType | None = None,
    ) -> None:
        self.name, self.function = name, function
        self.check_job, self.final_config, self.sweep = check_job, final_config, sweep
        self.job_overrides = job_overrides
        self.jobs: list[Job] = []  # of a multirun
        self.launcher, self.outcome, self.status = "basic", Outcome(None), 0
        self.is_checked = False  # by `check_run`, of the running command

    def __reduce__(self) -> tuple[Callable[[str], "Command"], tuple[str]]:
        """Pickle by name: a worker of a launcher imports the command's module."""
        return _named, (self.name,)

    def main(self) -> NoReturn:
        """The entry point: ends the process with the status of `run`."""
        signals.install(is_silent=is_waited_for())
        command = _named(self.name)
        signals.exit_command(command.run(), fast=command.launcher == "basic")

    def run(self) -> int:
        """Run as `sys.argv` says; return 0 or the status of an error in `schema/errors.py`."""
        self.jobs, self.launcher, self.status, self.is_checked = [], "basic", 0, False
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises its errors
        if ranks.rank() or ranks.is_launched():  # gloo prints a stack where another rank has ended
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        typed = [composing.without_null(argument) for argument in sys.argv[1:]]
        # Hydra parses sys.argv itself, and there is no other way to give it arguments.
        sys.argv[1:] = hydra_compat.overrides_first(typed)
        with report_error() as outcome:
            self.outcome = outcome
            try:
                self._run_hydra()
                if not self.status:  # a library may have dropped the error of a signal
                    signals.raise_again()
            except SystemExit as error:  # Hydra's, or a check's
                if not isinstance(error, Reported) and signals.interruption(error) is not None:
                    raise
                return int(error.code or 0)
            finally:
                self.is_checked = False
        return outcome.status or self.status

    def _run_hydra(self) -> None:
        config_dir = str(composing.config_dir())
        try:
            hydra_compat.main(config_dir, self.name)(self)()
        except (*composing.ERRORS, ValueError) as error:
            if self.is_checked and not isinstance(error, composing.ERRORS):  # of a launcher
                raise
            with hydra_compat.initialize(config_dir):
                raise ConfigError(composing.explain(error, self.name)) from error
        finally:
            # Also after an error, such as of a launcher whose worker was killed.
            if self.sweep is not None and self.jobs and signals.interruption() is None:
                self.status = 0 if self.sweep.end(self.jobs) else 1

    def __call__(self, cfg: DictConfig) -> None:
        """Hydra's task function: a single run, or one job of a multirun."""
        hydra = HydraConfig.get()
        folder = Path(hydra.runtime.output_dir)
        run_dir = folder if folder != Path.cwd() else None  # a command that writes nothing
        overrides = composing.unresolved(hydra.overrides.task)
        if hydra.mode == RunMode.MULTIRUN:
            overrides += self.job_overrides(cfg)
            arguments = composing.arguments(hydra, self.name, overrides, folder)
            status = processes.run_command(f"mnv2_lightning.{self.name}", arguments)
            if run_dir is not None and (error := record_death(run_dir, status)) is not None:
                print(f"error: {run_dir}: {error}", file=sys.stderr, flush=True)
            self.status = self.status or int(status != 0)
            if status != 0 and cfg.get("fail_fast"):
                raise Reported(1)  # by the job's own process
            return
        if ranks.rank():
            logging.getLogger("mnv2_lightning").setLevel(logging.ERROR)
        with report_error(cfg.traceback, run_dir) as outcome:
            if not self.is_checked:
                raise ConfigError("hydra.callbacks.checks: cannot be left out")
            self.function(self.final_config(cfg, overrides))
        self.status = outcome.status

    def check_run(self, config: DictConfig) -> None:
        """Check the composed `config`, which includes Hydra's part. ConfigError, StorageError."""
        self.check_jobs([self._job(config, composing.unresolved(config.hydra.overrides.task))])

    def check_multirun(self, config: DictConfig) -> None:
        """Compose and check each job of a multirun. ConfigError, StorageError."""
        self.launcher = config.hydra.runtime.choices["hydra/launcher"]
        if self.launcher != "basic" and self.sweep is None:
            raise ConfigError(f"hydra/launcher={self.launcher}: is for sweeps of train")
        if self.launcher == "submitit_slurm" and shutil.which("srun") is None:
            raise ConfigError("hydra/launcher=submitit_slurm: no srun here; use submitit_local")
        if self.launcher == "basic":
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
                jobs.append(self._job(composed, overrides, number=number))
            except ConfigError as error:
                job = folders.job_folder(overrides, shared)
                raise ConfigError(f"{error} (job {job})") from error
        if self.launcher != "basic" and any(job.cfg.get("fail_fast") for job in jobs):
            raise ConfigError(
                f"fail_fast=true: hydra/launcher={self.launcher} starts jobs before others have "
                "ended; leave out one of the two"
            )
        self.check_jobs(jobs)
        if len(jobs) == 1:
            log.info("-m: one job, as nothing is swept; several values sweep a key: seed=0,1")
        sweep_dir = jobs[0].folder.parent.absolute()
        if self.sweep is not None:
            self.sweep.begin(jobs)
        # For Hydra, which composes each job again; `job_folder` gets the keys that are not swept.
        with flag_override(config.hydra, ["struct", "readonly"], False):
            config.hydra.sweep.dir = str(sweep_dir)
            place = f"hydra.sweep.dir={composing.quoted(sweep_dir)}"
            config.hydra.overrides.hydra += [*extra, place]
        self.jobs, self.outcome.folder = jobs, sweep_dir

    def check_jobs(self, jobs: list[Job]) -> None:
        """ConfigError, StorageError."""
        for folder, count in Counter(job.folder for job in jobs).items():
            if count > 1:
                raise ConfigError(f"-m: {count} jobs would share the folder {folder}")
            if folder.resolve() != Path.cwd():
                require_writable(folder)
        for job in jobs:
            self.check_job(job)

    def job(self, overrides: Sequence[str], folder: Path) -> Job:
        """Compose and check a run that another command starts in `folder`. ConfigError."""
        job = self._job(composing.composed(self.name, overrides), list(overrides), folder, number=0)
        self.check_job(job)
        return job

    def _job(
        self,
        config: DictConfig,
        overrides: list[str],
        folder: Path | None = None,
        *,
        number: int | None = None,
    ) -> Job:
        """`number`: of a job of a multirun; None for a single run. ConfigError."""
        if number is not None:
            overrides = overrides + (added := self.job_overrides(config))
            config.merge_with_dotlist(added)
            with flag_override(config.hydra, ["struct", "readonly"], False):
                config.hydra.job.num = number  # for `hydra.sweep.subdir`
        if any(folders.key_of(o) == "run_dir" for o in overrides) and OmegaConf.is_interpolation(
            compose(self.name), "run_dir"
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
        cfg = self.final_config(cfg, overrides)
        OmegaConf.resolve(cfg)
        check(self.name, plain(cfg))
        return Job(cfg, overrides, folder, is_swept=number is not None)


def announce_imports() -> None:
    """Print what takes the next seconds, before a command imports torch for the first time."""
    if "torch" not in sys.modules and not is_waited_for():
        print("importing torch and lightning ...", flush=True)


def require_values(cfg: DictConfig) -> None:
    """ConfigError: a key has no value."""
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise ConfigError(f"{missing[0]}: a value is required: {missing[0]}=...")


class Checks(Callback):
    """Hydra's callback that checks all jobs of a command; in `hydra.callbacks` of its config."""

    def __init__(self, command: str) -> None:
        self.command = _named(command)

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._call(self.command.check_run, config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._call(self.command.check_multirun, config)

    def _call(self, check: Callable[[DictConfig], None], config: DictConfig) -> None:
        """Only SystemExit ends the command; Hydra turns other exceptions into warnings."""
        with report_error() as outcome, composing.as_config_errors():
            check(config)
        if outcome.status:
            raise Reported(outcome.status)
        self.command.is_checked = True
        signals.raise_errors()


def _named(name: str) -> Command:
    """The command of that name, as its module has it where it is not run as `__main__`."""
    return import_module(f"mnv2_lightning.{name}").COMMAND
