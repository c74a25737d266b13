"""Writes the report on runs: CSV, Markdown, PNGs, and an HTML page."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from mnv2_lightning.reports import collect, leaderboard, page, sweep_figures, tables
from mnv2_lightning.reports.collect import Row

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
    for name in page.TITLES:  # figures of an earlier report
        (out / f"{name}.png").unlink(missing_ok=True)
    figures = sweep_figures.draw(rows)
    if len(folders) == 1 and (search := folders[0] / collect.SEARCH).is_file():
        figures = sweep_figures.draw_search(json.loads(search.read_text("utf-8"))) | figures
    for name, figure in figures.items():
        figure.savefig(out / f"{name}.png")
    title = ", ".join(folder.resolve().name for folder in folders)
    (out / "runs.csv").write_text(to_csv(rows), encoding="utf-8")
    (out / "report.md").write_text(tables.report(rows, title, list(figures)), encoding="utf-8")
    pngs = {name: (out / f"{name}.png").read_bytes() for name in figures}
    (out / "report.html").write_text(page.html(rows, title, pngs), encoding="utf-8")
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
