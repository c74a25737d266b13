"""Writes a report on runs: CSV, Markdown, PNGs, and one HTML page that holds all of it."""

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mnv2_lightning.reports import collect, leaderboard, page, sweep_figures, tables
from mnv2_lightning.reports.collect import SEARCH, Row
from mnv2_lightning.reports.leaderboard import SEED, Group, short, value
from mnv2_lightning.reports.sweep_figures import MANY

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
COSTS = {"multiply-adds an image": "multiply_adds", "parameters": "parameters"}
NAMES = {"val_accuracy": "validation accuracy", "test_accuracy": "test accuracy"}


def report(folders: Sequence[Path], out: Path) -> list[Row]:
    """The rows of all runs in `folders`, on which it writes into `out`."""
    rows = collect.rows(folders)
    out.mkdir(parents=True, exist_ok=True)
    for name in page.TITLES:  # of an earlier report
        (out / f"{name}.png").unlink(missing_ok=True)
    drawn = figures(rows)
    if len(folders) == 1 and (folders[0] / SEARCH).is_file():
        drawn = (
            search_figures(json.loads((folders[0] / SEARCH).read_text(encoding="utf-8"))) | drawn
        )
    for name, figure in drawn.items():
        figure.savefig(out / f"{name}.png")
    title = ", ".join(folder.resolve().name for folder in folders)
    (out / "runs.csv").write_text(to_csv(rows), encoding="utf-8")
    (out / "report.md").write_text(tables.report(rows, title, list(drawn)), encoding="utf-8")
    pictures = {name: (out / f"{name}.png").read_bytes() for name in drawn}
    (out / "report.html").write_text(page.html(rows, title, pictures), encoding="utf-8")
    return rows


