"""Results as text: of runs, sweeps, searches, evaluations, and devices."""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from mnv2_lightning.reports import leaderboard
from mnv2_lightning.reports.collect import Row
from mnv2_lightning.runs.config import saves_checkpoints

Section = tuple[str, list[str], list[list[str]]]  # title, head (empty: no head), rows


class Link(str):
    """The text of a cell that leads to `target`, a relative URL."""

    target: str


def link(text: str, target: str | None) -> str:
    """`text`, as a Link if there is a target."""
    if target is None:
        return text
    made = Link(text)
    made.target = target
    return made


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
        ("test accuracy", _share(record["test_accuracy"])),
        ("test loss", _number(record["test_loss"], ".4f")),
        ("val accuracy", _share(record["val_accuracy"])),
        ("tested", record["tested_checkpoint"] or "the weights as they are"),
        ("training", _number(record["train_seconds"], ".1f", " s")),
        ("images a second", _number(record["images_per_second"], ",.0f")),
        ("peak memory", _number((record["peak_rss_bytes"] or 0) / 1e9 or None, ".2f", " GB")),
    ]
    lines = "\n".join(f"  {name:<16}  {value}" for name, value in rows)
    return f"result\n{lines}\nrun: {run_dir}"


def _share(value: float | None, spread: float | None = None) -> str:
    error = "" if spread is None else f" ± {100 * spread:.2f}"
    return "-" if value is None else f"{100 * value:.2f} %{error}"


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def sweep(rows: Sequence[Row]) -> str:
    """The leaderboard, its long values, and the runs that did not finish."""
    _, head, cells = _leaderboard(rows)
    long = [f"  {key} {name}: {value}" for key, name, value in leaderboard.long_values(rows)]
    failed = [f"  {name}  {status}: {reason}" for name, status, reason in failed_rows(rows)]
    return "\n".join([summary(rows), *_aligned([head, *cells]), *long, *failed])


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table as text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[_markdown_cell(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *cells))


def _markdown_cell(cell: str) -> str:
    text = cell.replace("|", "\\|").replace("\n", " ")
    return f"[{text}]({cell.target})" if isinstance(cell, Link) else text


def markdown_section(section: Section) -> str:
    title, head, rows = section
    return f"## {title}\n\n{markdown_table(head or [''] * len(rows[0]), rows)}"


def sections(rows: Sequence[Row]) -> list[Section]:
    """The tables of a report on several runs; the leaderboard comes first."""
    found = [_leaderboard(rows), _runs(rows)]
    if failed := failed_rows(rows):
        found.insert(1, ("Did not finish", ["run", "status", "reason"], failed))
    if long := leaderboard.long_values(rows):
        found.append(("Long values", ["key", "shown as", "value"], [*map(list, long)]))
    return found


def _leaderboard(rows: Sequence[Row]) -> Section:
    """A row for each configuration, the best first."""
    keys = [key for key in leaderboard.swept(rows) if key != leaderboard.SEED]
    head = [*map(leaderboard.short, keys)] or ["run"]
    head += ["val accuracy", "test accuracy", "n", "training", "parameters", "multiply-adds"]
    cells = []
    for group in leaderboard.groups(rows):
        row = [leaderboard.text(group.values[key]) for key in keys] or [group.name]
        if len(group.runs) == 1:
            row[0] = link(row[0], group.runs[0].get("link"))
        accuracies = "val_accuracy", "test_accuracy"
        row += [_share(group.mean(key), group.spread(key)) for key in accuracies]
        row += [str(len(group.runs)), _number(group.mean("train_seconds"), ",.1f", " s")]
        row += [_number(group.mean(key), ",.0f") for key in ("parameters", "multiply_adds")]
        cells.append(row)
    return "Leaderboard", head, cells


def _runs(rows: Sequence[Row]) -> Section:
    """A row for each run, in the order of their start."""
    keys = leaderboard.swept(rows)
    head = ["run", *map(leaderboard.short, keys), "status", "val accuracy", "test accuracy"]
    head += ["training", "images/s", "epochs"]
    cells = []
    for run in rows:
        row = [link(run["name"], run.get("link"))]
        row += [*(leaderboard.text(leaderboard.value(run, key)) for key in keys)]
        row += [run["status"], _share(run.get("val_accuracy")), _share(run.get("test_accuracy"))]
        row += [_number(run.get("train_seconds"), ",.1f", " s")]
        row += [_number(run.get(key), ",.0f") for key in ("images_per_second", "epochs")]
        cells.append(row)
    return "Runs", head, cells


