"""From colors and transparency to grey, so that ink differs from paper."""

from __future__ import annotations

import numpy as np
from PIL import Image

OPAQUE = 128  # alpha
MARGIN = 2  # px of background around a transparent picture, whose edge may be ink
# Of a digit on a card: the share of opaque px in their box, the deviation of their grey.
CARD_SHARE, CARD_SPREAD = 0.5, 20
PREFERENCE = 1.25  # a color must have so many times the spread of the luminance


def to_grey(picture: Image.Image) -> np.ndarray:
    """(H, W) uint8 of a picture of the mode L, RGB or RGBA.

    The luminance, or the one of red, green and blue with the largest standard deviation: yellow ink
    is seen in blue.
    """
    if picture.mode == "RGBA":
        picture = _on_background(picture)
    luminance = np.asarray(picture.convert("L"))
    if picture.mode == "L":
        return luminance
    channels = [np.asarray(channel) for channel in picture.split()]
    strongest = max(channels, key=np.std)
    return strongest if np.std(strongest) > PREFERENCE * np.std(luminance) else luminance


def _on_background(picture: Image.Image) -> Image.Image:
    """RGBA -> RGB, with a margin.

    The background of dark ink is white, and of light ink black. That of a card, whose opaque pixels
    fill most of their bounding box and are of several colors, is their median color.
    """
    alpha = np.asarray(picture.getchannel("A"))
    opaque = alpha >= OPAQUE
    colors = np.asarray(picture.convert("RGB"))[opaque]  # (N, 3)
    grey = np.asarray(picture.convert("RGB").convert("L"))[opaque]
    if opaque.all():
        return picture.convert("RGB")
    color: tuple[int, ...] = (255, 255, 255)
    if _share_of_box(opaque) >= CARD_SHARE and grey.std() >= CARD_SPREAD:
        color = tuple(int(value) for value in np.median(colors, axis=0))
    elif opaque.any() and grey.mean() >= 128:
        color = (0, 0, 0)
    size = picture.width + 2 * MARGIN, picture.height + 2 * MARGIN
    background = Image.new("RGB", size, color)
    background.paste(picture, (MARGIN, MARGIN), picture)
    return background


def _share_of_box(mask: np.ndarray) -> float:
    """The share of true values in their bounding box; 0 if there is none."""
    left, top, right, bottom = Image.fromarray(mask).getbbox() or (0, 0, 1, 1)
    return float(mask[top:bottom, left:right].mean())
