"""Results as text for the terminal: of runs, sweeps, searches, evaluations, and devices."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from mnv2_lightning.reports import leaderboard
from mnv2_lightning.reports.collect import Row
from mnv2_lightning.reports.sections import (
    Section,
    failed_rows,
    leaderboard_section,
    number,
    run_sections,
    run_summary,
    share,
    summary,
)
from mnv2_lightning.runs.config import saves_checkpoints


def start(
    record: dict[str, Any],
    accelerator: str,
    cfg: DictConfig,
    *,
    memory: int | None,
    loaded: str | None = None,
) -> str:
    """The start of a run: network, data, device, costs.

    `memory`: estimated bytes, if known. `loaded`: see `pretrained.load`.
    """
    data = cfg.data.get("dataset") or cfg.data._target_.rpartition(".")[2]
    lines = [
        f"{cfg.model._target_.rpartition('.')[2]} on {data}, {accelerator}, "
        f"{record['precision']}, seed {record['seed']}",
        f"  parameters     {record['parameters']:,}",
    ]
    if (cost := record["multiply_adds"]) is not None:
        lines.append(f"  multiply-adds  {cost:,} an image of {cfg.data.image_size} px")
    if sizes := record["map_sizes"].values():
        lines.append(f"  map sizes      {' '.join(map(str, sizes))} px")
    if memory is not None:
        batch = f"training on batches of {cfg.data.batch_size}"
        lines.append(f"  memory         about {memory / 1e9:.2f} GB, {batch}")
    if loaded is not None:
        lines.append(f"  {loaded}")
    if not saves_checkpoints(cfg):
        lines.append("  no checkpoints: the run cannot be resumed; the last weights are tested")
    if cfg.trainer.precision == "16-mixed" and record["precision"] == "bf16-mixed":
        lines.append("  16-mixed needs a GPU: the CPU computes in bf16-mixed instead")
    if "bf16" in record["precision"] and accelerator == "cpu" and not record["hardware"]["bf16"]:
        lines.append("  this processor has no bf16 instructions: 32-true is many times faster here")
    return "\n".join(lines)


def end(record: dict[str, Any], run_dir: Path) -> str:
    """The result of a run, and its folder."""
    rows = [
        ("status", record["status"]),
        ("test accuracy", share(record["test_accuracy"])),
        ("test loss", number(record["test_loss"], ".4f")),
        ("val accuracy", share(record["val_accuracy"])),
        ("tested", record["tested_checkpoint"] or "the weights as they are"),
        ("training", number(record["train_seconds"], ".1f", " s")),
        ("images a second", number(record["images_per_second"], ",.0f")),
        ("peak memory", number((record["peak_rss_bytes"] or 0) / 1e9 or None, ".2f", " GB")),
    ]
    lines = "\n".join(f"  {name:<16}  {value}" for name, value in rows)
    return f"result\n{lines}\nrun: {run_dir}"


def sweep(rows: Sequence[Row]) -> str:
    """The leaderboard, its long values, and the runs that did not finish."""
    _, head, cells = leaderboard_section(rows)
    long = [f"  {key} {name}: {value}" for key, name, value in leaderboard.long_values(rows)]
    failed = [f"  {name}  {status}: {reason}" for name, status, reason in failed_rows(rows)]
    return "\n".join([summary(rows), *_aligned([head, *cells]), *long, *failed])


def comparison(shown: Sequence[Section]) -> str:
    """The arms and their differences."""
    lines = [[title, *_aligned([head, *cells])] for title, head, cells in shown]
    return "\n".join(line for table in lines for line in table)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table as text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]


def run(row: Row) -> str:
    """The summary and the result of a run."""
    lines = [
        f"  {key:<22}  {value}" for _, _, cells in run_sections(row)[:1] for key, value in cells
    ]
    return "\n".join([run_summary(row), *lines])


def per_class(matrix: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall and F1 (None if undefined) and the number of images of each class.

    `matrix`: (C, C) counts, true classes in rows and predicted classes in columns.
    """
    counts = matrix.diagonal().tolist(), matrix.sum(1).tolist(), matrix.sum(0).tolist()
    return [
        {
            "class": name,
            "precision": correct / predicted if predicted else None,
            "recall": correct / true if true else None,
            "f1": 2 * correct / (true + predicted) if true + predicted else None,
            "images": true,
        }
        for name, correct, true, predicted in zip(classes, *counts, strict=True)
    ]


def matrix_csv(matrix: np.ndarray, classes: Sequence[str]) -> str:
    """The confusion matrix as CSV, true classes in rows and predicted classes in columns."""
    rows = [["true", *classes], *([c, *r] for c, r in zip(classes, matrix.tolist(), strict=True))]
    return "".join(",".join(map(str, row)) + "\n" for row in rows)


def evaluation(result: dict[str, Any]) -> str:
    """The result of an evaluation, with a row for each class."""
    views = f" over {result['views']} views" if result["views"] > 1 else ""
    rows = [["class", "precision", "recall", "F1", "images"]]
    for row in result["classes"]:
        shares = [share(row[key]) for key in ("precision", "recall", "f1")]
        rows.append([row["class"], *shares, f"{row['images']:,}"])
    images = "" if result["images"] is None else f"{result['images']:,} "
    start = (
        f"{result['checkpoint']} on {images}{result['split']} images{views}: "
        f"accuracy {share(result['accuracy'])}, loss {number(result['loss'], '.4f')} "
        f"({result['precision']})"
    )
    return "\n".join([start, *(_aligned(rows) if result["classes"] else [])])


