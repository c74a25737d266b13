"""Loss and accuracy of runs while they trained."""

from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from mnv2_lightning.reports.collect import Row
from mnv2_lightning.reports.figures import INK, RED, chart, legend_below

MANY = 12  # runs in a figure
STYLES: dict[str, dict[str, Any]] = {
    "val": {"linewidth": 1.6, "zorder": 3},
    "train": {"linewidth": 1.1, "linestyle": "--", "alpha": 0.8},
}


def draw(rows: Sequence[Row], metric: str) -> Figure | None:
    """The "loss" or "accuracy" of each run over its optimizer steps; None if no run has two values.

    Validation is solid, training dashed. The legend names the runs, if there are several.
    """
    figure, (axes,) = chart(6.4, 4.2)
    is_one, drawn, longest = len(rows) == 1, [], 0
    for place, row in enumerate(rows):
        name: str | None = row["name"]
        colour: Any = colormaps["tab20"](2 * place % 20 + place // 10)  # ten dark, then light
        for split, style in STYLES.items():
            curve = row["curves"].get(f"{split}/{metric}", [])
            points = [(step + 1, value) for step, _, value in curve if isfinite(value)]
            if not points:
                continue
            if is_one:
                name, colour = ("validation", RED) if split == "val" else ("training", INK)
            marker = "o" if len(points) < 30 else ""
            axes.plot(
                *np.transpose(points),
                color=colour,
                label=name,
                marker=marker,
                markersize=3,
                **style,
            )
            drawn += [value for _, value in points]
            longest = max(longest, len(points))
            name = None  # one entry for each run
    if longest < 2:
        return None
    if metric == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    elif max(drawn) >= 1000 * min(drawn) > 0:  # a run that diverges
        axes.set_yscale("log")
    axes.xaxis.set(
        major_locator=MaxNLocator(5, integer=True), major_formatter=StrMethodFormatter("{x:,.0f}")
    )
    note = "" if is_one else " (dashed: training)"
    axes.set(xlabel="optimizer step", ylabel=f"{metric}{note}")
    legend_below(figure)
    return figure
