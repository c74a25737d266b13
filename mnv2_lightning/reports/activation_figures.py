"""The figure of `activations`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mnv2_lightning.reports.figures import GREY, INK, RED


def draw(
    result: dict[str, Any],
    block: str,
    before: np.ndarray,
    after: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
) -> Figure:
    """Positive channels by layer; accuracy with a ReLU6 in a bottleneck; what it does to features.

    `before`, `after`: (N, F) outputs of `block`, without and with a ReLU6; `labels`: (N,).
    """
    figure = Figure(figsize=(12, 8.4), layout="constrained", dpi=110)
    axes = list(figure.subplots(2, 2).flat)
    for place in axes[:2]:
        place.spines[["top", "right"]].set_visible(False)
        place.grid(alpha=0.25)
    _draw_shares(axes[0], result["positive"])
    _draw_accuracies(axes[1], result)
    middle = before.mean(0)
    directions = np.linalg.svd(before - middle, full_matrices=False)[2][:2].T
    points = [(x - middle) @ directions for x in (before, after)]
    low, high = np.concatenate(points).min(0), np.concatenate(points).max(0)
    titles = f"output of {block}, as it is", "the same after a ReLU6"
    for place, shown, title in zip(axes[2:], points, titles, strict=True):
        for index, name in enumerate(classes):
            of = shown[labels == index]
            place.scatter(*of.T, s=5, alpha=0.6, linewidths=0, color=f"C{index % 10}", label=name)
        place.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xticks=[], yticks=[])
        place.set_title(title, fontsize=10)
        place.set(xlabel="first principal component", ylabel="second")
    axes[3].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, markerscale=3)
    return figure


def _draw_shares(axes: Axes, positive: dict[str, list[dict[str, Any]]]) -> None:
    """Mean, least and most of each layer, before and after training, and the thresholds."""
    names = [row["block"].removeprefix("stages.") for row in positive["trained"]]
    for when, shift, color in (("initial", -0.12, GREY), ("trained", 0.12, RED)):
        rows, x = positive[when], np.arange(len(names)) + shift
        mean = np.array([100 * row["mean"] for row in rows])
        least, most = ([100 * row[end] for row in rows] for end in ("least", "most"))
        deviation = [100 * row["deviation"] for row in rows]
        axes.vlines(x, least, most, color=color, linewidth=1)
        axes.errorbar(
            x, mean, deviation, fmt="o", color=color, linewidth=4, markersize=6, label=when
        )
    thresholds = [100 * row["threshold"] for row in positive["trained"]]
    axes.hlines(
        thresholds,
        np.arange(len(names)) - 0.35,
        np.arange(len(names)) + 0.35,
        color=INK,
        linestyle="dashed",
        label="threshold 1/t",
    )
    axes.set_xticks(range(len(names)), names, fontsize=8, rotation=0 if len(names) < 9 else 90)
    axes.set(ylim=(0, 100), xlabel="expansion of block", ylabel="positive channels, %")
    axes.set_title("before the ReLU6: mean, standard deviation, range over positions", fontsize=10)
    axes.legend(frameon=False, fontsize=9)


def _draw_accuracies(axes: Axes, result: dict[str, Any]) -> None:
    rows = result["bottlenecks"]
    names = [row["block"].removeprefix("stages.") for row in rows]
    values = [100 * row["accuracy"] for row in rows]
    axes.bar(range(len(rows)), values, color=GREY, width=0.7)
    axes.axhline(100 * result["accuracy"], color=INK, linewidth=1, linestyle="dashed")
    axes.text(len(names) - 0.5, 100 * result["accuracy"] + 1, "without", ha="right", color=INK)
    for place, (row, value) in enumerate(zip(rows, values, strict=True)):
        text = f"{value:.1f}\n-{100 * row['lost']:.0f} %" if len(rows) < 9 else f"{value:.0f}"
        axes.text(place, value - 1, text, ha="center", va="top", fontsize=8, color=INK)
    axes.set_xticks(range(len(names)), names, fontsize=8, rotation=0 if len(names) < 9 else 90)
    axes.set(ylim=(0, 108), xlabel="ReLU6 after the projection of block", ylabel="accuracy, %")
    title = "a ReLU6 in one bottleneck of the trained network"
    axes.set_title(f"{title}; energy lost" if len(rows) < 9 else title, fontsize=10)
