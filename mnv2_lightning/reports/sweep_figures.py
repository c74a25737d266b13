"""Figures of sweeps and searches. Accuracies are in [0, 1]."""

import textwrap
from collections.abc import Mapping, Sequence
from math import inf, prod
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    EngFormatter,
    LogLocator,
    MaxNLocator,
    PercentFormatter,
    StrMethodFormatter,
)
from matplotlib.transforms import Bbox

from mnv2_lightning.reports import curve_figures, leaderboard
from mnv2_lightning.reports.collect import Row
from mnv2_lightning.reports.comparison import Pair
from mnv2_lightning.reports.figures import GREY, INK, RED, chart, cut, legend_below
from mnv2_lightning.reports.leaderboard import SEED, Group, short, value
from mnv2_lightning.runs.config import short_value

MANY = 12  # a grid has at most as many values of a key; more curves have no legend
MOST = 24  # configurations in a figure
COSTS = {"multiply-adds an image": "multiply_adds", "parameters": "parameters"}
BELOW: dict[str, Any] = {"xytext": (6, -4), "ha": "left", "va": "top"}  # of a point, to its right
ABOVE: dict[str, Any] = {"xytext": (-6, 4), "ha": "right", "va": "bottom"}  # to its left
METRICS = {"val_accuracy": "validation accuracy", "test_accuracy": "test accuracy"}


def draw(rows: Sequence[Row], search: dict[str, Any] | None = None) -> dict[str, Figure]:
    """Figures by name. A figure for which the runs lack data is left out.

    `search`: the content of search.json, if the runs are trials.
    """
    by, groups = leaderboard.metric(rows), leaderboard.groups(rows)
    measured = [group for group in groups if group.mean(by) is not None]
    keys = [key for key in leaderboard.swept(rows) if key != SEED]
    started = [row for row in rows if row["overrides"] is not None]
    numeric = [k for k in keys if all(type(value(row, k)) in (int, float) for row in started)]
    drawn: dict[str, Figure] = {}
    if search and search["history"]["finished"]:
        drawn["history"] = draw_history(**search["history"])
    if search and search["importances"] is not None:
        drawn["importances"] = draw_importances(search["importances"])
    if measured and numeric and _is_grid(started, keys):
        drawn["lines"] = draw_lines(measured, keys, numeric, by)
    elif measured and numeric:
        drawn["slices"] = draw_slices(measured, numeric, by)
    elif len(measured) > 1:
        drawn["configurations"] = draw_configurations(measured, by)
    costed = [g for g in measured if None not in map(g.mean, COSTS.values())]
    if any(len({group.mean(key) for group in costed}) > 1 for key in COSTS.values()):
        drawn["costs"] = draw_costs(costed, by)
    curves = {group.name: curve for group in groups if (curve := group.curve())}
    has_seeds = len(groups) < len(leaderboard.finished(rows))
    if max(map(len, curves.values()), default=0) > 1 and (has_seeds or len(rows) > MANY):
        drawn["curves"] = draw_curves(curves)
    for metric in ("loss", "accuracy") if len(rows) <= MANY else ():
        if "curves" in drawn and metric == "accuracy":
            continue
        if (figure := curve_figures.draw(rows, metric)) is not None:
            drawn[metric] = figure
    return drawn


def draw_differences(pairs: Sequence[Pair]) -> Figure:
    """The mean difference of each pair in percentage points, with its interval."""
    names = [f"{cut(pair.a.name, 40)}\nminus {cut(pair.b.name, 40)}" for pair in pairs]
    figure, (axes,) = chart(8, 1.2 + 0.5 * len(pairs))
    for row, pair in enumerate(pairs):
        found = pair.difference
        is_clear = "better" in pair.verdict
        if found.low is not None and found.high is not None:
            axes.plot([100 * found.low, 100 * found.high], [row, row], color=GREY, linewidth=3)
        axes.plot(100 * found.mean, row, "o", color=RED if is_clear else INK)
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(range(len(pairs)), names, fontsize=8)
    axes.set(ylim=(len(pairs) - 0.5, -0.5), xlabel="difference in accuracy, percentage points")
    return figure


def _is_grid(rows: Sequence[Row], keys: Sequence[str]) -> bool:
    """Whether most combinations of a few values were run."""
    places = {tuple(str(value(row, key)) for key in keys) for row in rows}
    counts = [len(set(values)) for values in zip(*places, strict=True)]
    return max(counts) <= MANY and 2 * len(places) > prod(counts)


