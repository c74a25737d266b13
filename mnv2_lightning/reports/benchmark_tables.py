"""A benchmark's record as Markdown, and its growth as a plot."""

from collections.abc import Sequence
from statistics import mean, median, stdev
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from mnv2_lightning.reports.markdown import table

TUTORIAL_IMAGES = 5 * 60_000  # five epochs


def markdown(result: dict[str, Any]) -> str:
    """All parts that were measured: medians over pairs, with the smallest and the largest."""
    machine, versions = result["hardware"], result["versions"]
    lines = [
        "# Benchmark",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['simd']}; Python {versions['python']}, torch {versions['torch']}, lightning "
        f"{versions['lightning']}; commit {result['git_commit']}.",
        f"Median of {result['pairs']} fresh processes of each side in turns (smallest to largest); "
        "warm-up left out." + (" A smoke run: its figures mean nothing." * result["smoke"]),
    ]
    for name, part in result["parts"].items():
        lines += ["", *TABLES[name](part)]
    return "\n".join(lines) + "\n"


def _limits(part: Any) -> list[str]:
    return [
        "## The machine",
        "",
        f"Matrix product in fp32: {part['sgemm_gflops']:,.0f} GFLOP/s. Copy: "
        f"{part['copy_gb_per_second']:.1f} GB/s read and written. Threads: {part['threads']}.",
    ]


def _same_work(part: Any) -> list[str]:
    rows = [
        [
            f"{row['image_size']} px, batch {row['batch_size']}",
            spread(rates(row["sides"]["tutorial"])),
            spread(rates(row["sides"]["ours"])),
            times(row["sides"]["ours"], row["sides"]["tutorial"]),
            memory(row["sides"]["tutorial"]),
            memory(row["sides"]["ours"]),
        ]
        for row in part
    ]
    head = ("", "tutorial, images/s", "ours, images/s", "ratio", "its memory", "our memory")
    return ["## Same work: the tutorial's network, batch and optimizer", "", *table(head, rows)]


def _loop(part: Any) -> list[str]:
    rows = [
        [name, spread(rates(part[key])), times(part[key], part["bare"])]
        for name, key in (("bare PyTorch loop, EMA", "bare"), ("our Trainer, EMA", "trainer"))
    ]
    return ["## Loop overhead: 28 px, batch 128", "", *table(("", "images/s", "ratio"), rows)]


def _feed(part: Any) -> list[str]:
    names = {
        "tutorial": "the tutorial's loader",
        "plain": "ours",
        "augmented": "ours, augmented",
        "training": "training, augmented",
    }
    rows = [
        [name, spread(rates(part[key])), times(part[key], part["training"])]
        for key, name in names.items()
    ]
    head = ("28 px, batch 128", "images/s", "against training")
    return ["## Feed: the data pipelines alone", "", *table(head, rows)]


def _inference(part: Any) -> list[str]:
    rows = []
    for row in part:
        for kind, side in row["sides"].items():
            milliseconds = [1000 * x["median_seconds"] for x in side]
            compiling = [x["compile_seconds"] for x in side if x["compile_seconds"]]
            rows.append(
                [
                    f"{row['model']}, batch {row['batch_size']}",
                    kind,
                    spread(milliseconds, ".2f"),
                    f"{median(rates(side)):,.0f}",
                    times(side, row["sides"]["eager"]),
                    f"{median(compiling):.0f} s" if compiling else "",
                ]
            )
    head = ("28 px", "network", "ms a call", "images/s", "against eager", "compiling")
    return ["## Inference", "", *table(head, rows)]


def _growth(part: Any) -> list[str]:
    rows = [
        [
            f"{row['width']:g}",
            f"{row['image_size']} px",
            str(row["batch_size"]),
            f"{row['images_per_second']:,.1f}",
            f"{row['multiply_adds'] / 1e6:,.1f} M",
            f"{row['gflops']:,.0f}",
            f"{row['peak_rss_bytes'] / 1e9:.2f} GB",
        ]
        for row in part
    ]
    head = ("width", "image", "batch", "images/s", "multiply-adds", "GFLOP/s", "memory")
    return [
        "## Growth: the paper's network and strides, a bare training step",
        "",
        *table(head, rows),
    ]


