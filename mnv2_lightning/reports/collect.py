"""Rows for reports, read from result.json and metrics.csv of each run."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mnv2_lightning.runs.record import LOCK, RECORD, SWEEP, read_dict, read_record

Row = dict[str, Any]


def rows(folders: Sequence[Path]) -> list[Row]:
    """A row for each run in `folders`, each of which is a run or a sweep.

    A row is the run's record with `name`, `folder` and `curve`, (epoch, validation accuracy) pairs.
    A job of a sweep without a record has the status "not started" and `overrides` None.
    """
    found = [_row(run) for folder in folders for run in runs(folder)]
    for parts in (2, 3, 4):  # runs of several sweeps may have the same name
        counts = Counter(row["name"] for row in found)
        for row in found:
            if counts[row["name"]] > 1:
                row["name"] = "/".join(Path(row["folder"]).absolute().parts[-parts:])
    return found


def runs(folder: Path) -> list[Path]:
    """The folder itself if it is a run, or else the jobs of a sweep in the order of their start."""
    if (folder / RECORD).is_file():
        return [folder]
    jobs = read_dict(folder / SWEEP).get("jobs")
    known = [name for name in jobs if isinstance(name, str)] if isinstance(jobs, list) else []
    found = sorted(path.parent.name for path in folder.glob(f"*/{RECORD}"))
    return [folder / name for name in dict.fromkeys([*known, *found])]


def _row(run: Path) -> Row:
    row: Row = {"name": run.name, "folder": str(run), "status": "not started", "error": None}
    row |= {"overrides": None, "curve": _curve(run / "metrics.csv")}
    if not (run / RECORD).is_file():
        return row
    record = read_record(run)
    if "status" not in record:
        return row | {"status": "failed", "error": f"{RECORD} cannot be read"}
    if record["status"] == "running" and not _is_locked(run):
        record |= {"status": "interrupted", "error": "its process was killed"}
    return row | record


def _is_locked(run: Path) -> bool:
    """Whether a process trains in the folder; True if that cannot be determined."""
    if not (run / LOCK).is_file():  # a copy of a folder has none
        return False
    try:
        with FileLock(run / LOCK, blocking=False):
            return False
    except (OSError, Timeout):  # OSError: the folder is read-only
        return True


def _curve(path: Path) -> list[tuple[int, float]]:
    """(epoch, validation accuracy) pairs; empty if the file cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            read = [(row.get("epoch"), row.get("val/accuracy")) for row in csv.DictReader(stream)]
        return [(int(epoch) + 1, float(value)) for epoch, value in read if epoch and value]
    except (OSError, ValueError, csv.Error):
        return []
