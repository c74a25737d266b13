"""The record of a benchmark as Markdown tables, and its part `growth` as a figure."""

from collections.abc import Callable, Sequence
from statistics import mean, median, stdev
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from mnv2_lightning.reports.tables import Section, markdown_table

TUTORIAL_IMAGES = 5 * 60_000  # five epochs

Side = Sequence[dict[str, Any]]  # the measurements of one side, one for each pair


def markdown(result: dict[str, Any]) -> str:
    """`result`: the content of benchmark.json."""
    machine, versions = result["hardware"], result["versions"]
    lines = [
        "# Benchmark",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['simd']}; Python {versions['python']}, torch {versions['torch']}, lightning "
        f"{versions['lightning']}; commit {result['git_commit']}.",
        f"Median of {result['pairs']} processes of each side, which take turns (smallest to "
        "largest), without warm-up." + (" A smoke run: ignore the numbers." * result["smoke"]),
    ]
    for name, part in result["parts"].items():
        title, head, rows = TABLES[name](part)
        lines += ["", f"## {title}", "", *markdown_table(head, rows)]
    return "\n".join(lines) + "\n"


def _limits(part: Any) -> Section:
    head = ["matrix product in fp32, GFLOP/s", "copy, GB/s read and written", "threads"]
    gflops, gigabytes = part["sgemm_gflops"], part["copy_gb_per_second"]
    return "Machine", head, [[f"{gflops:,.0f}", f"{gigabytes:.1f}", str(part["threads"])]]


def _same_work(part: Any) -> Section:
    head = ["", "tutorial, images/s", "ours, images/s", "ratio", "its memory", "our memory"]
    rows = []
    for row in part:
        tutorial, ours = row["sides"]["tutorial"], row["sides"]["ours"]
        cells = [f"{row['image_size']} px, batch {row['batch_size']}"]
        cells += [spread(rates(tutorial)), spread(rates(ours)), times(ours, tutorial)]
        rows.append([*cells, _memory(tutorial), _memory(ours)])
    return "Same work: the tutorial's network, batch size and optimizer", head, rows


def _loop(part: Any) -> Section:
    names = {"bare": "bare PyTorch loop, EMA", "trainer": "our Trainer, EMA"}
    head = ["28 px, batch 128", "images/s", "ratio"]
    return "Loop overhead", head, _ratios(part, names, "bare")


def _input_pipeline(part: Any) -> Section:
    names = {
        "tutorial": "the tutorial's loader",
        "plain": "ours",
        "augmented": "ours, augmented",
        "training": "training, augmented",
    }
    head = ["28 px, batch 128", "images/s", "against training"]
    return "Input pipeline alone", head, _ratios(part, names, "training")


def _ratios(part: Any, names: dict[str, str], base: str) -> list[list[str]]:
    """For each side its name, images per second, and their ratio to those of side `base`."""
    return [
        [name, spread(rates(part[side])), times(part[side], part[base])]
        for side, name in names.items()
    ]


def _inference(part: Any) -> Section:
    head = ["28 px", "network", "ms a call", "images/s", "against eager", "compiling"]
    rows = []
    for row in part:
        for kind, side in row["sides"].items():
            milliseconds = [1000 * x["median_seconds"] for x in side]
            compiling = [x["compile_seconds"] for x in side if x["compile_seconds"]]
            cells = [f"{row['model']}, batch {row['batch_size']}", kind]
            cells += [spread(milliseconds, ".2f"), f"{median(rates(side)):,.0f}"]
            cells += [times(side, row["sides"]["eager"])]
            rows.append([*cells, f"{median(compiling):.0f} s" if compiling else ""])
    return "Inference", head, rows


