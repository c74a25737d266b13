"""A report as one HTML file that needs no network: tables that sort and filter, and figures."""

import base64
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from mnv2_lightning.reports import leaderboard, tables
from mnv2_lightning.reports.collect import Row

TITLES = {
    "lines": "Accuracy over what was swept",
    "slices": "Accuracy over each key, whatever the others",
    "heat": "Two keys at a time",
    "costs": "Accuracy against cost",
    "curves": "Validation by epoch",
    "history": "The trials in their order",
    "importances": "What the accuracy depends on",
}
WIDE = ("costs", "curves", "slices")


def html(rows: Sequence[Row], title: str, pictures: dict[str, bytes]) -> str:
    """`pictures`: PNGs by name, put into the page."""
    parts = [_summary(rows)]
    parts.append(_section("Leaderboard", _table(*tables.leaderboard_rows(rows))))
    if failed := tables.failed_rows(rows):
        parts.append(_section("Did not finish", _table(["run", "status", "reason"], failed)))
    if pictures:
        shown = "".join(_figure(name, png) for name, png in pictures.items())
        parts.append(f'<section><h2>Figures</h2><div class="figures">{shown}</div></section>')
    parts.append(_section("Runs", _table(*tables.run_rows(rows))))
    template = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    content = template.replace("{{title}}", escape(title))
    return content.replace("{{body}}", "\n".join(parts))


def _summary(rows: Sequence[Row]) -> str:
    done = leaderboard.finished(rows)
    best = leaderboard.groups(rows)[:1]
    by = leaderboard.metric(rows)
    seconds = sum(row.get("train_seconds") or 0 for row in rows)
    facts = [
        ("runs finished", f"{len(done)} of {len(rows)}"),
        ("training in all", f"{seconds / 60:,.1f} min"),
    ]
    for group in best:
        if (value := group.mean(by)) is not None:
            kind = "validation" if by == "val_accuracy" else "test"
            facts.append((f"best {kind} accuracy", f"{100 * value:.2f} %"))
        facts.append(("best", group.name))
    machines = {(r["hardware"]["cpu"], r["versions"]["torch"]) for r in done if r.get("hardware")}
    facts += [("on", f"{cpu}, torch {torch}") for cpu, torch in sorted(machines)]
    cards = "".join(
        f'<div class="card"><div class="value">{escape(value)}</div>{escape(name)}</div>'
        for name, value in facts
    )
    return f'<div class="cards">{cards}</div><p>{escape(tables.compared_by(rows))}</p>'


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


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
