"""What runs left behind, as rows: from result.json and metrics.csv alone."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

SWEEP, SEARCH = "sweep.json", "search.json"
RECORD = "result.json"


def rows(folders: Sequence[Path]) -> list[Row]:
    """A row for each run in each folder, which may be a run or a sweep.

    Its record, and `name`, `folder`, `curve` (epoch, validation accuracy). A job of a sweep that
    left no record is "not started"; what was typed for it (`overrides`) is None.
    """
    return [_row(run) for folder in folders for run in runs(folder)]


def runs(folder: Path) -> list[Path]:
    """The runs in `folder`: itself, or the jobs of a sweep in the order of its commands."""
    if (folder / RECORD).is_file():
        return [folder]
    known = []
    if (folder / SWEEP).is_file():
        known = json.loads((folder / SWEEP).read_text(encoding="utf-8"))["jobs"]
    found = sorted(path.parent.name for path in folder.glob(f"*/{RECORD}"))
    return [folder / name for name in dict.fromkeys([*known, *found])]


def _row(run: Path) -> Row:
    row: Row = {"name": run.name, "folder": str(run), "status": "not started", "error": None}
    row |= {"overrides": None, "curve": _curve(run / "metrics.csv")}
    try:
        record = json.loads((run / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return row
    except ValueError:
        return row | {"status": "failed", "error": f"{RECORD} cannot be read"}
    return row | record


def _curve(path: Path) -> list[tuple[int, float]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        read = [(row.get("epoch"), row.get("val/accuracy")) for row in csv.DictReader(stream)]
    return [(int(epoch) + 1, float(value)) for epoch, value in read if epoch and value]
