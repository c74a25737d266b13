"""Figures of arrays, as matplotlib figures."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

INK, RED, GREY = "#1f2937", "#c2410c", "#94a3b8"


def chart(
    width: float, height: float, *, panels: int = 1, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of `width` inches with `panels`, three in a row of `height`, in the shared style."""
    columns = min(panels, 3)
    rows = -(-panels // columns)
    figure = Figure(figsize=(width, height * rows), layout="constrained", dpi=120)
    found = list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).flat)
    for axes in found[panels:]:
        axes.remove()
    for axes in found[:panels]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return figure, found[:panels]


def legend_below(figure: Figure, *, title: str | None = None) -> None:
    """A legend of the first axes below them, by which the figure becomes higher."""
    handles, names = figure.axes[0].get_legend_handles_labels()
    labels = [cut(name) for name in names]
    width, height = figure.get_size_inches()
    columns = max(1, min(len(labels), int(width / (0.6 + 0.07 * max(map(len, labels))))))
    rows = -(-len(labels) // columns) + (title is not None)
    figure.set_size_inches(width, height + 0.18 * rows)
    style: dict[str, Any] = {"fontsize": 8, "title_fontsize": 8, "frameon": False}
    figure.legend(handles, labels, loc="outside lower center", title=title, ncols=columns, **style)


def cut(name: str, length: int = 88) -> str:
    """`name` without its middle, if it is longer."""
    if len(name) <= length:
        return name
    return f"{name[: length // 2]}…{name[-(length // 2 - 1) :]}"


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
            style: dict[str, Any] = {"ha": "center", "va": "center", "color": colour}
            axes.text(column, row, f"{number}", weight=weight, size=9, **style)
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
    columns = max(5, round((2 * count) ** 0.5))  # wider than high, and as the title
    rows = max(1, -(-len(shown) // columns))
    # All images in one, as axes for each take a second. Distances are in pixels of the images.
    side = images.shape[1]
    right, down = side + 8, side + 14  # to the next image
    canvas = np.zeros((rows * down, columns * right), np.uint8)
    figure = Figure(figsize=(1.35 * columns, 1.55 * rows + 0.5), dpi=110)
    axes = figure.add_axes((0, 0, 1, 1.55 * rows / (1.55 * rows + 0.5)))
    axes.axis("off")
    for place, index in enumerate(shown):
        y, x = 13 + place // columns * down, 4 + place % columns * right
        canvas[y : y + side, x : x + side] = images[index]
        true, guess = classes[labels[index]], classes[predicted[index]]
        between = "\n" if len(true + guess) > 2 else " "
        title = f"{true},{between}not {guess} ({confidence[index]:.0%})"
        axes.text(x + side / 2, y - 1.5, title, fontsize=8, color=RED, ha="center", va="bottom")
    if not len(shown):
        axes.text(4, 13, "none is wrong")
    axes.imshow(canvas, cmap="gray_r", vmin=0, vmax=255, aspect="auto")
    figure.suptitle("Most confidently wrong: true class, predicted class, its probability")
    return figure


def draw_corruptions(rows: Sequence[dict[str, Any]], examples: Sequence[np.ndarray]) -> Figure:
    """The accuracy on each kind of corrupted images, beside an example, (H, W) uint8, of each.

    A mark shows the accuracy of the baseline, if there is one.
    """
    order = sorted(range(len(rows)), key=lambda i: rows[i]["accuracy"])
    figure, (axes,) = chart(7.5, 0.8 + 0.42 * len(rows))
    accuracies = [100 * rows[i]["accuracy"] for i in order]
    axes.barh(range(len(rows)), accuracies, height=0.7, color=GREY)
    for place, (index, accuracy) in enumerate(zip(order, accuracies, strict=True)):
        axes.text(accuracy + 0.7, place, f"{accuracy:.2f}", va="center", size=9, color=INK)
        image = OffsetImage(examples[index], zoom=0.85, cmap="gray_r")
        image.image.set_clim(0, 255)
        axes.add_artist(
            AnnotationBbox(image, (0, place), (-16, 0), boxcoords="offset points", frameon=False)
        )
    before = [value for i in order if (value := rows[i].get("baseline_accuracy")) is not None]
    if len(before) == len(rows):
        axes.vlines(
            [100 * value for value in before],
            [place - 0.42 for place in range(len(rows))],
            [place + 0.42 for place in range(len(rows))],
            color=RED,
            label="baseline",
        )
        axes.legend(loc="lower right", frameon=False)
    axes.set_yticks(range(len(rows)), [rows[i]["kind"].replace("_", " ") for i in order])
    axes.tick_params("y", length=0, pad=32)
    axes.grid(visible=False, axis="y")
    axes.set(xlim=(0, 112), xticks=range(0, 101, 20), xlabel="accuracy, %")
    axes.set_ylim(-0.7, len(rows) - 0.3)
    return figure


def png_and_pixels(figure: Figure) -> tuple[bytes, np.ndarray]:
    """The figure as a PNG and as (H, W, 4) uint8, drawn once."""
    canvas = FigureCanvasAgg(figure)
    canvas.print_png(png := io.BytesIO())
    return png.getvalue(), np.asarray(canvas.buffer_rgba())


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
