"""The sections of a report, and the report in Markdown."""

import json
import textwrap
from collections.abc import Sequence
from typing import Any

from mnv2_lightning.reports import leaderboard
from mnv2_lightning.reports.collect import Row

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


def share(value: float | None, spread: float | None = None) -> str:
    error = "" if spread is None else f" ± {100 * spread:.2f}"
    return "-" if value is None else f"{100 * value:.2f} %{error}"


def number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


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
    found = [leaderboard_section(rows), _runs(rows)]
    if failed := failed_rows(rows):
        found.insert(1, ("Did not finish", ["run", "status", "reason"], failed))
    if long := leaderboard.long_values(rows):
        found.append(("Long values", ["key", "shown as", "value"], [*map(list, long)]))
    return found


def leaderboard_section(rows: Sequence[Row]) -> Section:
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
        row += [share(group.mean(key), group.spread(key)) for key in accuracies]
        row += [str(len(group.runs)), number(group.mean("train_seconds"), ",.1f", " s")]
        row += [number(group.mean(key), ",.0f") for key in ("parameters", "multiply_adds")]
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
        row += [run["status"], share(run.get("val_accuracy")), share(run.get("test_accuracy"))]
        row += [number(run.get("train_seconds"), ",.1f", " s")]
        row += [number(run.get(key), ",.0f") for key in ("images_per_second", "epochs")]
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
        ("test accuracy", share(row.get("test_accuracy"))),
        ("test loss", number(row.get("test_loss"), ".4f")),
        ("validation accuracy", share(row.get("val_accuracy"))),
        ("tested checkpoint", row.get("tested_checkpoint")),
        ("parameters", number(row.get("parameters"), ",")),
        ("multiply-adds an image", number(row.get("multiply_adds"), ",")),
        ("epochs", number(row.get("epochs"), ",")),
        ("training", number(row.get("train_seconds"), ",.1f", " s")),
        ("images a second", number(row.get("images_per_second"), ",.0f")),
        ("peak memory", number(memory and memory / 1e9, ".2f", " GB")),
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
