"""The record of a benchmark as Markdown tables, and its part `growth` as a figure."""

from collections.abc import Callable, Sequence
from itertools import product
from statistics import mean, median, stdev
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from mnv2_lightning.reports.figures import chart
from mnv2_lightning.reports.sections import Section, markdown_section

TUTORIAL_IMAGES = 5 * 60_000  # five epochs

Side = Sequence[dict[str, Any]]  # the measurements of one side, one for each pair


def markdown(result: dict[str, Any]) -> str:
    """`result`: the content of benchmark.json."""
    machine, versions = result["hardware"], result["versions"]
    start = (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['simd']}; Python {versions['python']}, torch {versions['torch']}, lightning "
        f"{versions['lightning']}; commit {result['git_commit']}.\n"
        f"Median of {result['pairs']} processes of each side, which take turns (smallest to "
        "largest), without warm-up."
    )
    start += " A smoke run: ignore the numbers." * result["smoke"]
    tables = [markdown_section(TABLES[name](part)) for name, part in result["parts"].items()]
    return "\n\n".join(["# Benchmark", start, *tables]) + "\n"


def limits(part: Any) -> Section:
    head = ["matrix product in fp32, GFLOP/s", "copy, GB/s read and written", "threads"]
    gflops, gigabytes = part["sgemm_gflops"], part["copy_gb_per_second"]
    return "Machine", head, [[f"{gflops:,.0f}", f"{gigabytes:.1f}", str(part["threads"])]]


def same_work(part: Any) -> Section:
    head = ["", "tutorial, images/s", "ours, images/s", "ratio", "its memory", "our memory"]
    rows = []
    for row in part:
        tutorial, ours = row["sides"]["tutorial"], row["sides"]["ours"]
        cells = [f"{row['image_size']} px, batch {row['batch_size']}"]
        cells += [spread(rates(tutorial)), spread(rates(ours)), times(ours, tutorial)]
        rows.append([*cells, _memory(tutorial), _memory(ours)])
    return "Same work: the tutorial's network, batch size and optimizer", head, rows


def loop(part: Any) -> Section:
    names = {"bare": "bare PyTorch loop, EMA", "trainer": "our Trainer, EMA"}
    return "Loop overhead", ["28 px, batch 128", "images/s", "ratio"], _ratios(part, names, "bare")


def input_pipeline(part: Any) -> Section:
    names = {"tutorial": "the tutorial's loader", "plain": "ours", "augmented": "ours, augmented"}
    names["training"] = "training, augmented"
    head = ["28 px, batch 128", "images/s", "against training"]
    return "Input pipeline alone", head, _ratios(part, names, "training")


def _ratios(part: Any, names: dict[str, str], base: str) -> list[list[str]]:
    """For each side its name, images per second, and their ratio to those of side `base`."""
    return [
        [name, spread(rates(part[side])), times(part[side], part[base])]
        for side, name in names.items()
    ]


def inference(part: Any) -> Section:
    head = ["28 px", "network", "ms a call", "images/s", "against eager", "compiling"]
    head += ["bytes", "accuracy, %"] if any("files" in row for row in part) else []
    rows = []
    for row in part:
        for kind, side in row["sides"].items():
            milliseconds = [1000 * x["median_seconds"] for x in side]
            compiling = [x["compile_seconds"] for x in side if x["compile_seconds"]]
            cells = [f"{row['model']}, batch {row['batch_size']}", kind]
            cells += [spread(milliseconds, ".2f"), f"{median(rates(side)):,.0f}"]
            cells += [times(side, row["sides"]["eager"])]
            cells += [f"{median(compiling):.0f} s" if compiling else ""]
            if (files := row.get("files")) is not None:
                file = files.get(kind)
                of_network = next((file["torch_accuracy"] for file in files.values()), None)
                accuracy = file["accuracy"] if file else of_network
                cells += [f"{file['bytes']:,}" if file else ""]
                cells += [f"{100 * accuracy:.2f}" if accuracy is not None else ""]
            rows.append(cells + [""] * (len(head) - len(cells)))
    return "Inference", head, rows


def growth(part: Any) -> Section:
    head = ["width", "image", "batch", "images/s", "multiply-adds", "GFLOP/s", "memory"]
    rows = []
    for row in part:
        cells = [f"{row['width']:g}", f"{row['image_size']} px", str(row["batch_size"])]
        cells += [f"{row['images_per_second']:,.1f}", f"{row['multiply_adds'] / 1e6:,.1f} M"]
        rows.append([*cells, f"{row['gflops']:,.0f}", _memory([row])])
    return "Growth: a bare training step of the paper's network and strides", head, rows


def time_to_accuracy(part: Any) -> Section:
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
    table.__name__: table
    for table in (limits, same_work, loop, input_pipeline, inference, growth, time_to_accuracy)
}


def rates(side: Side) -> list[float]:
    """Images per second of each measurement."""
    return [run["images_per_second"] for run in side]


def times(side: Side, other: Side) -> str:
    """Median over the pairs of the ratio of images per second."""
    return f"{median(a / b for a, b in zip(rates(side), rates(other), strict=True)):.2f}"


def spread(values: Sequence[float], form: str = ",.1f") -> str:
    """Median, smallest and largest."""
    ends = f" ({min(values):{form}} to {max(values):{form}})" if len(values) > 1 else ""
    return f"{median(values):{form}}{ends}"


def deviation(values: Sequence[float], form: str = ",.1f") -> str:
    """Mean and standard deviation."""
    error = f" ± {stdev(values):{form}}" if len(values) > 1 else ""
    return f"{mean(values):{form}}{error}"


def _memory(side: Side) -> str:
    peaks = [run["peak_rss_bytes"] for run in side]
    return "-" if None in peaks else f"{max(peaks) / 1e9:.2f} GB"  # unknown on Windows


def draw_growth(part: Any, limits: Any | None) -> Figure:
    """Images per second and GFLOP/s over the image size, a line for each width and batch size."""
    figure, (left, right) = chart(10, 4.2, panels=2)
    widths, batches, sizes = (
        sorted({row[key] for row in part}) for key in ("width", "batch_size", "image_size")
    )
    for width, batch in product(widths, batches):
        rows = [r for r in part if r["width"] == width and r["batch_size"] == batch]
        line = f"C{widths.index(width)}o" + ("-", "--", ":")[batches.index(batch) % 3]
        x, label = [r["image_size"] for r in rows], f"width {width:g}, batch {batch}"
        for axes, key in ((left, "images_per_second"), (right, "gflops")):
            axes.plot(x, [r[key] for r in rows], line, label=label)
    if limits is not None:
        right.axhline(limits["sgemm_gflops"], color="grey", linewidth=1)
        right.annotate("matrix product", (sizes[0], limits["sgemm_gflops"]), va="bottom")
    left.set(yscale="log", ylabel="images per second")
    left.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:,.0f}")
    right.set(ylim=(0, None), ylabel="GFLOP/s")
    for axes in (left, right):
        axes.set(xscale="log", xlabel="image, px")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
    left.legend(fontsize=8, frameon=False)
    return figure
