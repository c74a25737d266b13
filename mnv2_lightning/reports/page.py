"""The report as one HTML file that needs no network: sortable tables, a filter, and figures."""

import base64
from collections.abc import Sequence
from importlib.resources import files

from jinja2 import Template

from mnv2_lightning.reports import tables
from mnv2_lightning.reports.collect import Row

TITLES = {
    "lines": "Accuracy over one key, by another",
    "slices": "Accuracy over each key, whatever the others",
    "costs": "Accuracy against cost",
    "curves": "Validation accuracy by epoch",
    "history": "Trials in their order",
    "importances": "Importance of the parameters",
}
WIDE = ("costs", "curves", "slices")


def html(rows: Sequence[Row], title: str, pngs: dict[str, bytes]) -> str:
    """The page. `pngs`: figures by name, which become a part of it."""
    template = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    figures = [
        {"title": TITLES[name], "is_wide": name in WIDE, "data": base64.b64encode(png).decode()}
        for name, png in pngs.items()
    ]
    return Template(template, autoescape=True).render(
        title=title,
        summary=tables.summary(rows),
        sections=tables.sections(rows),
        figures=figures,
    )
