"""Compare arms of an experiment by seed: `python -m mnv2_lightning.compare run_dir=SWEEP`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2_lightning.cli.command import Command, Job
from mnv2_lightning.report import check_folders, folders_of
from mnv2_lightning.schema.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

CORRUPTED = "corrupted_accuracy"


def compare(cfg: DictConfig) -> dict[str, Any]:
    """Whether arms, the runs that differ in their seed only, differ in accuracy.

    For each pair of arms: the mean difference by seed with its confidence interval and p-value, the
    images that one of them gets wrong, and a verdict. Writes comparison.json, comparison.md and
    comparison.png into `cfg.out`; for corrupted images, comparison-corrupted.*. ConfigError: the
    runs differ in more than `cfg.by` and the seed, or there is no pair.
    """
    from mnv2_lightning.cli import from_python
    from mnv2_lightning.reports import (
        collect,
        comparison,
        comparison_tables,
        leaderboard,
        sections,
        sweep_figures,
        tables,
    )
    from mnv2_lightning.system import durable_files

    cfg = from_python.checked(COMMAND, cfg)
    rows = collect.rows(folders_of(cfg))
    comparison.require_alike(rows, cfg.by)
    metric = cfg.metric or leaderboard.metric(rows)
    if metric == CORRUPTED:
        _require_measured(rows)
    found = comparison.pairs(rows, metric)
    if not found:
        raise ConfigError(f"{folders_of(cfg)[0]}: no two arms with a seed in common and {metric}")
    shown = [
        comparison_tables.arms_section(found, metric),
        comparison_tables.comparison_section(found),
    ]
    result = comparison_tables.as_dict(found, metric)
    if effects := comparison.effects(rows, metric):
        shown.append(comparison_tables.effects_section(effects))
        result["effects"] = [{"text": e.text, **vars(e.difference)} for e in effects]
    out, name = Path(cfg.out), "comparison" + "-corrupted" * (metric == CORRUPTED)
    durable_files.make_folder(out)
    durable_files.write_json(out / f"{name}.json", result)
    markdown = "\n\n".join(map(sections.markdown_section, shown))
    method = comparison_tables.method(found)
    durable_files.write_text(out / f"{name}.md", f"{markdown}\n\n{method}\n")
    sweep_figures.draw_differences(found).savefig(out / f"{name}.png")
    log.info("%s", tables.comparison(shown))
    log.info("%s", method)
    log.info("written: %s, %s.json, %s.png", out / f"{name}.md", name, name)
    return result


def _require_measured(rows: list[dict[str, Any]]) -> None:
    """ConfigError: `evaluate` has not measured the accuracy on corrupted images of all runs."""
    from mnv2_lightning.reports import leaderboard

    missing = [row["name"] for row in leaderboard.finished(rows) if row[CORRUPTED] is None]
    if missing:
        raise ConfigError(
            f"metric={CORRUPTED}: not measured of {', '.join(missing[:3])}"
            + (f" and {len(missing) - 3} others" if len(missing) > 3 else "")
            + "; run python -m mnv2_lightning.evaluate run_dir=... corruptions=all"
        )


def check_job(job: Job) -> None:
    """ConfigError where there is nothing to compare."""
    check_folders(job.cfg)


COMMAND = Command("compare", compare, check_job=check_job)
main = COMMAND.main

if __name__ == "__main__":
    main()
