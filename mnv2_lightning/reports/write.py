"""Writes the report on runs: CSV, Markdown, PNGs, and an HTML page that needs no network."""

import csv
import io
from base64 import b64encode
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from jinja2 import Template

from mnv2_lightning.reports import collect, leaderboard, sweep_figures, tables
from mnv2_lightning.reports.collect import Row
from mnv2_lightning.runs.record import SEARCH, read_dict

TITLES = {  # of the figures
    "lines": "Accuracy over one key, by another",
    "slices": "Accuracy over each key, whatever the others",
    "costs": "Accuracy against cost",
    "curves": "Validation accuracy by epoch",
    "history": "Trials in their order",
    "importances": "Importance of the parameters",
}
WIDE = ("costs", "curves", "slices")
NUMBERS = (
    "val_accuracy",
    "test_accuracy",
    "test_loss",
    "train_seconds",
    "images_per_second",
    "parameters",
    "multiply_adds",
    "epochs",
    "peak_rss_bytes",
)


def report(folders: Sequence[Path], out: Path) -> list[Row]:
    """Write a report on all runs in `folders` into `out`; return their rows."""
    rows = collect.rows(folders)
    out.mkdir(parents=True, exist_ok=True)
    for name in TITLES:  # figures of an earlier report
        (out / f"{name}.png").unlink(missing_ok=True)
    trials = read_dict(folders[0] / SEARCH) if len(folders) == 1 else {}
    figures = sweep_figures.draw(rows, trials or None)
    shown = []  # on the page
    for name, figure in figures.items():
        figure.savefig(out / f"{name}.png")
        png = b64encode((out / f"{name}.png").read_bytes()).decode()
        shown.append({"title": TITLES[name], "is_wide": name in WIDE, "data": png})
    title = ", ".join(folder.resolve().name for folder in folders)
    (out / "runs.csv").write_text(to_csv(rows), encoding="utf-8")
    (out / "report.md").write_text(tables.report(rows, title, list(figures)), encoding="utf-8")
    template = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    content = {"summary": tables.summary(rows), "sections": tables.sections(rows)}
    page = Template(template, autoescape=True).render(title=title, figures=shown, **content)
    (out / "report.html").write_text(page, encoding="utf-8")
    return rows


def to_csv(rows: Sequence[Row]) -> str:
    """A line for each run, with its overrides and its numbers."""
    keys = leaderboard.swept(rows)
    text = io.StringIO()
    columns = ["name", *keys, "status", *NUMBERS, "error"]
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(row | {key: leaderboard.value(row, key) for key in keys} for row in rows)
    return text.getvalue()
