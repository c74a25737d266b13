"""Predictions as a table, CSV or JSON."""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

# The keys of a row. If a picture was not classified, only `image` and `reason` have values.
COLUMNS = ("image", "class", "probability", "second", "second_probability", "reason")


def to_text(rows: Sequence[dict[str, Any]], form: str) -> str:
    """`form`: "table", "csv" or "json". Rows have the keys `COLUMNS`."""
    if form == "json":
        return json.dumps(list(rows), indent=2)
    if form == "csv":
        stream = io.StringIO()
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return stream.getvalue().rstrip("\n")
    return _table(rows)


def _table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [("image", "class", "probability", "second", "probability")]
    for row in rows:
        if row["reason"] is not None:
            lines.append((row["image"], "-", row["reason"], "", ""))
            continue
        first, second = (percent(row[key]) for key in ("probability", "second_probability"))
        lines.append((row["image"], row["class"], first, row["second"], second))
    shown = [[printable(cell) for cell in line] for line in lines]
    # A reason goes over the columns after the class.
    answers = [line for line, row in zip(shown[1:], rows, strict=True) if row["reason"] is None]
    widths = [max(len(line[i]) for line in shown) for i in (0, 1)]
    widths += [max(len(line[i]) for line in [shown[0], *answers]) for i in (2, 3, 4)]
    padded = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in shown)
    return "\n".join(padded)


def percent(probability: float) -> str:
    return f"{100 * probability:.2f} %"


def printable(text: str) -> str:
    """Without control characters, of which a terminal would make colors or worse."""
    return "".join(c if c.isprintable() else "?" for c in text)
