"""Comparison of runs: what differs between them, means over seeds, order, Pareto front."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from statistics import mean, stdev
from typing import Any

from mnv2_lightning.reports.collect import Row
from mnv2_lightning.runs.config import short_value

SEED = "seed"


@dataclass(frozen=True)
class Group:
    """Finished runs that differ only in their seed."""

    name: str
    values: dict[str, Any]  # overrides of the swept keys, without the seed
    runs: list[Row]

    def numbers(self, key: str) -> list[float]:
        """Of each run; empty if one lacks it."""
        found: list[Any] = [run.get(key) for run in self.runs]
        return [] if None in found else found

    def mean(self, key: str) -> float | None:
        """None if a run lacks the number."""
        return mean(found) if (found := self.numbers(key)) else None

    def spread(self, key: str) -> float | None:
        """Standard deviation over seeds; None for one run, or if a run lacks the number."""
        return stdev(found) if len(found := self.numbers(key)) > 1 else None

    def curve(self) -> list[tuple[int, float]]:
        """(epoch, mean validation accuracy) of the epochs that all runs have."""
        found = [run["curves"].get("val/accuracy", []) for run in self.runs]
        curves = [{epoch + 1: value for _, epoch, value in curve} for curve in found]
        epochs = [e for e in curves[0] if all(e in curve for curve in curves)]
        return [(epoch, mean(curve[epoch] for curve in curves)) for epoch in epochs]


def finished(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["status"] == "finished"]


def metric(rows: Sequence[Row]) -> str:
    """What runs are ordered by: validation accuracy, or test accuracy if a run has no other."""
    done = finished(rows)
    has_val = done and all(row.get("val_accuracy") is not None for row in done)
    return "val_accuracy" if has_val else "test_accuracy"


def swept(rows: Sequence[Row]) -> list[str]:
    """The overridden keys whose values differ between runs."""
    found = [row["overrides"] for row in rows if row["overrides"] is not None]
    keys = dict.fromkeys(key for overrides in found for key in overrides)
    return [key for key in keys if len({str(overrides.get(key)) for overrides in found}) > 1]


def value(row: Row, key: str) -> Any:
    """The override of `key`, a list or dict as text; None if there is none."""
    found = (row["overrides"] or {}).get(key)
    return str(found) if isinstance(found, list | dict) else found


def groups(rows: Sequence[Row]) -> list[Group]:
    """All finished runs in groups, the best group first."""
    keys, by = [key for key in swept(rows) if key != SEED], metric(rows)
    alike = _split(finished(rows), lambda row: str([value(row, key) for key in keys]))
    found = [runs for same in alike for runs in _by_seed(same)]
    values = [{key: value(runs[0], key) for key in keys} for runs in found]
    defaults = [runs[0]["name"] if len(runs) == 1 else "all seeds" for runs in found]
    names = [label(of) or default for of, default in zip(values, defaults, strict=True)]
    built = [
        Group(name if names.count(name) == 1 else f"{name} ({runs[0]['name']})", of, runs)
        for name, of, runs in zip(names, values, found, strict=True)
    ]
    return sorted(built, key=lambda group: -(group.mean(by) or 0))


def _split(rows: Sequence[Row], key: Callable[[Row], str]) -> list[list[Row]]:
    """Rows that have the same key, in the order of their first."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return list(found.values())


def _by_seed(runs: list[Row]) -> list[list[Row]]:
    """A group if all seeds differ; else a group for each sweep, or for each run of one sweep."""
    if len({row.get("seed") for row in runs}) == len(runs):
        return [runs]
    sweeps = _split(runs, lambda row: row["folder"].rpartition("/")[0])
    if len(sweeps) == 1:
        return [[row] for row in runs]
    return [group for sweep in sweeps for group in _by_seed(sweep)]


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (cost, accuracy) points that no point beats in both, cheapest first."""
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    best = accumulate((points[i][1] for i in order), max, initial=-inf)
    return [i for i, cheaper in zip(order, best, strict=False) if points[i][1] > cheaper]


def label(values: dict[str, Any]) -> str:
    """`{"optimizer.lr": 0.1}` -> `lr 0.1`; None values are left out."""
    there = {key: value for key, value in values.items() if value is not None}
    return ", ".join(f"{short(key)} {text(value)}" for key, value in there.items())


def text(value: Any) -> str:
    """Of few characters: a long value is shown as its hash, see `long_values`."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else short_value(str(value))


def long_values(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """(short key, hash, value) of each value that `text` shows as its hash."""
    found = [(key, str(value(row, key))) for key in swept(rows) for row in rows]
    pairs = [(short(key), short_value(whole), whole) for key, whole in dict.fromkeys(found)]
    return [(key, name, whole) for key, name, whole in pairs if name != whole]


def short(key: str) -> str:
    return key.rpartition(".")[2]
