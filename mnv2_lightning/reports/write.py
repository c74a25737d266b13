"""Writes the report on runs: CSV, Markdown, PNGs, and an HTML page that needs no network."""

import csv
import io
import os
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Template
from matplotlib.figure import Figure

from mnv2_lightning.reports import (
    collect,
    comparison,
    comparison_tables,
    curve_figures,
    leaderboard,
    sections,
    sweep_figures,
)
from mnv2_lightning.reports.collect import NUMBERS, Row
from mnv2_lightning.runs import config
from mnv2_lightning.runs.record import SEARCH, read_dict

TITLES = {  # of the figures
    "loss": "Loss",
    "accuracy": "Accuracy",
    "lines": "Accuracy over one key, by another",
    "slices": "Accuracy over each key, whatever the others",
    "configurations": "Accuracy of each configuration",
    "costs": "Accuracy against cost",
    "differences": "Differences by seed, with intervals",
    "curves": "Validation accuracy by epoch, mean over seeds",
    "history": "Trials in their order",
    "importances": "Importance of the parameters",
}
# Title, file that `train` writes, pattern of the files that `evaluate` writes.
TEST_IMAGES = (
    ("Confusion matrix", "confusion_matrix.png", "evaluation/*-test-confusion.png"),
    ("Most confidently wrong", "most_confidently_wrong.png", "evaluation/*-test-wrong.png"),
)
PNG = b"\x89PNG\r\n\x1a\n"  # the first bytes of such a file; the width is in bytes 16 to 19
WIDE = 900  # pixels; such a figure gets a row of its own


@dataclass(frozen=True)
class Content:
    """What a report shows. `images`: title and file of PNGs that are there already."""

    summary: str
    sections: list[sections.Section]
    figures: dict[str, Figure]
    images: list[tuple[str, Path]]
    config: str  # as YAML


def report(folders: Sequence[Path], out: Path) -> list[Row]:
    """Write a report on all runs in `folders` into `out`; return their rows."""
    rows = collect.rows(folders)
    for row in rows:
        page = Path(row["folder"], "report", "report.html")
        row["link"] = _url(page if page.is_file() else Path(row["folder"]), out)
    content = _of_run(rows[0]) if collect.is_run(folders) else _of_several(rows, folders)
    out.mkdir(parents=True, exist_ok=True)
    for name in TITLES:  # figures of an earlier report
        (out / f"{name}.png").unlink(missing_ok=True)
    pngs = [(TITLES[name], out / f"{name}.png") for name in content.figures]
    for (_, path), figure in zip(pngs, content.figures.values(), strict=True):
        figure.savefig(path)
    pngs += content.images
    title = ", ".join(folder.resolve().name for folder in folders)
    shared: dict[str, Any] = {
        "summary": content.summary,
        "sections": content.sections,
        "config": content.config,
    }
    links = [(name, _url(path, out) or path.name) for name, path in pngs]
    markdown = sections.markdown(title, figures=links, **shared)
    template = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    page = Template(template, autoescape=True)
    html = page.render(title=title, figures=[_embedded(*png) for png in pngs], **shared)
    for name, text in (("runs.csv", to_csv(rows)), ("report.md", markdown), ("report.html", html)):
        (out / name).write_text(text, encoding="utf-8")
    return rows


def _embedded(title: str, path: Path) -> dict[str, Any]:
    """A PNG as the page shows it."""
    png = path.read_bytes()
    is_wide = int.from_bytes(png[16:20], "big") > WIDE
    return {"title": title, "is_wide": is_wide, "data": b64encode(png).decode()}


def _of_run(row: Row) -> Content:
    folder, summary, text, images = Path(row["folder"]), sections.run_summary(row), "", []
    with suppress(OSError):
        text = (folder / "config.yaml").read_text(encoding="utf-8", errors="replace")
    if row["status"] == "finished":  # else they are those of an earlier test
        images = list(_test_images(folder))
        if not images:
            summary += ". No confusion matrix; python -m mnv2_lightning.evaluate draws it."
    drawn = {metric: curve_figures.draw([row], metric) for metric in ("loss", "accuracy")}
    figures = {name: figure for name, figure in drawn.items() if figure is not None}
    return Content(summary, sections.run_sections(row), figures, images, text)


def _test_images(folder: Path) -> Iterator[tuple[str, Path]]:
    """Title and path of the figures of the test that `train` has left, or else `evaluate`."""
    for title, name, pattern in TEST_IMAGES:
        for path in [folder / name, *sorted(folder.glob(pattern))]:
            with suppress(OSError), path.open("rb") as stream:
                if stream.read(len(PNG)) == PNG:
                    yield title, path
                    break


def _of_several(rows: Sequence[Row], folders: Sequence[Path]) -> Content:
    shown = sections.sections(rows)
    if len(folders) > 1 and len(rows) <= curve_figures.MANY:
        configs = [config.of_run(Path(row["folder"])) for row in rows]
        shown[1:1] = sections.differences(rows, configs) if all(configs) else []
    trials = read_dict(folders[0] / SEARCH) if len(folders) == 1 else {}
    figures = sweep_figures.draw(rows, trials or None)
    if not trials and (pairs := comparison.pairs_of_seeds(rows)):
        shown.insert(1, comparison_tables.comparison_section(pairs))
        if effects := comparison.effects(rows, leaderboard.metric(rows)):
            shown.insert(2, comparison_tables.effects_section(effects))
        figures["differences"] = sweep_figures.draw_differences(pairs)
    return Content(sections.summary(rows), shown, figures, [], "")


def _url(path: Path, out: Path) -> str | None:
    """The URL of `path` relative to `out`; None if they are on different drives (Windows)."""
    try:
        return quote(Path(os.path.relpath(path, out)).as_posix())
    except ValueError:
        return None


def to_csv(rows: Sequence[Row]) -> str:
    """A line for each run, with its overrides and its numbers."""
    keys = leaderboard.swept(rows)
    text = io.StringIO()
    columns = ["name", *keys, "status", *NUMBERS, "error"]
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(row | {key: leaderboard.value(row, key) for key in keys} for row in rows)
    return text.getvalue()
