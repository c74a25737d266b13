"""Figures of a sweep: pure functions from arrays to matplotlib figures; accuracies in [0, 1]."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from mnv2_lightning.reports.figures import INK, RED

MANY = 12  # more lines than these have no legend
FEW = 6  # values of a key that are drawn one by one


def draw_lines(
    x: Sequence[float],
    lines: dict[str, tuple[np.ndarray, np.ndarray]],
    *,
    x_name: str,
    y_name: str,
    lines_name: str = "",
) -> Figure:
    """A line for each name: means (N,) over x (N,), with standard deviations (N,); NaN: no
    run, or one.
    """
    figure, axes = _axes(y_name, x_name)
    is_log = _is_log(x)
    has_bars = any(np.isfinite(spreads).any() for _, spreads in lines.values())
    aside = np.linspace(-1, 1, len(lines)) if has_bars and len(lines) > 1 else [0.0] * len(lines)
    width = (max(x) - min(x)) / 100
    for (name, (means, spreads)), colour, side in zip(
        lines.items(), _colours(len(lines)), aside, strict=True
    ):
        there = np.isfinite(means)
        places = np.asarray(x, float)[there]
        axes.errorbar(
            places * 1.025**side if is_log else places + width * side,  # so that all bars are seen
            means[there],
            spreads[there] if has_bars else None,
            label=name,
            color=colour,
            marker="o",
            markersize=5,
            capsize=3,
            linewidth=1.6,
        )
    if is_log:
        axes.set_xscale("log")
    _tick_values(axes, x)
    if lines_name:
        axes.legend(title=lines_name, frameon=False)
    return figure


def draw_slices(
    accuracies: Sequence[float], values: Mapping[str, Sequence[float]], *, y_name: str
) -> Figure:
    """A panel for each name, a point for each run: (N,) accuracies over (N,) values."""
    figure = Figure(figsize=(4.4 * len(values), 3.8), layout="constrained", dpi=120)
    panels = figure.subplots(1, len(values), squeeze=False, sharey=True)[0]
    for axes, (name, x) in zip(panels, values.items(), strict=True):
        axes.scatter(x, accuracies, color=RED, s=28, alpha=0.8)
        _style(axes)
        axes.set(xlabel=name, ylabel=y_name if axes is panels[0] else "")
        if _is_log(x):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        if len(set(x)) <= FEW:
            _tick_values(axes, x)
    return figure


def draw_history(
    trials: Mapping[str, Sequence[tuple[int, float]]], *, x_name: str, y_name: str
) -> Figure:
    """(number, accuracy) of a search's trials that "finished", of which there is one, or were
    "pruned"; those far below the others are drawn at the lower edge.
    """
    figure, axes = _axes(y_name, x_name)
    x, y = zip(*sorted(trials["finished"]), strict=True)
    axes.scatter(x, y, color=RED, s=30, label="finished")
    axes.step(x, np.maximum.accumulate(y), where="post", color=INK, label="best so far")
    margin = max(0.1 * (max(y) - min(y)), 0.001)
    low, high = min(y) - 2 * margin, max(y) + margin
    axes.set_ylim(low, high)
    if pruned := trials["pruned"]:
        x, y = zip(*pruned, strict=True)
        at = np.maximum(y, low + margin / 2)
        axes.scatter(x, at, marker="x", color="#94a3b8", s=30, label="pruned (or lower)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8, loc="best")
    return figure


def draw_importances(shares: Mapping[str, float]) -> Figure:
    """A bar for each parameter, the most important on top."""
    figure = Figure(figsize=(6.4, 0.5 * len(shares) + 1.2), layout="constrained", dpi=120)
    axes = figure.add_subplot()
    names = sorted(shares, key=lambda name: shares[name])
    bars = axes.barh(names, [shares[name] for name in names], color=RED)
    axes.bar_label(bars, [f"{100 * shares[name]:.0f} %" for name in names], padding=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter(_percent())
    axes.set(xlabel="share of what the parameters explain (PED-ANOVA)", xlim=(0, 1.1))
    return figure


def draw_heat(
    means: np.ndarray,
    *,
    statuses: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    rows_name: str,
    columns_name: str,
    name: str,
) -> Figure:
    """(R, C) means as colours and numbers; NaN: no finished run, but a status."""
    size = (1.2 * len(columns) + 2.8, 0.7 * len(rows) + 1.6)
    figure = Figure(figsize=size, layout="constrained", dpi=120)
    axes = figure.add_subplot()
    image = axes.imshow(means, cmap="viridis", aspect="auto")
    low, high = np.nanmin(means), np.nanmax(means)
    for (row, column), value in np.ndenumerate(means):
        there = np.isfinite(value)
        dark = there and value < low + 0.6 * (high - low)
        axes.text(
            column,
            row,
            f"{100 * value:.2f} %" if there else statuses[row][column],
            ha="center",
            va="center",
            color="white" if dark else INK if there else RED,
        )
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel=columns_name, ylabel=rows_name)
    bar = figure.colorbar(image, ax=axes, label=name)
    bar.ax.yaxis.set_major_formatter(_percent())
    return figure


def draw_costs(
    accuracies: Sequence[float],
    costs: Mapping[str, Sequence[float]],
    fronts: Mapping[str, Sequence[int]],
    names: Sequence[str],
    *,
    y_name: str,
) -> Figure:
    """A panel for each cost, a point for each name; those on the Pareto front are joined."""
    figure = Figure(figsize=(5.2 * len(costs), 4.2), layout="constrained", dpi=120)
    panels = figure.subplots(1, len(costs), squeeze=False, sharey=True)[0]
    for axes, (cost, values) in zip(panels, costs.items(), strict=True):
        front = fronts[cost]
        axes.scatter(values, accuracies, color="#94a3b8", s=28, zorder=2)
        x, y = [values[i] for i in front], [accuracies[i] for i in front]
        axes.plot(x, y, color=RED, marker="o", markersize=6, linewidth=1.4, zorder=3)
        middle = (min(values) + max(values)) / 2
        for i in front[:MANY]:
            is_left = values[i] <= middle
            axes.annotate(
                textwrap.fill(names[i], 28),
                (values[i], accuracies[i]),
                xytext=(6, -4) if is_left else (-6, 4),  # beside a line that rises
                textcoords="offset points",
                ha="left" if is_left else "right",
                va="top" if is_left else "bottom",
                fontsize=8,
                color=INK,
            )
        _style(axes)
        axes.margins(x=0.16, y=0.12)
        axes.set(xlabel=cost, ylabel=y_name if axes is panels[0] else "")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short_number(value)))
    panels[0].plot([], [], color=RED, marker="o", label="Pareto front: the best for its cost")
    panels[0].legend(loc="lower right", fontsize=8, frameon=False)
    return figure


def draw_curves(
    curves: Mapping[str, Sequence[tuple[int, float]]], *, y_name: str, x_name: str = "epoch"
) -> Figure:
    """A line for each name: (epoch, accuracy) pairs; the first name is the best and stands out."""
    figure, axes = _axes(y_name, x_name)
    many = len(curves) > MANY
    colours = ["#94a3b8"] * len(curves) if many else _distinct(len(curves))
    for place, (name, curve) in reversed(list(enumerate(curves.items()))):
        epochs, values = zip(*curve, strict=True)
        colour = RED if place == 0 else colours[place]
        label = name if place == 0 or not many else None
        axes.plot(epochs, values, color=colour, marker="o", markersize=3, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], fontsize=8, frameon=False, loc="lower right")
    return figure


def _is_log(x: Sequence[float]) -> bool:
    return min(x) > 0 and max(x) >= 8 * min(x)


def _tick_values(axes: Axes, x: Sequence[float]) -> None:
    """A tick at each value; two that are close share a label's place, the first has it."""
    values = sorted(set(x))
    place = np.log if _is_log(x) else np.asarray
    places = np.asarray(place(values), float)
    near = (places[-1] - places[0]) / 12
    labels, last = [], -np.inf
    for value, at in zip(values, places, strict=True):
        labels.append(f"{value:g}" if at - last >= near else "")
        last = at if labels[-1] else last
    axes.set_xticks(values, labels)
    axes.minorticks_off()


def _axes(y_name: str, x_name: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 4.2), layout="constrained", dpi=120)
    axes = figure.add_subplot()
    _style(axes)
    axes.set(xlabel=x_name, ylabel=y_name)
    return figure, axes


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.yaxis.set_major_formatter(_percent())


def _percent() -> FuncFormatter:
    return FuncFormatter(lambda value, _: f"{100 * value:.4g} %")


def _colours(count: int) -> list[Any]:
    return [colormaps["viridis"](x) for x in np.linspace(0.05, 0.85, count)]


def _distinct(count: int) -> list[Any]:
    """For what has no order, of `MANY` at most; none is like the red of the best."""
    return [colormaps["tab20"](i) for i in (0, 4, 8, 10, 12, 16, 18, 1, 5, 9, 11, 13)[:count]]


def _short_number(value: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:g}"
