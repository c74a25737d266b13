"""Photographs of paper: shadows, vignettes and noise are removed."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

SMALLEST_PHOTO = 48  # px of the shorter side
SAME_LEVEL = 1  # grey levels within which pixels are of one level
PLAIN_SHARE = 0.5  # of the border's pixels, which are of one level in a drawing
SIDE = 160  # px at which the paper is estimated
WINDOW = 41  # px at that size: wider than a stroke
FLOOR = 0.3  # of the darkest ink: what is fainter is noise
FAINTEST = 0.08  # of the paper's brightness, in the mean of 3 x 3 px: less is noise


def is_photo(grey: np.ndarray) -> bool:
    """Whether the border of an (H, W) uint8 picture, 1/16 of it on each side, is of many levels."""
    if min(grey.shape) < SMALLEST_PHOTO:
        return False
    width = min(grey.shape) // 16
    inner = np.zeros(grey.shape, bool)
    inner[width:-width, width:-width] = True
    counts = np.bincount(grey[~inner], minlength=256)
    of_one_level = np.convolve(counts, np.ones(2 * SAME_LEVEL + 1, int), "same").max()
    return bool(of_one_level < PLAIN_SHARE * counts.sum())


def flatten(grey: np.ndarray) -> np.ndarray:
    """The ink of an (H, W) uint8 picture, light on black, at most 160 px a side.

    The paper's brightness is the grey closing of the picture (the opening, for light ink), and ink
    is what differs from it by 0.3 of the largest difference. Zeros, if there is only noise.
    """
    factor = max(1, -(-max(grey.shape) // SIDE))
    x = np.asarray(Image.fromarray(grey).reduce(factor), np.float32)
    middle = np.median(x)
    is_light_on_dark = x.max() - middle > middle - x.min()
    if is_light_on_dark:
        x = 255 - x
    paper = closing(x, WINDOW)
    # Dark ink reflects a share of the light that falls on the paper.
    ink = (paper - x) / (255 if is_light_on_dark else np.maximum(paper, 1))
    ink = ink - np.median(ink)  # the closing goes through the brightest noise
    if blurred(ink).max() < FAINTEST:
        return np.zeros(x.shape, np.uint8)
    ink = ink / ink.max()
    return np.round(ink * (ink > FLOOR) * 255).astype(np.uint8)


def blurred(x: np.ndarray) -> np.ndarray:
    """The mean of the 3 x 3 px around each of (H, W): noise becomes fainter, strokes stay."""
    padded = np.pad(x, 1, "edge")
    height, width = x.shape
    return np.mean([padded[i : i + height, j : j + width] for i in range(3) for j in range(3)], 0)


def closing(x: np.ndarray, window: int) -> np.ndarray:
    """Grey closing by a square of `window` px, an odd number: the maximum, then the minimum.

    Beyond the border the picture goes on as it ends, for both steps: an edge of a shadow that
    leaves the picture is no ink.
    """
    x = np.pad(x, window - 1, "edge")
    for function in (np.max, np.min):
        for axis in (0, 1):
            x = function(sliding_window_view(x, window, axis), -1)
    return x
