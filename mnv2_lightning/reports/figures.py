"""Figures of arrays, as matplotlib figures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, RED, GREY = "#1f2937", "#c2410c", "#94a3b8"


def chart(
    width: float, height: float, *, panels: int = 1, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of `width` x `height` inches with `panels` side by side, in the shared style."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    found = list(figure.subplots(1, panels, squeeze=False, sharey=sharey)[0])
    for axes in found:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return figure, found


def confusion_matrix(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(N,) labels and (N, C) probabilities -> (C, C) counts, rows true, columns predicted."""
    classes = probabilities.shape[1]
    flat = labels * classes + probabilities.argmax(1)
    return np.bincount(flat, minlength=classes**2).reshape(classes, classes)


def draw_confusion(matrix: np.ndarray, classes: Sequence[str]) -> Figure:
    """Counts of all images; the colour shows wrong images only, which are few."""
    side = max(7, 0.35 * len(classes))
    figure = Figure(figsize=(side, side - 0.6), layout="constrained", dpi=110)
    axes = figure.add_subplot()
    errors = matrix.copy()
    np.fill_diagonal(errors, 0)
    image = axes.imshow(errors, cmap="Oranges", vmin=0, vmax=max(1, errors.max()))
    for (row, column), number in np.ndenumerate(matrix):
        if number:
            colour = "white" if errors[row, column] > errors.max() / 2 else INK
            weight = "bold" if row == column else "normal"
            axes.annotate(
                number, (column, row), ha="center", va="center", color=colour, weight=weight, size=9
            )
    places, turned = range(len(classes)), 45 if max(map(len, classes)) > 2 else 0
    axes.set_xticks(places, classes, rotation=turned, ha="right" if turned else "center")
    axes.set_yticks(places, classes)
    axes.set(xlabel="predicted", ylabel="true")
    wrong = int(errors.sum())
    axes.set_title(f"{wrong} of {matrix.sum():,} wrong ({1 - wrong / matrix.sum():.2%} right)")
    figure.colorbar(image, ax=axes, label="wrong images", shrink=0.8)
    return figure


def draw_wrong(
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    *,
    count: int,
) -> Figure:
    """The `count` wrong images of (N, 28, 28) with the highest predicted probability."""
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(predicted != labels)
    shown = wrong[np.argsort(-confidence[wrong])][:count]
    columns = max(3, round((2 * count) ** 0.5))  # wider than high
    rows = max(1, -(-len(shown) // columns))
    figure = Figure(figsize=(1.35 * columns, 1.55 * rows + 0.5), layout="constrained", dpi=110)
    figure.suptitle("Most confidently wrong: true class, predicted class, its probability")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, index in zip(grid.flat, shown, strict=False):
        axes.imshow(images[index], cmap="gray_r", vmin=0, vmax=255)
        true, guess = classes[labels[index]], classes[predicted[index]]
        title = f"{true}, not {guess} ({confidence[index]:.0%})"
        axes.set_title(title, fontsize=8, color=RED, pad=2)
    if not len(shown):
        grid.flat[0].text(0, 0.5, "none is wrong")
    return figure


def draw_collapse(
    spiral: np.ndarray, restored: Sequence[np.ndarray], rows: Sequence[dict[str, Any]]
) -> Figure:
    """The (2, N) spiral, and what ReLU left of it at `m` with shares `measured` and `theorem`."""
    figure = Figure(figsize=(2.2 * (len(rows) + 1), 2.75), layout="constrained", dpi=130)
    titles = ["input", *(f"m = {row['m']}" for row in rows)]
    shares = [f"survives: {r['measured']:.2%}\ntheorem 1: {r['theorem']:.2%}" for r in rows]
    panels = zip(titles, [spiral, *restored], ["a 2-D spiral", *shares], strict=True)
    limit = 1.15 * np.abs(spiral).max()
    for index, (title, points, text) in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(titles), index)
        x, y = points
        axes.scatter(x, y, c=np.linspace(0, 1, len(x)), cmap="viridis", s=3, linewidths=0)
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
        axes.set_title(title, fontsize=11)
        axes.set_xlabel(text, fontsize=9)
    return figure
