"""What runs left behind, as rows: from result.json and metrics.csv alone."""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

Row = dict[str, Any]

SWEEP, SEARCH = "sweep.json", "search.json"
RECORD, LOCK = "result.json", ".lock"


def rows(folders: Sequence[Path]) -> list[Row]:
    """A row for each run in each folder, which may be a run or a sweep.

    Its record, and `name`, `folder`, `curve` (epoch, validation accuracy). A job of a sweep that
    left no record is "not started"; what was typed for it (`overrides`) is None.
    """
    found = [_row(run) for folder in folders for run in runs(folder)]
    for parts in (2, 3, 4):
        counts = Counter(row["name"] for row in found)
        for row in found:
            if counts[row["name"]] > 1:  # such as of two sweeps
                row["name"] = "/".join(Path(row["folder"]).absolute().parts[-parts:])
    return found


def runs(folder: Path) -> list[Path]:
    """The runs in `folder`: itself, or the jobs of a sweep in the order of its commands."""
    if (folder / RECORD).is_file():
        return [folder]
    known = []
    sweep = _read(folder / SWEEP)
    if isinstance(sweep, dict) and isinstance(sweep.get("jobs"), list):
        known = [name for name in sweep["jobs"] if isinstance(name, str)]
    found = sorted(path.parent.name for path in folder.glob(f"*/{RECORD}"))
    return [folder / name for name in dict.fromkeys([*known, *found])]


def _row(run: Path) -> Row:
    row: Row = {"name": run.name, "folder": str(run), "status": "not started", "error": None}
    row |= {"overrides": None, "curve": _curve(run / "metrics.csv")}
    record = _read(run / RECORD)
    if record is None:
        return row
    if not isinstance(record, dict) or "status" not in record:
        return row | {"status": "failed", "error": f"{RECORD} cannot be read"}
    if record["status"] == "running" and not _is_locked(run):
        record |= {"status": "interrupted", "error": "its process was killed"}
    return row | record


def _is_locked(run: Path) -> bool:
    """Whether a process trains there; it is taken to where that cannot be found out."""
    if not (run / LOCK).is_file():  # as in a copy
        return False
    try:
        with FileLock(run / LOCK, blocking=False):
            return False
    except (OSError, Timeout):  # the former of a folder that is read-only
        return True


def _read(path: Path) -> Any:
    """None: there is no such file. "": it holds no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        return ""


def _curve(path: Path) -> list[tuple[int, float]]:
    """Empty where there is none that can be read."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            read = [(row.get("epoch"), row.get("val/accuracy")) for row in csv.DictReader(stream)]
        return [(int(epoch) + 1, float(value)) for epoch, value in read if epoch and value]
    except (OSError, ValueError, csv.Error):
        return []
