"""Tables, figures and a page on runs: `python -m mnv2_lightning.report run_dir=PATH`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2_lightning.cli.command import Command, Job
from mnv2_lightning.schema.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)


def report(cfg: DictConfig) -> dict[str, Any]:
    """Write what `reports.write` does for a run, a sweep, or several of both."""
    from mnv2_lightning.cli import from_python
    from mnv2_lightning.reports import collect, tables, write

    cfg = from_python.checked(COMMAND, cfg)
    folders = folders_of(cfg)
    rows = write.report(folders, Path(cfg.out))
    log.info("%s", tables.run(rows[0]) if collect.is_run(folders) else tables.sweep(rows))
    log.info("written: %s", Path(cfg.out) / "report.html")
    return {"rows": rows}


def check_job(job: Job) -> None:
    """ConfigError where there is nothing to report on."""
    check_folders(job.cfg)


def check_folders(cfg: DictConfig) -> None:
    """ConfigError: `run_dir` and `runs` name no folders of runs."""
    from mnv2_lightning.reports import collect
    from mnv2_lightning.runs.folder import check_links
    from mnv2_lightning.runs.record import RECORD

    if cfg.run_dir is None and cfg.runs is None:
        raise ConfigError("run_dir: the folder of a run or a sweep is needed, or runs=[A,B]")
    if cfg.run_dir is not None and cfg.runs is not None:
        raise ConfigError("runs: takes all folders; leave run_dir out")
    for folder in folders_of(cfg):
        if not folder.is_dir():
            raise ConfigError(f"{folder}: there is no such folder")
        if not collect.runs(folder):
            raise ConfigError(f"{folder}: holds no run (no {RECORD} in it or its folders)")
    if cfg.run_dir is not None:  # into which the report is written
        check_links(Path(cfg.run_dir))


def folders_of(cfg: DictConfig) -> list[Path]:
    return [Path(folder) for folder in cfg.runs or [cfg.run_dir]]


COMMAND = Command("report", report, check_job=check_job)
main = COMMAND.main

if __name__ == "__main__":
    main()
