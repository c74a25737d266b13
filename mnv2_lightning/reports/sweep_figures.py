"""Figures of sweeps and searches. Accuracies are in [0, 1]."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from mnv2_lightning.reports import leaderboard
from mnv2_lightning.reports.collect import Row
from mnv2_lightning.reports.figures import GREY, INK, RED
from mnv2_lightning.reports.leaderboard import SEED, Group, short, value

MANY = 12  # a grid has at most as many values of a key; more curves have no legend
COSTS = {"multiply-adds an image": "multiply_adds", "parameters": "parameters"}
METRICS = {"val_accuracy": "validation accuracy", "test_accuracy": "test accuracy"}


def draw(rows: Sequence[Row]) -> dict[str, Figure]:
    """Figures by name. A figure for which the runs lack data is left out."""
    by, groups = leaderboard.metric(rows), leaderboard.groups(rows)
    measured = [group for group in groups if group.mean(by) is not None]
    keys = [key for key in leaderboard.swept(rows) if key != SEED]
    numeric = [key for key in keys if _is_numeric(rows, key)]
    drawn: dict[str, Figure] = {}
    if measured and numeric and _is_grid(rows, keys):
        drawn["lines"] = draw_lines(measured, keys, numeric, by)
    elif measured and numeric:
        drawn["slices"] = draw_slices(measured, numeric, by)
    if any(len({group.mean(key) for group in measured} - {None}) > 1 for key in COSTS.values()):
        drawn["costs"] = draw_costs(measured, by)
    curves = {group.name: curve for group in groups if (curve := group.curve())}
    if max(map(len, curves.values()), default=0) > 1:
        drawn["curves"] = draw_curves(curves)
    return drawn


def _is_grid(rows: Sequence[Row], keys: Sequence[str]) -> bool:
    """Whether most combinations of a few values were run."""
    started = [row for row in rows if row["overrides"] is not None]
    places = {tuple(str(value(row, key)) for key in keys) for row in started}
    counts = [len(set(values)) for values in zip(*places, strict=True)]
    return max(counts) <= MANY and 2 * len(places) > math.prod(counts)


def _is_numeric(rows: Sequence[Row], key: str) -> bool:
    values = [row["overrides"].get(key) for row in rows if row["overrides"] is not None]
    return all(type(value) in (int, float) for value in values)


def draw_lines(
    groups: Sequence[Group], keys: Sequence[str], numeric: Sequence[str], by: str
) -> Figure:
    """Accuracy over the learning rate or another number, a line for each value of a second key.

    Error bars are standard deviations. Values of further keys are not shown: the best is drawn.
    """
    x = next((key for key in numeric if short(key) == "lr"), numeric[0])
    line, *others = [key for key in keys if key != x] or [""]
    best_by = f", the best by {' and '.join(map(short, others))}" if others else ""
    figure, axes = _axes(short(x), METRICS[by] + best_by)
    lines: dict[Any, dict[float, Group]] = {}
    for group in groups:  # the best comes first
        lines.setdefault(group.values.get(line), {}).setdefault(group.values[x], group)
    for name, colour in zip(_in_order(set(lines)), _colours(len(lines)), strict=True):
        places = sorted(lines[name])
        found = [lines[name][place] for place in places]
        # One run has no spread: None becomes NaN, for which no bar is drawn.
        numbers = np.array([(group.mean(by), group.spread(by)) for group in found], float)
        axes.errorbar(
            places,
            *numbers.T,
            label=str(name),
            color=colour,
            marker="o",
            markersize=5,
            capsize=3,
            linewidth=1.6,
        )
    _scale_x(axes, [group.values[x] for group in groups])
    if line:
        axes.legend(title=short(line), frameon=False)
    return figure


def draw_slices(groups: Sequence[Group], keys: Sequence[str], by: str) -> Figure:
    """Accuracy over each of `keys`, whatever the others: a panel for each, a point for a group."""
    figure = Figure(figsize=(4.4 * len(keys), 3.8), layout="constrained", dpi=120)
    panels = figure.subplots(1, len(keys), squeeze=False, sharey=True)[0]
    for axes, key in zip(panels, keys, strict=True):
        x = [group.values[key] for group in groups]
        axes.scatter(x, [group.mean(by) for group in groups], color=RED, s=28, alpha=0.8)
        _style(axes, short(key), METRICS[by] if axes is panels[0] else "")
        if _is_log(x):
            axes.set_xscale("log")
    return figure


def draw_costs(groups: Sequence[Group], by: str) -> Figure:
    """Accuracy over each cost, a point for a group; the points of the Pareto front are joined."""
    accuracies = [group.mean(by) or 0.0 for group in groups]
    figure = Figure(figsize=(5.2 * len(COSTS), 4.2), layout="constrained", dpi=120)
    panels = figure.subplots(1, len(COSTS), squeeze=False, sharey=True)[0]
    for axes, (name, key) in zip(panels, COSTS.items(), strict=True):
        costs = [group.mean(key) or 0.0 for group in groups]
        front = leaderboard.pareto(list(zip(costs, accuracies, strict=True)))
        axes.scatter(costs, accuracies, color=GREY, s=28, zorder=2)
        x, y = [costs[i] for i in front], [accuracies[i] for i in front]
        label = "Pareto front: the best for its cost"
        axes.plot(x, y, color=RED, marker="o", markersize=6, linewidth=1.4, label=label)
        middle = (min(costs) + max(costs)) / 2
        for i in front[:MANY]:
            is_left = costs[i] <= middle
            axes.annotate(
                textwrap.fill(groups[i].name, 28),
                (costs[i], accuracies[i]),
                xytext=(6, -4) if is_left else (-6, 4),  # beside a line that rises
                textcoords="offset points",
                ha="left" if is_left else "right",
                va="top" if is_left else "bottom",
                fontsize=8,
                color=INK,
            )
        _style(axes, name, METRICS[by] if axes is panels[0] else "")
        axes.margins(x=0.16, y=0.12)
        axes.xaxis.set(major_locator=MaxNLocator(5), major_formatter=EngFormatter())
    panels[0].legend(loc="lower right", fontsize=8, frameon=False)
    return figure


def draw_curves(curves: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    """(epoch, validation accuracy) pairs as a line for each name; the first, the best, is red."""
    figure, axes = _axes("epoch", METRICS["val_accuracy"])
    has_legend = len(curves) <= MANY
    colours = [RED, *(_colours(len(curves) - 1) if has_legend else [GREY] * (len(curves) - 1))]
    for place, (name, curve) in reversed(list(enumerate(curves.items()))):  # the best on top
        epochs, values = zip(*curve, strict=True)
        label = name if place == 0 or has_legend else None
        axes.plot(epochs, values, color=colours[place], marker="o", markersize=3, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], fontsize=8, frameon=False, loc="lower right")
    return figure


def draw_search(search: dict[str, Any]) -> dict[str, Figure]:
    """Figures of a search by name. `search`: the content of search.json."""
    drawn = {}
    if search["history"]["finished"]:
        drawn["history"] = draw_history(**search["history"])
    if search["importances"] is not None:
        drawn["importances"] = draw_importances(search["importances"])
    return drawn


def draw_history(
    finished: Sequence[tuple[int, float]], pruned: Sequence[tuple[int, float]]
) -> Figure:
    """(number, accuracy) of the trials of a search; the bottom edge shows pruned ones below it."""
    figure, axes = _axes("trial", METRICS["val_accuracy"])
    x, y = zip(*sorted(finished), strict=True)
    axes.scatter(x, y, color=RED, s=30, label="finished")
    axes.step(x, np.maximum.accumulate(y), where="post", color=INK, label="best so far")
    margin = max(0.1 * (max(y) - min(y)), 0.001)
    bottom = min(y) - 2 * margin
    axes.set_ylim(bottom, max(y) + margin)
    if pruned:
        x, y = zip(*pruned, strict=True)
        y = np.maximum(y, bottom + margin / 2)
        axes.scatter(x, y, marker="x", color=GREY, s=30, label="pruned (or lower)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8, loc="best")
    return figure


def draw_importances(shares: Mapping[str, float]) -> Figure:
    """A bar for each parameter, the most important at the top."""
    figure = Figure(figsize=(6.4, 0.5 * len(shares) + 1.2), layout="constrained", dpi=120)
    axes = figure.add_subplot()
    names = sorted(shares, key=lambda name: shares[name])
    bars = axes.barh(names, [shares[name] for name in names], color=RED)
    axes.bar_label(bars, [f"{100 * shares[name]:.0f} %" for name in names], padding=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter(_percent())
    axes.set(xlabel="share of what the parameters explain (PED-ANOVA)", xlim=(0, 1.1))
    return figure


def _in_order(values: set[Any]) -> list[Any]:
    """Numbers by size, followed by other values by name."""
    numbers = [value for value in values if isinstance(value, int | float)]
    return sorted(numbers) + sorted(values - set(numbers), key=str)


def _is_log(x: Sequence[float]) -> bool:
    return min(x) > 0 and max(x) >= 8 * min(x)


def _scale_x(axes: Axes, x: Sequence[float]) -> None:
    """Log scale for a wide range; a tick at each value, with a label if there is room for it."""
    values = sorted(set(x))
    places = np.array(values, float)
    if _is_log(values):
        axes.set_xscale("log")
        places = np.log(places)
    labels, last = [], -np.inf
    for number, place in zip(values, places, strict=True):
        is_free = place - last >= (places[-1] - places[0]) / 12
        labels.append(f"{number:g}" if is_free else "")
        last = place if is_free else last
    axes.set_xticks(values, labels)
    axes.minorticks_off()


def _axes(x_name: str, y_name: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 4.2), layout="constrained", dpi=120)
    axes = figure.add_subplot()
    _style(axes, x_name, y_name)
    return figure, axes


def _style(axes: Axes, x_name: str, y_name: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.yaxis.set_major_formatter(_percent())
    axes.set(xlabel=x_name, ylabel=y_name)


def _percent() -> PercentFormatter:
    return PercentFormatter(1, symbol=" %")


def _colours(count: int) -> list[Any]:
    return [colormaps["viridis"](x) for x in np.linspace(0.05, 0.85, count)]