def _time_to_accuracy(part: Any) -> list[str]:
    rate = median(rates(part["tutorial"]))
    tutorial = TUTORIAL_IMAGES / rate
    rows = []
    for name, runs in part.items():
        if name == "tutorial":
            continue
        seconds = [run["train_seconds"] for run in runs]
        rows.append(
            [
                name,
                deviation([100 * run["test_accuracy"] for run in runs], ".2f"),
                deviation(seconds),
                str(len(runs)),
                f"{tutorial / mean(seconds):,.0f}",
                f"{runs[0]['parameters']:,}",
            ]
        )
    head = ("", "test accuracy, %", "training, s", "seeds", "against the tutorial", "parameters")
    return [
        "## Time to accuracy: mean and standard deviation over seeds",
        "",
        f"The tutorial's five epochs at its rate in this call, {rate:.1f} images/s: "
        f"{tutorial:,.0f} s.",
        "",
        *table(head, rows),
    ]


TABLES = {
    "limits": _limits,
    "same_work": _same_work,
    "loop": _loop,
    "feed": _feed,
    "inference": _inference,
    "growth": _growth,
    "time_to_accuracy": _time_to_accuracy,
}


def rates(side: Sequence[dict[str, Any]]) -> list[float]:
    return [run["images_per_second"] for run in side]


def spread(values: Sequence[float], form: str = ",.1f") -> str:
    if len(values) == 1:
        return f"{values[0]:{form}}"
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def deviation(values: Sequence[float], form: str = ",.1f") -> str:
    if len(values) == 1:
        return f"{values[0]:{form}}"
    return f"{mean(values):{form}} ± {stdev(values):{form}}"


def times(side: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> str:
    """The median over the pairs of one rate over the other."""
    return f"{median(a / b for a, b in zip(rates(side), rates(other), strict=True)):.2f}"


def memory(side: Sequence[dict[str, Any]]) -> str:
    return f"{max(run['peak_rss_bytes'] for run in side) / 1e9:.2f} GB"


def draw_growth(part: Any, limits: Any | None) -> Figure:
    """Images and operations a second over the image's side, a line for each width and batch."""
    figure = Figure(figsize=(10, 4.2), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2)
    widths = sorted({row["width"] for row in part})
    batches = sorted({row["batch_size"] for row in part})
    for width in widths:
        for batch in batches:
            rows = [r for r in part if r["width"] == width and r["batch_size"] == batch]
            style = {
                "color": f"C{widths.index(width)}",
                "linestyle": ("-", "--", ":")[batches.index(batch) % 3],
                "marker": "o",
                "label": f"width {width:g}, batch {batch}",
            }
            sizes = [r["image_size"] for r in rows]
            left.plot(sizes, [r["images_per_second"] for r in rows], **style)
            right.plot(sizes, [r["gflops"] for r in rows], **style)
    if limits is not None:
        right.axhline(limits["sgemm_gflops"], color="grey", linewidth=1)
        right.annotate("matrix product", (sizes[0], limits["sgemm_gflops"]), va="bottom")
    left.set(xscale="log", yscale="log", xlabel="image, px", ylabel="images a second")
    left.yaxis.set(
        major_locator=LogLocator(subs=(1, 2, 5)),
        major_formatter=StrMethodFormatter("{x:,.0f}"),
        minor_locator=NullLocator(),
    )
    right.set(xscale="log", ylim=(0, None), xlabel="image, px", ylabel="GFLOP/s")
    for axes in (left, right):
        axes.set_xticks(sorted({r["image_size"] for r in part}))
        axes.set_xticklabels([str(x) for x in sorted({r["image_size"] for r in part})])
        axes.xaxis.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(fontsize=8, frameon=False)
    return figure