def draw_lines(
    groups: Sequence[Group], keys: Sequence[str], numeric: Sequence[str], by: str
) -> Figure:
    """Accuracy over the learning rate or another number, a line for each value of a second key.

    Error bars are standard deviations. Values of further keys are not shown: the best is drawn.
    """
    x = next((key for key in numeric if short(key) == "lr"), numeric[0])
    line, *others = [key for key in keys if key != x] or [""]
    best_by = f", the best by {' and '.join(map(short, others))}" if others else ""
    figure, (axes,) = _accuracy_over(short(x), label=METRICS[by] + best_by)
    lines: dict[Any, dict[float, Group]] = {}
    for group in groups:  # the best comes first
        lines.setdefault(group.values.get(line), {}).setdefault(group.values[x], group)
    # Numbers by size, followed by other values by name.
    names = sorted(lines, key=lambda v: (v, "") if isinstance(v, int | float) else (inf, str(v)))
    style: dict[str, Any] = {"marker": "o", "markersize": 5, "capsize": 3, "linewidth": 1.6}
    for name, colour in zip(names, _colours(len(names)), strict=True):
        # One run has no spread: None becomes NaN, for which no bar is drawn.
        points = [(place, g.mean(by), g.spread(by)) for place, g in sorted(lines[name].items())]
        places, means, spreads = np.array(points, float).T
        axes.errorbar(places, means, spreads, label=short_value(str(name)), color=colour, **style)
    _scale_x(axes, [group.values[x] for group in groups], width=5)
    if line:
        legend_below(figure, title=short(line))
    return figure


def draw_slices(groups: Sequence[Group], keys: Sequence[str], by: str) -> Figure:
    """Accuracy over each of `keys`, whatever the others: a panel for each, a point for a group."""
    names, width = map(short, keys), 4 * min(3, len(keys))
    figure, panels = _accuracy_over(*names, label=METRICS[by], width=width, height=3.4)
    for axes, key in zip(panels, keys, strict=True):
        x = [group.values[key] for group in groups]
        axes.scatter(x, [group.mean(by) or 0.0 for group in groups], color=RED, s=28, alpha=0.8)
        _scale_x(axes, x, width=3.2)
    return figure


def draw_configurations(groups: Sequence[Group], by: str) -> Figure:
    """Accuracy of the best MOST groups, a row for each; bars are standard deviations over seeds."""
    shown = groups[:MOST][::-1]  # the best at the top
    names = [textwrap.fill(cut(group.name, 96), 40) for group in shown]
    lines = sum(name.count("\n") + 1 for name in names)
    figure, (axes,) = chart(7.4, 0.2 * lines + 0.14 * len(shown) + 0.9)
    points = [(group.mean(by), group.spread(by)) for group in shown]
    means, spreads = np.array(points, float).T  # None becomes NaN, for which no bar is drawn
    axes.errorbar(means, range(len(shown)), xerr=spreads, fmt="o", color=RED, capsize=3)
    axes.set_yticks(range(len(shown)), names, fontsize=8)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.xaxis.set(major_locator=MaxNLocator(3), major_formatter=PercentFormatter(1, symbol=" %"))
    axes.set_xlabel(METRICS[by] + (f", the best {MOST}" if len(groups) > MOST else ""))
    return figure


def draw_costs(groups: Sequence[Group], by: str) -> Figure:
    """Accuracy over each cost, a point for a group; the points of the Pareto front are joined."""
    accuracies = np.array([group.mean(by) for group in groups], float)
    figure, panels = _accuracy_over(*COSTS, label=METRICS[by], width=5.2 * len(COSTS))
    for axes, key in zip(panels, COSTS.values(), strict=True):
        costs = np.array([group.mean(key) or 0.0 for group in groups])
        front = leaderboard.pareto(list(zip(costs, accuracies, strict=True)))
        axes.scatter(costs, accuracies, color=GREY, s=28, zorder=2)
        style: dict[str, Any] = {"color": RED, "marker": "o", "markersize": 6, "linewidth": 1.4}
        label = "Pareto front: the best for its cost"
        axes.plot(costs[front], accuracies[front], label=label, **style)
        for i in front[::-1]:  # the text is beside a line that rises
            place = BELOW if costs[i] <= (costs.min() + costs.max()) / 2 else ABOVE
            text, point = textwrap.fill(cut(groups[i].name, 80), 28), (costs[i], accuracies[i])
            axes.annotate(text, point, textcoords="offset points", fontsize=8, color=INK, **place)
        axes.margins(x=0.16, y=0.12)
        axes.xaxis.set(major_locator=MaxNLocator(5), major_formatter=EngFormatter())
    legend_below(figure)
    _remove_overlapping(figure)
    return figure


