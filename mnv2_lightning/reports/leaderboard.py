"""Runs side by side: what differs between them, means over seeds, the order, the Pareto front."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from mnv2_lightning.reports.collect import Row

SEED = "seed"


@dataclass(frozen=True)
class Group:
    """Finished runs that differ in their seed only."""

    name: str
    values: dict[str, Any]  # of the swept keys, less the seed
    runs: list[Row]

    def mean(self, key: str) -> float | None:
        """None: a run has no such number."""
        found = [run.get(key) for run in self.runs]
        return None if None in found else mean(found)  # type: ignore[type-var]

    def spread(self, key: str) -> float | None:
        """The standard deviation over seeds; None: of one run."""
        return stdev(run[key] for run in self.runs) if len(self.runs) > 1 else None

    def curve(self) -> list[tuple[int, float]]:
        """Epoch and mean validation accuracy, of the epochs that all runs have."""
        curves = [dict(run["curve"]) for run in self.runs]
        epochs = [e for e in curves[0] if all(e in curve for curve in curves)]
        return [(epoch, mean(curve[epoch] for curve in curves)) for epoch in epochs]


def finished(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["status"] == "finished"]


def metric(rows: Sequence[Row]) -> str:
    """What runs are compared by: the held-out images, or where a run had none the test images."""
    done = finished(rows)
    has_val = done and all(row.get("val_accuracy") is not None for row in done)
    return "val_accuracy" if has_val else "test_accuracy"


def swept(rows: Sequence[Row]) -> list[str]:
    """The keys that were typed with other values in other runs, as first typed."""
    typed = [row["overrides"] for row in rows if row["overrides"] is not None]
    keys = dict.fromkeys(key for overrides in typed for key in overrides)
    return [key for key in keys if len({str(overrides.get(key)) for overrides in typed}) > 1]


def value(row: Row, key: str) -> Any:
    """What was typed for `key`, a list or a dict as text; None: nothing, or it is not known."""
    typed = (row["overrides"] or {}).get(key)
    return str(typed) if isinstance(typed, list | dict) else typed


def groups(rows: Sequence[Row]) -> list[Group]:
    """The best first."""
    keys, by = [key for key in swept(rows) if key != SEED], metric(rows)
    alike: dict[str, list[Row]] = {}
    for row in finished(rows):
        alike.setdefault(str({key: value(row, key) for key in keys}), []).append(row)
    found = [group for runs in alike.values() for group in _of_seeds(runs)]
    labels = [_label(runs, keys) for runs in found]
    built = [
        Group(
            name if labels.count(name) == 1 else f"{name} ({runs[0]['name']})",
            {key: value(runs[0], key) for key in keys},
            runs,
        )
        for name, runs in zip(labels, found, strict=True)
    ]
    return sorted(built, key=lambda group: -(group.mean(by) or 0))


def _of_seeds(runs: Sequence[Row]) -> list[list[Row]]:
    """Runs that differ in their seed alone; with one seed twice they are of several sweeps, or
    each for itself.
    """
    if len({row.get("seed") for row in runs}) == len(runs):
        return [list(runs)]
    places: dict[str, list[Row]] = {}
    for row in runs:
        places.setdefault(row["folder"].rpartition("/")[0], []).append(row)
    if len(places) == 1:
        return [[row] for row in runs]
    return [group for of_place in places.values() for group in _of_seeds(of_place)]


def _label(runs: Sequence[Row], keys: Sequence[str]) -> str:
    one = runs[0]["name"] if len(runs) == 1 else "all seeds"
    return label({key: value(runs[0], key) for key in keys}) or one


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Of (cost, accuracy): those that no other beats in one without losing in the other."""
    front, best = [], float("-inf")
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[index][1] > best:
            best = points[index][1]
            front.append(index)
    return front


def label(values: dict[str, Any]) -> str:
    """`{"optimizer.lr": 0.1}` -> `lr 0.1`; without keys that were not typed."""
    typed = {key: value for key, value in values.items() if value is not None}
    return ", ".join(f"{short(key)} {text(value)}" for key, value in typed.items())


def text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)


def short(key: str) -> str:
    return key.rpartition(".")[2]
