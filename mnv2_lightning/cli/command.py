"""What the verbs' command lines share: checks of all jobs before any work, how they run and end."""

import argparse
import logging
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import hydra
from hydra import compose
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from mnv2_lightning.cli import composing
from mnv2_lightning.cli.report_error import INTERRUPTIONS, told
from mnv2_lightning.runs.config import flatten, plain
from mnv2_lightning.schema.check import check
from mnv2_lightning.schema.errors import ConfigError
from mnv2_lightning.system import ranks, signals, supervisor
from mnv2_lightning.system.durable_files import require_writable

Verb = Callable[[DictConfig], dict[str, Any]]


@dataclass(frozen=True)
class Job:
    """What is about to run: its config, the overrides typed, where it will go."""

    cfg: DictConfig
    overrides: list[str]
    folder: Path
    is_swept: bool
    choices: dict[str, str]  # the file taken from each folder of `conf/`
    is_here: bool  # whether it runs in this process
    following: dict[str, str]  # by key: the `${...}` that took its value from others


class Sweep(Protocol):
    """What a multirun does besides its jobs."""

    def check(self, jobs: list[Job]) -> None:
        """After each job was checked and before the first folder is made. ConfigError."""

    def begin(self, jobs: list[Job]) -> None:
        """Before the first job. StorageError."""

    def end(self, jobs: list[Job]) -> bool:
        """After the last job: whether all came to their end."""


