"""Contact sheet: each picture, what the network saw of it, and the prediction."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mnv2_lightning.reports.prediction_tables import percent, printable

MOST = 200  # pictures on a sheet
COLUMNS = 4
SIDE, GAP, TEXT = 112, 8, 56  # px: of a picture, between them, of the text below
CELL = 2 * SIDE + 3 * GAP, SIDE + TEXT + 2 * GAP
NAME_LENGTH, REASON_LENGTH = 34, 38  # characters in a line
PAPER, FRAME, INK, RED = "#ffffff", "#c8c8c8", "#202020", "#b00020"


@dataclass(frozen=True)
class Entry:
    """`given`: the picture; None if it could not be read. `seen`: (28, 28) from 0 to 255; None if
    it was not classified. `row`: see `prediction_tables`.
    """

    given: Image.Image | None
    seen: np.ndarray | None
    row: dict[str, Any]


def thumbnail(picture: Image.Image) -> Image.Image:
    """RGB, at most 112 px a side, on grey where it is transparent; small ones are enlarged."""
    factor = SIDE / max(picture.size)
    size = [max(1, round(n * factor)) for n in picture.size]
    smooth = Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.NEAREST
    small = picture.convert("RGBA").resize((size[0], size[1]), smooth)
    result = Image.new("RGB", small.size, "#a0b8c8")
    result.paste(small, (0, 0), small)
    return result


def draw(entries: Sequence[Entry]) -> Image.Image:
    """At most the first 200; each has its picture on the left, and the network's on the right."""
    entries = entries[:MOST]
    columns = min(COLUMNS, len(entries))
    rows = -(-len(entries) // columns)
    sheet = Image.new("RGB", (columns * CELL[0], rows * CELL[1]), PAPER)
    for number, entry in enumerate(entries):
        row, column = divmod(number, columns)
        _draw_entry(sheet, column * CELL[0], row * CELL[1], entry)
    return sheet


def _draw_entry(sheet: Image.Image, left: int, top: int, entry: Entry) -> None:
    pen = ImageDraw.Draw(sheet)
    x, y = left + GAP, top + GAP
    seen = None
    if entry.seen is not None:
        grey = Image.fromarray(np.clip(np.round(entry.seen), 0, 255).astype(np.uint8))
        seen = grey.resize((SIDE, SIDE), Image.Resampling.NEAREST)
    for start, picture in ((x, entry.given), (x + SIDE + GAP, seen)):
        pen.rectangle((start - 1, y - 1, start + SIDE, y + SIDE), outline=FRAME)
        if picture is not None:
            width, height = picture.size
            sheet.paste(picture, (start + (SIDE - width) // 2, y + (SIDE - height) // 2))
    name = printable(Path(entry.row["image"]).name)
    if len(name) > NAME_LENGTH:
        name = f"{name[: NAME_LENGTH // 2 - 2]} ... {name[-NAME_LENGTH // 2 + 2 :]}"
    lines = [(name, 12, INK)]
    if (reason := entry.row["reason"]) is not None:
        wrapped = textwrap.wrap(printable(reason), REASON_LENGTH, max_lines=3)
        lines += [(line, 12, RED) for line in wrapped]
    else:
        first, second = (
            f"{printable(entry.row[key])}  {percent(entry.row[share])}"
            for key, share in (("class", "probability"), ("second", "second_probability"))
        )
        lines[:0] = [(first, 16, INK)]
        lines.insert(1, (second, 12, INK))
    y += SIDE + GAP // 2
    for text, size, color in lines:
        pen.text((x, y), text, color, ImageFont.load_default(size))
        y += size + 4
