"""The report as one HTML file that needs no network: sortable tables, a filter, and figures."""

import base64
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from mnv2_lightning.reports import leaderboard, tables
from mnv2_lightning.reports.collect import Row

TITLES = {
    "lines": "Accuracy over one key, by another",
    "slices": "Accuracy over each key, whatever the others",
    "heat": "Accuracy for each pair of values",
    "costs": "Accuracy against cost",
    "curves": "Validation accuracy by epoch",
    "history": "Trials in their order",
    "importances": "Importance of the parameters",
}
WIDE = ("costs", "curves", "slices")


def html(rows: Sequence[Row], title: str, pngs: dict[str, bytes]) -> str:
    """The page, with the figures `pngs` in it."""
    first, *others = (
        f"<section><h2>{escape(name)}</h2>{_table(head, cells)}</section>"
        for name, head, cells in tables.sections(rows)
    )
    figures = "".join(_figure(name, png) for name, png in pngs.items())
    if figures:
        figures = f'<section><h2>Figures</h2><div class="figures">{figures}</div></section>'
    body = "\n".join([_summary(rows), first, figures, *others])
    template = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    return template.replace("{{title}}", escape(title)).replace("{{body}}", body)


def _summary(rows: Sequence[Row]) -> str:
    done, by = leaderboard.finished(rows), leaderboard.metric(rows)
    seconds = sum(row.get("train_seconds") or 0 for row in rows)
    facts = [
        ("runs finished", f"{len(done)} of {len(rows)}"),
        ("training in all", f"{seconds / 60:,.1f} min"),
    ]
    for best in leaderboard.groups(rows)[:1]:
        if (accuracy := best.mean(by)) is not None:
            split = "validation" if by == "val_accuracy" else "test"
            facts.append((f"best {split} accuracy", f"{100 * accuracy:.2f} %"))
        facts.append(("best", best.name))
    machines = {(r["hardware"]["cpu"], r["versions"]["torch"]) for r in done if r.get("hardware")}
    facts += [("on", f"{cpu}, torch {torch}") for cpu, torch in sorted(machines)]
    cards = "".join(
        f'<div class="card"><div class="value">{escape(value)}</div>{escape(name)}</div>'
        for name, value in facts
    )
    return f'<div class="cards">{cards}</div><p>{escape(tables.compared_by(rows))}</p>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    heads = "".join(f"<th><button>{escape(cell)}</button></th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        '<input type="search" placeholder="filter" aria-label="filter">'
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _figure(name: str, png: bytes) -> str:
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    title, size = escape(TITLES[name]), ' class="wide"' if name in WIDE else ""
    return (
        f'<figure{size}><img src="{source}" alt="{title}"><figcaption>{title}</figcaption></figure>'
    )
