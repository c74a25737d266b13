"""Grey pictures from image files and from what Pillow and NumPy hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image


def to_grey(picture: Image.Image | np.ndarray, prepare: str) -> np.ndarray:
    """(H, W) uint8. Arrays stay as they are."""
    if isinstance(picture, np.ndarray):
        return np.ascontiguousarray(picture)
    return np.asarray(picture.convert("L"))