def evaluations(results: Sequence[dict[str, Any]]) -> str:
    """A row for each run of a sweep."""
    rows = [["run", "accuracy", "on corrupted images"]]
    for result in results:
        corrupted = share(result.get("corrupted_accuracy"))
        rows.append([result["run"], share(result["accuracy"]), corrupted])
    if not any("corrupted_accuracy" in result for result in results):
        rows = [row[:2] for row in rows]
    return "\n".join(_aligned(rows))


def corruptions(result: dict[str, Any]) -> str:
    """The accuracy on each kind of corrupted images, and the mean."""
    means = [result["corrupted_accuracy"], result["error_ratio"]]
    found = [(row["kind"], row["accuracy"], row["error_ratio"]) for row in result["corruptions"]]
    rows = [
        ["corruption", "accuracy", "error ratio"],
        *([kind, share(value), number(error, ".2f")] for kind, value, error in found),
        ["mean", share(means[0]), number(means[1], ".2f")],
    ]
    if result["error_ratio"] is None:
        rows = [row[:2] for row in rows]
    return "\n".join(_aligned(rows))


def activations(result: dict[str, Any]) -> str:
    """A row for each block."""
    initial, after = ({row["block"]: row for row in of} for of in result["positive"].values())
    rows = [["block", "threshold", "initial", "trained", "below it", "negative", "with ReLU6"]]
    for row in result["bottlenecks"]:
        shown = [number(None, "")] * 4
        if (of := after.get(row["block"])) is not None:
            shares = of["threshold"], initial[row["block"]]["mean"], of["mean"], of["below"]
            shown = [f"{value:.1%}" for value in shares]
        rows.append([row["block"], *shown, f"{row['negative']:.1%}", share(row["accuracy"])])
    every = share(result["accuracy_with_all"])
    start = f"accuracy {share(result['accuracy'])}; with a ReLU6 in every bottleneck {every}"
    return "\n".join([start, *_aligned(rows)])


def export(result: dict[str, Any]) -> str:
    """What an exported file computes beside PyTorch."""
    kind = "float32" if result["quantize"] == "none" else result["quantize"]
    latency = result["latency_ms"]
    rows = [
        ["", "accuracy", "agreement", "bytes", "ms"],
        ["PyTorch float32", share(result["torch_accuracy"]), "-", "-", "-"],
        [
            f"{result['format']} {kind}",
            share(result["accuracy"]),
            share(result["agreement"]),
            f"{result['bytes']:,}",
            number(latency, ".2f"),
        ],
    ]
    where = f"{result['checkpoint']} on {result['images']:,} test images"
    return "\n".join([f"{where}, prepare={result['prepare']}", *_aligned(rows)])


def devices(found: dict[str, Any]) -> str:
    """The devices of this machine."""
    machine = found["hardware"]
    memory = machine["memory_bytes"]
    lines = [
        f"cpu   {machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads in use, "
        f"{machine['simd']}" + (f", {memory / 2**30:.0f} GiB of memory" if memory else ""),
    ]
    for index, gpu in enumerate(machine["gpus"]):
        fast = {"32-true": True, "16-mixed": gpu["fast_fp16"], "bf16-mixed": gpu["fast_bf16"]}
        precisions = ", ".join(name for name, is_fast in fast.items() if is_fast)
        lines.append(
            f"cuda  {index}: {gpu['name']}, {gpu['memory_bytes'] / 2**30:.0f} GiB, "
            f"compute capability {gpu['capability']}, fast in {precisions}"
        )
    lines += [] if machine["gpus"] else ["cuda  none"]
    lines.append(f"mps   {'yes' if machine['mps'] else 'none'}")
    lines.append("      " + ", ".join(f"{k} {v}" for k, v in found["versions"].items()))
    return "\n".join([*lines, f"trainer.accelerator=auto takes: {found['auto']}"])


def trial(ended: Any, trials: Sequence[Any]) -> str:
    """The result of a trial and the best one so far. All are FrozenTrials of Optuna."""
    done = [t for t in trials if t.state.name == "COMPLETE"]
    best = max(done, key=lambda t: t.value, default=None)
    if ended.state.name == "FAIL":
        result = f"failed: {ended.user_attrs.get('error', 'its process ended')}"
    else:
        result = f"{ended.value:.2%}" + (" and pruned" if ended.state.name == "PRUNED" else "")
    so_far = f"; best: {best.value:.2%}, trial {best.number}" if best else ""
    return f"trial {ended.number} ({leaderboard.label(ended.params)}): {result}{so_far}"


def search(result: dict[str, Any], folder: Any) -> str:
    """The result of a search, and its folder."""
    best, saved = result["best"], result["steps_saved"]
    lines = [
        f"{result['trials']} trials: {result['finished']} finished, {result['pruned']} pruned"
        + (f" ({saved:.0%} of all steps saved)" if saved else "")
        + f", {result['failed']} failed"
        + (f", {result['running']} run in other processes" if result["running"] else "")
    ]
    if best is not None:
        lines += [
            f"best: trial {best['number']}, {best['value']:.2%} of the validation images: "
            + leaderboard.label(best["params"]),
            f"  python -m mnv2_lightning.train --config-dir {folder} experiment={result['name']}",
        ]
    return "\n".join([*lines, f"report: {folder / 'report' / 'report.html'}"])
