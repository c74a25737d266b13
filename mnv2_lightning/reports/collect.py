"""Rows for reports, read from the files of each run."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mnv2_lightning.runs.record import EMPTY, LOCK, RECORD, SWEEP, read_dict, read_record

Row = dict[str, Any]
Curve = list[tuple[int, int, float]]  # step, epoch (both from 0), value
CURVES = ("train/loss", "val/loss", "train/accuracy", "val/accuracy")
NUMBERS = (
    "val_accuracy",
    "test_accuracy",
    "test_loss",
    "train_seconds",
    "images_per_second",
    "parameters",
    "multiply_adds",
    "epochs",
    "peak_rss_bytes",
)
DICTS = ("overrides", "versions", "hardware")


def rows(folders: Sequence[Path]) -> list[Row]:
    """A row for each run in `folders`, each of which is a run or a sweep.

    A row is the run's record with `name`, `folder`, `curves`, a Curve for each of CURVES that was
    logged, and `corrupted_accuracy`, None unless `evaluate` has measured it. A job of a sweep
    without a record has the status "not started" and `overrides` None.
    """
    found = [_row(run) for folder in folders for run in runs(folder)]
    for parts in (2, 3, 4):  # runs of several sweeps may have the same name
        counts = Counter(row["name"] for row in found)
        for row in found:
            if counts[row["name"]] > 1:
                row["name"] = "/".join(Path(row["folder"]).absolute().parts[-parts:])
    return found


def is_run(folders: Sequence[Path]) -> bool:
    """Whether `folders` is one run, not a sweep or several folders."""
    return len(folders) == 1 and (folders[0] / RECORD).is_file()


def runs(folder: Path) -> list[Path]:
    """The folder itself if it is a run, or else the jobs of a sweep in the order of their start."""
    if is_run([folder]):
        return [folder]
    jobs = read_dict(folder / SWEEP).get("jobs")
    known = [name for name in jobs if isinstance(name, str)] if isinstance(jobs, list) else []
    found = sorted(path.parent.name for path in folder.glob(f"*/{RECORD}"))
    return [folder / name for name in dict.fromkeys([*known, *found])]


def _row(run: Path) -> Row:
    row: Row = {"name": run.name, "folder": str(run), "status": "not started", "error": None}
    row |= {"overrides": None, "curves": _curves(run / "metrics.csv")}
    row["corrupted_accuracy"] = None
    if not (run / RECORD).is_file():
        return row
    record = {key: value for key, value in read_record(run).items() if key in EMPTY}
    if not _is_valid(record):
        return row | {"status": "failed", "error": f"{RECORD} cannot be read"}
    if record["status"] == "running" and not _is_locked(run):
        record |= {"status": "interrupted", "error": "its process was killed"}
    row["corrupted_accuracy"] = _corrupted_accuracy(run, record)
    return row | record


def _corrupted_accuracy(run: Path, record: dict[str, Any]) -> float | None:
    """The mean accuracy on all kinds of corrupted test images, of the checkpoint that was tested.

    None: it was not measured, or before the run was resumed for more epochs.
    """
    pattern = f"{record.get('tested_checkpoint')}-test*-corruptions.json"
    for path in sorted((run / "evaluation").glob(pattern), key=lambda path: len(path.name)):
        found = read_dict(path)
        value = found.get("corrupted_accuracy")
        if isinstance(value, float) and found.get("epochs") == record.get("epochs"):
            return value
    return None


def _is_valid(record: dict[str, Any]) -> bool:
    """Whether it has a status, and what is formatted is of the right type."""
    numbers = [value for key in NUMBERS if (value := record.get(key)) is not None]
    return (
        isinstance(record.get("status"), str)
        and isinstance(record.get("error"), str | None)
        and all(isinstance(record.get(key), dict | None) for key in DICTS)
        and all(isinstance(number, int | float) and abs(number) < 2**63 for number in numbers)
    )


def _is_locked(run: Path) -> bool:
    """Whether a process trains in the folder; True if that cannot be determined."""
    if not (run / LOCK).is_file():  # a copy of a folder has none
        return False
    try:
        with FileLock(run / LOCK, blocking=False):
            return False
    except (OSError, Timeout):  # OSError: the folder is read-only
        return True


def _curves(path: Path) -> dict[str, Curve]:
    """The curves in metrics.csv; empty if the file cannot be read."""
    curves: dict[str, Curve] = {}
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                for name in CURVES:
                    if value := row.get(name):
                        point = (int(row["step"]), int(row["epoch"]), float(value))
                        curves.setdefault(name, []).append(point)
    except (OSError, LookupError, TypeError, ValueError, csv.Error):
        return {}
    return curves
