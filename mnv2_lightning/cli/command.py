"""A command: Hydra composes its config, all jobs are checked before any work, a function runs."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from mnv2_lightning.cli import answers, arguments, conf_files
from mnv2_lightning.cli.report_error import Outcome, Reported, is_waited_for, report_error
from mnv2_lightning.runs.record import record_death
from mnv2_lightning.schema.errors import ConfigError
from mnv2_lightning.system import processes, ranks, signals

if TYPE_CHECKING:
    from omegaconf import DictConfig


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

    def __reduce__(self) -> tuple[Callable[[str], Command], tuple[str]]:
        """Pickle by name: a worker of a launcher imports the command's module."""
        return _in_worker, (self.name,)

    def main(self) -> NoReturn:
        """The entry point: ends the process with the status of `run`."""
        signals.install(is_silent=is_waited_for())
        logging.raiseExceptions = False  # it prints a traceback where the terminal has closed
        command = named(self.name)
        signals.exit_command(command.run(), fast=command.launcher == "basic")

    def run(self) -> int:
        """Run as `sys.argv` says; return 0 or the status of an error in `schema/errors.py`."""
        self.jobs, self.launcher, self.status, self.is_checked = [], "basic", 0, False
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises its errors
        if ranks.rank() or ranks.is_launched():  # gloo prints a stack where another rank has ended
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        with report_error() as outcome:
            self.outcome = outcome
            try:
                parsed = arguments.parse(self.name, sys.argv[1:])
                if (status := answers.answer(self.name, parsed)) is not None:
                    return status
                # Hydra parses sys.argv itself, and there is no other way to give it arguments. It
                # refuses overrides on both sides of an option.
                sys.argv[1:] = [*parsed.overrides, *parsed.options]
                self._run_hydra()
                if not self.status:  # a library may have dropped the error of a signal
                    signals.raise_again()
            except BrokenPipeError:
                if self.is_checked:
                    raise
                return answers.SIGPIPE  # the reader of what is shown, such as head, has ended
            except SystemExit as error:  # Hydra's, or a check's
                if not isinstance(error, Reported) and signals.interruption(error) is not None:
                    raise
                return int(error.code or 0)
            finally:
                self.is_checked = False
        return outcome.status or self.status

    def _run_hydra(self) -> None:
        from mnv2_lightning.cli import composing
        from mnv2_lightning.system import hydra_compat

        config_dir = str(conf_files.config_dir())
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
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        from mnv2_lightning.cli import composing

        hydra = HydraConfig.get()
        folder = Path(hydra.runtime.output_dir)
        run_dir = folder if folder != Path.cwd() else None  # a command that writes nothing
        overrides = composing.unresolved(hydra.overrides.task)
        if hydra.mode == RunMode.MULTIRUN:
            overrides += self.job_overrides(cfg)
            typed = composing.command_line(hydra, self.name, overrides, folder)
            status = processes.run_command(f"mnv2_lightning.{self.name}", typed)
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


def _in_worker(name: str) -> Command:
    """Of a launcher, which needs the resolvers of `conf/`."""
    import mnv2_lightning.cli.composing  # noqa: F401

    return named(name)


def announce_imports(names: str = "torch and lightning", stream: TextIO | None = None) -> None:
    """Print what takes the next seconds, before a command imports torch for the first time.

    `stream`: standard output by default.
    """
    if "torch" not in sys.modules and not is_waited_for():
        print(f"importing {names} ...", file=stream, flush=True)


def named(name: str) -> Command:
    """The command of that name, as its module has it where it is not run as `__main__`."""
    return import_module(f"mnv2_lightning.{name}").COMMAND
