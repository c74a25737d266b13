"""Measure this machine's speed: `python -m mnv2_lightning.benchmark`."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2_lightning.benchmarks.parts import PARTS
from mnv2_lightning.cli.command import Command, Job
from mnv2_lightning.runs import folder
from mnv2_lightning.schema.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)


def benchmark(cfg: DictConfig) -> dict[str, Any]:
    """Measure the tutorial's code and this package in turns, each in a new process.

    Writes a JSON record and tables into `cfg.run_dir` after each part. DataError.
    """
    from mnv2_lightning.cli import from_python
    from mnv2_lightning.data import idx_files as data_files
    from mnv2_lightning.reports import benchmark_tables as report
    from mnv2_lightning.runs.environment import environment
    from mnv2_lightning.system import durable_files, warning_filters

    cfg = from_python.checked(COMMAND, cfg)
    warning_filters.install()
    data_files.load("mnist", cfg.data.dir)  # before any clock starts
    if cfg.smoke:
        cfg.pairs = 1
        os.environ["OMP_NUM_THREADS"] = "1"  # as several parts run at once
    out = Path(cfg.run_dir)
    parts: dict[str, Any] = {}
    result = {"smoke": cfg.smoke, "pairs": cfg.pairs, **environment(), "parts": parts}

    def run(part: str) -> Iterator[Any]:
        log.info("%s", part)
        yield from PARTS[part](cfg)

    with ThreadPoolExecutor(4) as pool:  # a smoke run's times mean nothing: its parts go together
        done = pool.map(list, map(run, cfg.parts)) if cfg.smoke else map(run, cfg.parts)
        for part, growing in zip(cfg.parts, done, strict=True):
            for found in growing:
                parts[part] = found
                durable_files.write_json(out / "benchmark.json", result)
                durable_files.write_text(out / "benchmark.md", report.markdown(result))
    if "growth" in parts:
        report.draw_growth(parts["growth"], parts.get("limits")).savefig(out / "growth.png")
    log.info("%s", report.markdown(result))
    log.info("written: %s", out / "benchmark.md")
    return result


def check_job(job: Job) -> None:
    """Check each recipe as `train` does. ConfigError."""
    from mnv2_lightning.data import idx_files

    idx_files.require_folder(job.cfg.data.dir)
    if job.cfg.trained is not None:
        folder.require_checkpoint("trained", folder.require_run("trained", job.cfg.trained), None)
    if "time_to_accuracy" not in job.cfg.parts:
        return
    from mnv2_lightning.cli import checks
    from mnv2_lightning.train import COMMAND as TRAIN

    for recipe in job.cfg.recipes:
        try:
            checks.job(TRAIN, shlex.split(recipe), Path(job.cfg.run_dir) / "recipe")
        except ConfigError as error:
            raise ConfigError(f"recipes: {error}") from error


COMMAND = Command("benchmark", benchmark, check_job=check_job)
main = COMMAND.main

if __name__ == "__main__":
    main()
