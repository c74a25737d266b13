"""Refuse pictures that are empty or show several digits."""

from __future__ import annotations

import numpy as np
from PIL import Image

from mnv2_lightning.images.photos import blurred
from mnv2_lightning.schema.errors import PictureError

SIDE = 64  # px at which ink is looked at
FAINTEST = 16  # grey levels, of the mean of 3 x 3 px
FLOOR = 0.2  # of the strongest ink
SMALLEST_DIGIT = 9  # px of height
HEIGHT_SHARE = 0.5  # of the largest digit's height
INK_SHARE = 0.1  # of all ink
OVERLAP = 0.2  # of the smaller extent, in one direction


def check(grey: np.ndarray) -> None:
    """PictureError: an (H, W) uint8 picture is empty or shows several digits."""
    x = grey.astype(np.float32)
    edges = x[0].mean(), x[-1].mean(), x[:, 0].mean(), x[:, -1].mean()
    ink = x - np.mean(edges)
    if -ink.min() > ink.max():
        ink = -ink
    if blurred(_reduced(ink)).max() < FAINTEST:
        raise PictureError("is empty: there is no ink that differs from the paper")
    rows, columns = (np.flatnonzero((ink > FLOOR * ink.max()).any(axis)) for axis in (1, 0))
    ink = _reduced(np.clip(ink, 0, None)[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    if _shows_several(ink * (ink > FLOOR * ink.max())):
        raise PictureError("shows several digits; crop it to one")


def _reduced(x: np.ndarray) -> np.ndarray:
    """At most 64 px a side, by averages."""
    return np.asarray(Image.fromarray(x).reduce(max(1, -(-max(x.shape) // SIDE))))


def _shows_several(ink: np.ndarray) -> bool:
    """Whether two components of similar height and enough ink lie side by side or stacked."""
    boxes = []
    for part in components(ink > 0):
        rows, columns = part.T
        box = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        boxes.append((box[1] - box[0], ink[rows, columns].sum(), box))
    tallest = max(height for height, _, _ in boxes)
    least = max(SMALLEST_DIGIT, HEIGHT_SHARE * tallest)
    digits = [
        box for height, amount, box in boxes if height >= least and amount >= INK_SHARE * ink.sum()
    ]
    return any(
        _are_apart(a[:2], b[:2]) or _are_apart(a[2:], b[2:])
        for i, a in enumerate(digits)
        for b in digits[:i]
    )


def _are_apart(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether two extents, (begin, end), hardly overlap."""
    overlap = min(a[1], b[1]) - max(a[0], b[0])
    return overlap <= OVERLAP * min(a[1] - a[0], b[1] - b[0])


def components(mask: np.ndarray) -> list[np.ndarray]:
    """The 8-connected components of an (H, W) mask, each as (N, 2) rows and columns."""
    left = set(map(tuple, np.argwhere(mask).tolist()))
    found = []
    while left:
        part = [left.pop()]
        for row, column in part:  # which grows
            near = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            part.extend(near)
        found.append(np.array(part))
    return found