def _growth(part: Any) -> Section:
    head = ["width", "image", "batch", "images/s", "multiply-adds", "GFLOP/s", "memory"]
    rows = [
        [
            f"{row['width']:g}",
            f"{row['image_size']} px",
            str(row["batch_size"]),
            f"{row['images_per_second']:,.1f}",
            f"{row['multiply_adds'] / 1e6:,.1f} M",
            f"{row['gflops']:,.0f}",
            _memory([row]),
        ]
        for row in part
    ]
    return "Growth: a bare training step of the paper's network and strides", head, rows


def _time_to_accuracy(part: Any) -> Section:
    """The tutorial's five epochs are computed from its images per second in the same call."""
    images_per_second = median(rates(part["tutorial"]))
    tutorial = TUTORIAL_IMAGES / images_per_second
    name = f"the tutorial's five epochs at {images_per_second:.1f} images/s"
    head = ["", "test accuracy, %", "training, s", "seeds", "against the tutorial", "parameters"]
    rows = [[name, "", f"{tutorial:,.0f}", "", "1", ""]]
    for name, runs in part.items():
        if name != "tutorial":
            seconds = [run["train_seconds"] for run in runs]
            cells = [name, deviation([100 * run["test_accuracy"] for run in runs], ".2f")]
            cells += [deviation(seconds), str(len(runs)), f"{tutorial / mean(seconds):,.0f}"]
            rows.append([*cells, f"{runs[0]['parameters']:,}"])
    return "Time to accuracy: mean and standard deviation over seeds", head, rows


TABLES: dict[str, Callable[[Any], Section]] = {
    "limits": _limits,
    "same_work": _same_work,
    "loop": _loop,
    "input_pipeline": _input_pipeline,
    "inference": _inference,
    "growth": _growth,
    "time_to_accuracy": _time_to_accuracy,
}


def rates(side: Side) -> list[float]:
    """Images per second of each measurement."""
    return [run["images_per_second"] for run in side]


def times(side: Side, other: Side) -> str:
    """Median over the pairs of the ratio of images per second."""
    return f"{median(a / b for a, b in zip(rates(side), rates(other), strict=True)):.2f}"


def spread(values: Sequence[float], form: str = ",.1f") -> str:
    """Median, smallest and largest."""
    if len(values) == 1:
        return f"{values[0]:{form}}"
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def deviation(values: Sequence[float], form: str = ",.1f") -> str:
    """Mean and standard deviation."""
    if len(values) == 1:
        return f"{values[0]:{form}}"
    return f"{mean(values):{form}} ± {stdev(values):{form}}"


def _memory(side: Side) -> str:
    return f"{max(run['peak_rss_bytes'] for run in side) / 1e9:.2f} GB"


def draw_growth(part: Any, limits: Any | None) -> Figure:
    """Images per second and GFLOP/s over the image size, a line for each width and batch size."""
    figure = Figure(figsize=(10, 4.2), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2)
    widths, batches, sizes = (
        sorted({row[key] for row in part}) for key in ("width", "batch_size", "image_size")
    )
    for width in widths:
        for batch in batches:
            rows = [r for r in part if r["width"] == width and r["batch_size"] == batch]
            style = {
                "color": f"C{widths.index(width)}",
                "linestyle": ("-", "--", ":")[batches.index(batch) % 3],
                "marker": "o",
                "label": f"width {width:g}, batch {batch}",
            }
            x = [r["image_size"] for r in rows]
            left.plot(x, [r["images_per_second"] for r in rows], **style)
            right.plot(x, [r["gflops"] for r in rows], **style)
    if limits is not None:
        right.axhline(limits["sgemm_gflops"], color="grey", linewidth=1)
        right.annotate("matrix product", (sizes[0], limits["sgemm_gflops"]), va="bottom")
    left.set(xscale="log", yscale="log", xlabel="image, px", ylabel="images per second")
    left.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:,.0f}")
    right.set(xscale="log", ylim=(0, None), xlabel="image, px", ylabel="GFLOP/s")
    for axes in (left, right):
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(fontsize=8, frameon=False)
    return figure