def failed_rows(rows: Sequence[Row]) -> list[list[str]]:
    """Name, status and reason, in one line, of each run that did not finish."""
    return [
        [link(row["name"], row.get("link")), row["status"], _error(row)]
        for row in rows
        if row["status"] != "finished"
    ]


def _error(row: Row) -> str:
    return " ".join((row["error"] or "-").split())


def summary(rows: Sequence[Row]) -> str:
    """How many runs finished, and the metric by which they are ordered."""
    order = "Ordered by validation accuracy, without the test set."
    if leaderboard.metric(rows) == "test_accuracy":
        order = "Ordered by test accuracy, as some lack validation. Choose nothing by it."
    return f"{len(leaderboard.finished(rows))} of {len(rows)} runs finished. {order}"


def differences(rows: Sequence[Row], configs: Sequence[dict[str, Any]]) -> list[Section]:
    """The keys in which the flat configs of the runs differ, if they do, a column for each run."""
    keys = dict.fromkeys(key for config in configs for key in config)
    cells = [[key, *(_yaml(config.get(key)) for config in configs)] for key in keys]
    cells = [row for row in cells if len(set(row[1:])) > 1]
    head = ["key", *(row["name"] for row in rows)]
    return [("Differences between configs", head, cells)] if cells else []


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def run_summary(row: Row) -> str:
    """The status of a run, and its error if there is one."""
    return f"Status: {row['status']}" + (f" ({_error(row)})" if row["error"] else "")


def run_sections(row: Row) -> list[Section]:
    """The result, the environment and the overrides of a run."""
    memory = row.get("peak_rss_bytes")
    result = [
        ("test accuracy", _share(row.get("test_accuracy"))),
        ("test loss", _number(row.get("test_loss"), ".4f")),
        ("validation accuracy", _share(row.get("val_accuracy"))),
        ("tested checkpoint", row.get("tested_checkpoint")),
        ("parameters", _number(row.get("parameters"), ",")),
        ("multiply-adds an image", _number(row.get("multiply_adds"), ",")),
        ("epochs", _number(row.get("epochs"), ",")),
        ("training", _number(row.get("train_seconds"), ",.1f", " s")),
        ("images a second", _number(row.get("images_per_second"), ",.0f")),
        ("peak memory", _number(memory and memory / 1e9, ".2f", " GB")),
        ("precision", row.get("precision")),
        ("seed", row.get("seed")),
    ]
    overrides = (row["overrides"] or {}).items()
    values = [(key, _yaml(value)) for key, value in overrides]
    hardware, versions = row.get("hardware") or {}, row.get("versions") or {}
    gpus = found if isinstance(found := hardware.get("gpus"), list) else []
    names = [gpu.get("name") for gpu in gpus if isinstance(gpu, dict)]
    environment = [
        ("command", row.get("command")),
        ("git commit", row.get("git_commit")),
        *((key, hardware.get(key)) for key in ("system", "cpu", "cores", "threads")),
        ("gpus", ", ".join(map(str, names))),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    parts = ("Result", result), ("Environment", environment), ("Overrides", values)
    return [
        (title, [], cells)
        for title, pairs in parts
        if (cells := [[key, str(x)] for key, x in pairs if x not in (None, "", "-")])
    ]


def markdown(
    title: str,
    *,
    summary: str,
    sections: Sequence[Section],
    figures: Sequence[tuple[str, str]],
    config: str,
) -> str:
    """A report in Markdown. `figures`: the title and relative URL of each; `config`: YAML."""
    tables = [*map(markdown_section, sections)]
    images = [f"![{name}]({url})" for name, url in figures]
    parts = [f"# {title}", summary, *tables[:1], *images, *tables[1:]]
    if config:
        code = textwrap.indent(config, "    ")
        parts.append(f"<details><summary>Configuration</summary>\n\n{code}\n</details>")
    return "\n\n".join(parts) + "\n"


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
        shares = [_share(row[key]) for key in ("precision", "recall", "f1")]
        rows.append([row["class"], *shares, f"{row['images']:,}"])
    images = "" if result["images"] is None else f"{result['images']:,} "
    start = (
        f"{result['checkpoint']} on {images}{result['split']} images{views}: "
        f"accuracy {_share(result['accuracy'])}, loss {_number(result['loss'], '.4f')} "
        f"({result['precision']})"
    )
    return "\n".join([start, *(_aligned(rows) if result["classes"] else [])])


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
