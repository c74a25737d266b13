"""sweep.json: the jobs of a sweep, the keys they differ by, and the config they share."""

import logging
from pathlib import Path
from typing import Any

from mnv2_lightning.cli.command import Job
from mnv2_lightning.runs.config import differences, plain, reproducibility_config
from mnv2_lightning.runs.folder import check_links
from mnv2_lightning.runs.record import SWEEP, read_dict
from mnv2_lightning.schema.errors import ConfigError
from mnv2_lightning.system import durable_files

log = logging.getLogger(__name__)


def begin(jobs: list[Job]) -> None:
    """Write sweep.json, with the jobs of earlier commands. StorageError.

    ConfigError: the folder holds a sweep over other keys or with another shared config, or a link
    leads out of it.
    """
    for key, what in (("sweep", "name"), ("fail_fast", "value")):
        if len({str(job.cfg[key]) for job in jobs}) > 1:
            raise ConfigError(f"{key}: one {what}, not several")
    folder = _folder(jobs)
    check_links(folder)
    path, now = folder / SWEEP, _describe(jobs)
    if (before := read_dict(path)).keys() >= now.keys():
        _check_same(folder, before, now)
        now["jobs"] = list(dict.fromkeys([*before["jobs"], *now["jobs"]]))
        now["base"] = {k: v for k, v in now["base"].items() if before["base"].get(k) == v}
    durable_files.write_json(path, now)


def _check_same(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    other = "; take another name"
    if before["keys"] != now["keys"]:
        keys = (" and ".join(x["keys"]) or "nothing" for x in (before, now))
        if set(before["keys"]) == set(now["keys"]):
            other = "; list them in that order, or take another name"
        elif set(now["keys"]) < set(before["keys"]):
            other = "; give two values or more of each, or take another name"
        raise ConfigError(f"{folder}: holds a sweep over {next(keys)}, not {next(keys)}{other}")
    for key, old, new in differences(before["base"], now["base"]):
        is_shared = key in before["base"] and key in now["base"]
        if is_shared or not _is_optional(key, now["keys"]):
            raise ConfigError(f"{folder}: holds a sweep with {key}={old}, not {new}{other}")


def _is_optional(key: str, swept: list[str]) -> bool:
    """Whether some jobs of a sweep may lack `key`: it belongs to a group that is swept."""
    return any(of in ("experiment", key) or key.startswith(f"{of}.") for of in swept)


def end(jobs: list[Job]) -> bool:
    """Write the report on the whole sweep, and return whether all of these jobs have finished."""
    from mnv2_lightning.reports import comparison, comparison_tables, leaderboard, tables, write

    folder = _folder(jobs)
    rows = write.report([folder], folder / "report")
    log.info("%s", tables.sweep(rows))
    if pairs := comparison.pairs_of_seeds(rows):
        what = leaderboard.metric(rows).replace("_", " ")
        log.info("differences in %s, with 95 %% intervals that hold together:", what)
    for pair in pairs:
        log.info("  %s", comparison_tables.sentence(pair))
    log.info("report: %s", folder / "report" / "report.html")
    mine = {job.folder.name for job in jobs}
    return all(row["status"] == "finished" for row in rows if row["name"] in mine)


def _folder(jobs: list[Job]) -> Path:
    return jobs[0].folder.parent


def _describe(jobs: list[Job]) -> dict[str, Any]:
    """The swept keys, the names of the jobs' folders, and the config that the jobs share."""
    overrides = [dict(o.partition("=")[::2] for o in job.overrides) for job in jobs]
    first = overrides[0]
    configs = [reproducibility_config(plain(job.cfg)) for job in jobs]
    return {
        "keys": [key for key in first if any(other[key] != first[key] for other in overrides)],
        "jobs": [job.folder.name for job in jobs],
        "base": {
            key: value
            for key, value in configs[0].items()
            if all(key in c and c[key] == value for c in configs)
        },
    }