def _remove_overlapping(figure: Figure) -> None:
    """Remove each annotation that overlaps an earlier one of its axes, or leaves the figure."""
    figure.draw_without_rendering()  # the layout
    for axes in figure.axes:
        kept: list[Bbox] = []
        for text in list(axes.texts):
            box = text.get_window_extent()
            is_inside = figure.bbox.containsx(box.x0) and figure.bbox.containsx(box.x1)
            if is_inside and not box.count_overlaps(kept):
                kept.append(box)
            else:
                text.remove()


def draw_curves(curves: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    """(epoch, validation accuracy) pairs as a line for each name; the first, the best, is red."""
    figure, (axes,) = _accuracy_over("epoch")
    has_legend = len(curves) <= MANY
    colours = [RED, *(_colours(len(curves) - 1) if has_legend else [GREY] * (len(curves) - 1))]
    for place, (name, curve) in enumerate(curves.items()):
        is_thick = place == 0 or has_legend
        style: dict[str, Any] = (
            {"linewidth": 1.6, "marker": "o"} if is_thick else {"linewidth": 0.8}
        )
        style |= {"color": colours[place], "markersize": 3}
        axes.plot(
            *np.transpose(curve),
            label=name if is_thick else None,
            zorder=3 - place / len(curves),
            **style,
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_below(figure)
    return figure


def draw_history(
    finished: Sequence[tuple[int, float]], pruned: Sequence[tuple[int, float]]
) -> Figure:
    """(number, accuracy) of the trials of a search; the bottom edge shows pruned ones below it."""
    figure, (axes,) = _accuracy_over("trial")
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
    legend_below(figure)
    return figure


def draw_importances(shares: Mapping[str, float]) -> Figure:
    """A bar for each parameter, the most important at the top."""
    figure, (axes,) = chart(6.4, 0.5 * len(shares) + 1.2)
    names, values = zip(*sorted(shares.items(), key=lambda item: item[1]), strict=True)
    bars = axes.barh(names, values, color=RED)
    axes.bar_label(bars, fmt=lambda share: f"{100 * share:.0f} %", padding=3)
    axes.grid(visible=False)
    axes.set(xlabel="importance (PED-ANOVA)", xlim=(0, 1.1), xticks=[])
    return figure


def _accuracy_over(
    *names: str, label: str = METRICS["val_accuracy"], width: float = 6.4, height: float = 4.2
) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each of `names`, over which the accuracy `label` is drawn."""
    figure, panels = chart(width, height, panels=len(names), sharey=True)
    for axes, name in zip(panels, names, strict=True):
        axes.set_xlabel(name)
        axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    panels[0].set_ylabel(label)
    return figure, panels


def _colours(count: int) -> np.ndarray:
    """(count, 4): from dark to light."""
    return colormaps["viridis"](np.linspace(0.05, 0.85, count))


def _scale_x(axes: Axes, x: Sequence[float], *, width: float) -> None:
    """Log scale for a wide range. A tick at each of a few values, labelled if there is room.

    `width`: of the axes in inches.
    """
    values = sorted(set(x))
    positive = [value for value in values if value > 0]
    is_log = bool(positive) and values[0] >= 0 and positive[-1] >= 8 * positive[0]
    if is_log and values[0] == 0:
        axes.set_xscale("symlog", linthresh=positive[0])
    elif is_log:
        axes.set_xscale("log")
    axes.minorticks_off()
    if len(values) > MANY:
        decades = np.log10(positive[-1] / positive[0]) if is_log else 0
        subs = (1, 2, 5) if decades < 1.5 else (1, 3) if decades < 3 else (1,)
        locator = LogLocator(subs=subs) if is_log else MaxNLocator(5)
        axes.xaxis.set(major_locator=locator, major_formatter=StrMethodFormatter("{x:g}"))
        return
    places = axes.xaxis.get_transform().transform(np.array(values, float))
    inches = width * (places - places[0]) / ((places[-1] - places[0]) or 1)
    labels, end = [], -inf  # of the last label
    for number, place in zip(values, inches, strict=True):
        text = f"{number:.4g}"
        half = 0.045 * len(text) + 0.04
        is_free = place - half > end
        labels.append(text if is_free else "")
        end = place + half if is_free else end
    axes.set_xticks(values, labels)