class Command:
    """`python -m mnv2_lightning.NAME key=value ...`, with `conf/NAME.yaml` below.

    `function` does the work. `check_job` sees each job before the first one starts and before a
    folder is made; what it raises ends the command. `final_config` turns the config that was
    composed from the overrides typed into the one that `function` gets. `sweep`: for `-m`.
    """

    def __init__(
        self,
        name: str,
        function: Verb,
        *,
        check_job: Callable[[Job], None] | None = None,
        final_config: Callable[[DictConfig, list[str]], DictConfig] | None = None,
        sweep: Sweep | None = None,
    ) -> None:
        self.name, self.function, self.check_job = name, function, check_job
        self.sweep = sweep
        self.final_config = final_config or (lambda cfg, overrides: cfg)
        self.statuses: list[int] = []
        self.process = os.getpid()
        self.config_dir: str | None = None  # the user's own, beside `conf/`

    def __reduce__(self) -> tuple[Callable[..., "Command"], tuple[Any, ...]]:
        """By its name: a worker gets that of the verb's module, told whose jobs it runs."""
        return _of, (self.name, self.process, self.config_dir)

    def run(self) -> None:
        """Ends the process: 0, or the status of what went wrong (`schema/errors.py`; 1: other)."""
        self.statuses = []
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors are told here, not by Hydra
        # Warns with a C++ stack when another process has ended; torch is not loaded yet.
        if ranks.rank() or ranks.is_launched():
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        args = get_args_parser().parse_args()
        self.config_dir = args.config_dir and str(Path(args.config_dir).resolve())
        main = hydra.main(
            version_base="1.3", config_path=str(composing.config_dir()), config_name=self.name
        )(self._job)
        if args.help or args.hydra_help or args.cfg or args.info or args.shell_completion:
            with told(False) as ended:
                if args.cfg:
                    with composing.composing():
                        composing.composed(self.name, args, args.overrides)
                main()
            sys.exit(ended.status)
        shows = "traceback=true" in args.overrides
        jobs: list[Job] = []
        with told(shows) as ended:
            if args.multirun:
                more = [composing.fixed(args.overrides)]
                folder = supervisor.sweep()  # that a sweep without a name goes on in
                more += [] if folder is None else [f"hydra.sweep.dir={composing.quoted(folder)}"]
                sys.argv += more
                args.overrides += more
            jobs = self.check_all(args)
            if args.multirun and self.sweep is not None:
                self.sweep.begin(jobs)
            if args.multirun:  # the same one for all processes that a launcher starts
                sys.argv.append(
                    f"hydra.sweep.dir={composing.quoted(jobs[0].folder.parent.absolute())}"
                )
            self._launch(main, jobs)
        failed = [ended.status, *self.statuses]
        status = max(failed) if len(self.statuses) < 2 else int(any(failed))
        # Where Python unloads torch in a rank, gloo may abort (pull request 179291 of pytorch).
        is_rank = ranks.is_started() or ranks.are_several()
        if (status or is_rank) and all(job.is_here for job in jobs):
            signals.leave(status)
        sys.exit(status)  # a launcher has processes to put away

    def _launch(self, main: Callable[[], Any], jobs: list[Job]) -> None:
        """All jobs, and what a sweep does after them."""
        sweep = self.sweep if jobs[0].is_swept else None
        try:
            main()
        except Exception:  # such as of a launcher whose worker was killed
            if sweep is not None and not jobs[0].is_here:
                sweep.end(jobs)
            raise
        if sweep is not None:
            self.statuses = [0 if sweep.end(jobs) else 1]

    def is_elsewhere(self) -> bool:
        """Whether this is a process that a launcher started for jobs."""
        return self.process != os.getpid()

    def _job(self, cfg: DictConfig) -> None:
        """A single run, or one of a multirun; a failed one does not end the others."""
        output_dir = Path(HydraConfig.get().runtime.output_dir)
        folder = output_dir if output_dir != Path.cwd() else None
        if supervisor.was_killed(folder):
            self.statuses.append(1)
            return
        if ranks.rank():
            logging.getLogger("mnv2_lightning").setLevel(logging.ERROR)
        with (
            supervisor.running(folder),
            signals.raising(folder, follows_parent=self.is_elsewhere()),
            told(cfg.traceback, folder) as ended,
        ):
            overrides = list(HydraConfig.get().overrides.task)
            self.function(self.final_config(cfg, overrides))
        self.statuses.append(ended.status)
        if ended.status in INTERRUPTIONS:
            signals.leave(ended.status, at_once=self.is_elsewhere())  # ends a multirun too

    def check_all(self, args: argparse.Namespace) -> list[Job]:
        """Compose every job's config as Hydra will, and check them all. ConfigError."""
        with composing.composing():
            jobs = [self._check(args, *job) for job in enumerate(composing.jobs(args))]
        for folder, count in Counter(job.folder for job in jobs).items():
            if count > 1:
                raise ConfigError(f"-m: {count} jobs would share the folder {folder}")
            if folder.resolve() != Path.cwd():  # a verb that writes nothing
                require_writable(folder)
        if self.check_job is not None:
            for job in jobs:
                self.check_job(job)
        if self.sweep is not None and args.multirun:
            self.sweep.check(jobs)
        return jobs

    def _check(
        self,
        args: argparse.Namespace,
        number: int,
        overrides: list[str],
        folder: Path | None = None,
    ) -> Job:
        composed = composing.composed(self.name, args, overrides)
        launcher = composed.hydra.runtime.choices["hydra/launcher"]
        choices = {
            group: choice
            for group, choice in composed.hydra.runtime.choices.items()
            if not group.startswith("hydra/")
        }
        if any(override.startswith("run_dir=") for override in overrides):
            self._check_run_dir()
        with open_dict(composed):
            composed.hydra.runtime.output_dir = "."
            composed.hydra.mode = RunMode.MULTIRUN if args.multirun else RunMode.RUN
            composed.hydra.job.num = number
        HydraConfig.instance().set_config(composed)  # for ${hydra:...}
        own = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        if missing := sorted(OmegaConf.missing_keys(own)):
            raise ConfigError(f"{missing[0]}: a value is required: {missing[0]}=...")
        run, sweep = composed.hydra.run, composed.hydra.sweep
        if folder is None:
            folder = Path(sweep.dir) / sweep.subdir if args.multirun else Path(run.dir)
        OmegaConf.set_readonly(composed.hydra, False)  # set_config makes it so
        composed.hydra.runtime.output_dir = str(folder.absolute())
        HydraConfig.instance().set_config(composed)
        with open_dict(composed):
            del composed["hydra"]
        written: Any = OmegaConf.to_container(composed)
        following = {k: str(v) for k, v in flatten(written).items() if "${" in str(v)}
        cfg = self.final_config(composed, overrides)
        OmegaConf.resolve(cfg)
        HydraConfig.instance().cfg = None
        check(self.name, plain(cfg))
        is_here = not args.multirun or launcher == "basic"
        if not is_here and self.sweep is None:
            raise ConfigError(f"hydra/launcher={launcher}: is for sweeps of train")
        if launcher == "submitit_slurm" and shutil.which("srun") is None:
            raise ConfigError(
                f"hydra/launcher={launcher}: this machine has no srun; type it where SLURM is, or "
                "take hydra/launcher=submitit_local"
            )
        return Job(cfg, overrides, folder, args.multirun, choices, is_here, following)

    def job(self, overrides: list[str], folder: Path, config_dir: str | None) -> Job:
        """One of several that another verb runs, composed and checked as if it were a sweep's.

        `config_dir`: the user's own, beside `conf/`. ConfigError.
        """
        args = argparse.Namespace(multirun=True, config_name=None, config_dir=config_dir)
        running, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
        GlobalHydra.instance().clear()
        try:
            with composing.composing():
                job = self._check(args, 0, overrides, folder)
        finally:
            GlobalHydra.instance().hydra, HydraConfig.instance().cfg = running, config
        if self.check_job is not None:
            self.check_job(job)
        return job

    def _check_run_dir(self) -> None:
        """ConfigError where the verb makes a folder of its own, which is Hydra's to move."""
        if OmegaConf.is_interpolation(compose(self.name), "run_dir"):
            raise ConfigError("run_dir: is set by hydra.run.dir=PATH")


def _of(name: str, process: int, config_dir: str | None) -> Command:
    command: Command = import_module(f"mnv2_lightning.{name}").COMMAND
    command.process, command.config_dir = process, config_dir
    return command