def to_csv(rows: Sequence[Row]) -> str:
    """A line for each run: what differs, what came out."""
    keys = leaderboard.swept(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", *keys, "status", *NUMBERS, "error"])
    for row in rows:
        values = [value(row, key) for key in keys]
        numbers = [row.get(key) for key in NUMBERS]
        writer.writerow([row["name"], *values, row["status"], *numbers, row["error"]])
    return text.getvalue()


def figures(rows: Sequence[Row]) -> dict[str, Figure]:
    """Those that the runs have something to show in, by name."""
    groups, by = leaderboard.groups(rows), leaderboard.metric(rows)
    keys = [key for key in leaderboard.swept(rows) if key != SEED]
    drawn: dict[str, Figure] = {}
    measured = [group for group in groups if group.mean(by) is not None]
    numeric = [key for key in keys if _is_numeric(rows, key)]
    is_grid = _is_grid(rows, keys)
    if measured and numeric and not is_grid:
        drawn["slices"] = _slices(measured, numeric, by)
    if measured and numeric and is_grid:
        x = next((key for key in numeric if short(key) == "lr"), numeric[0])
        drawn["lines"] = _lines(measured, x, next((k for k in keys if k != x), None), by)
    if measured and len(keys) >= 2 and is_grid:
        drawn["heat"] = _heat(rows, measured, *_axes(keys, numeric), by)
    if any(len({group.mean(key) for group in measured} - {None}) > 1 for key in COSTS.values()):
        drawn["costs"] = _costs(measured, by)
    curves = {group.name: curve for group in groups if (curve := group.curve())}
    if max(map(len, curves.values()), default=0) > 1:  # epochs
        drawn["curves"] = sweep_figures.draw_curves(curves, y_name="validation accuracy")
    return drawn


def search_figures(search: dict[str, Any]) -> dict[str, Figure]:
    """Of a search.json: the trials in their order; what their accuracy depends on."""
    drawn = {}
    if search["history"]["finished"]:
        drawn["history"] = sweep_figures.draw_history(
            search["history"], x_name="trial", y_name=NAMES["val_accuracy"]
        )
    if search["importances"] is not None:
        drawn["importances"] = sweep_figures.draw_importances(search["importances"])
    return drawn


def _slices(groups: Sequence[Group], keys: Sequence[str], by: str) -> Figure:
    accuracies = [group.mean(by) or 0.0 for group in groups]
    values = {short(key): [group.values[key] for group in groups] for key in keys}
    return sweep_figures.draw_slices(accuracies, values, y_name=NAMES[by])


def _is_grid(rows: Sequence[Row], keys: Sequence[str]) -> bool:
    """Whether few values of each key were combined, most with most, and not drawn one by one."""
    typed = [row for row in rows if row["overrides"] is not None]
    places = {tuple(str(value(row, key)) for key in keys) for row in typed}
    counts = [len(set(values)) for values in zip(*places, strict=True)]
    return max(counts, default=0) <= MANY and 2 * len(places) > math.prod(counts)


def _is_numeric(rows: Sequence[Row], key: str) -> bool:
    values = [row["overrides"].get(key) for row in rows if row["overrides"] is not None]
    return all(type(value) in (int, float) for value in values)


def _axes(keys: list[str], numeric: list[str]) -> tuple[str, str]:
    """What a heat map has down and across: across the learning rate, or the first number."""
    across = next((k for k in numeric if short(k) == "lr"), (numeric or keys)[0])
    return next(key for key in keys if key != across), across


def _cells(groups: Sequence[Group], down: str | None, across: str) -> dict[tuple[Any, Any], Group]:
    """By (value of `down`, value of `across`): where other keys differ too, the best of them."""
    cells: dict[tuple[Any, Any], Group] = {}
    for group in groups:  # the best first
        cells.setdefault((group.values.get(down) if down else None, group.values[across]), group)
    return cells


def _named(by: str, groups: Sequence[Group], *shown: str | None) -> str:
    others = [short(key) for key in groups[0].values if key not in shown]
    return f"{NAMES[by]}, the best by {' and '.join(others)}" if others else NAMES[by]


def _lines(groups: Sequence[Group], x: str, line: str | None, by: str) -> Figure:
    cells = _cells(groups, line, x)
    xs = sorted({across for _, across in cells})
    lines = {}
    for name in _in_order({down for down, _ in cells}):
        found = [cells.get((name, across)) for across in xs]
        means = np.array([group.mean(by) if group else np.nan for group in found], float)
        spreads = np.array([group.spread(by) if group else np.nan for group in found], float)
        lines[str(name)] = (means, spreads)  # NaN: no spread of one run
    return sweep_figures.draw_lines(
        xs,
        lines,
        x_name=short(x),
        y_name=_named(by, groups, x, line),
        lines_name=short(line) if line else "",
    )


def _heat(rows: Sequence[Row], groups: Sequence[Group], down: str, across: str, by: str) -> Figure:
    cells = _cells(groups, down, across)
    typed = [row for row in rows if row["overrides"] is not None]
    statuses = {(value(row, down), value(row, across)): row["status"] for row in typed}
    downs, acrosses = (_in_order({value(row, key) for row in typed}) for key in (down, across))
    places = [[(d, a) for a in acrosses] for d in downs]
    return sweep_figures.draw_heat(
        np.array([[cells[p].mean(by) if p in cells else np.nan for p in row] for row in places]),
        statuses=[[statuses.get(place, "-") for place in row] for row in places],
        rows=[str(value) for value in downs],
        columns=[str(value) for value in acrosses],
        rows_name=short(down),
        columns_name=short(across),
        name=_named(by, groups, down, across),
    )


def _costs(groups: Sequence[Group], by: str) -> Figure:
    accuracies = [group.mean(by) or 0 for group in groups]
    costs = {name: [group.mean(key) or 0 for group in groups] for name, key in COSTS.items()}
    fronts = {
        name: leaderboard.pareto(list(zip(values, accuracies, strict=True)))
        for name, values in costs.items()
    }
    names = [group.name for group in groups]
    return sweep_figures.draw_costs(accuracies, costs, fronts, names, y_name=NAMES[by])


def _in_order(values: set[Any]) -> list[Any]:
    """Numbers by size, then the rest by name."""
    numbers = [value for value in values if isinstance(value, int | float)]
    return sorted(numbers) + sorted(values - set(numbers), key=str)
