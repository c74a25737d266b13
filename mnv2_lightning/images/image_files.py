"""Grey pictures from image files and Pillow's images."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from mnv2_lightning.images import colors, photos, refusals
from mnv2_lightning.schema.errors import PictureError, UserError, one_line

# Formats of Pillow that decode without starting another program, as that for EPS does.
FORMATS = (
    *("PNG", "JPEG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "JPEG2000"),
    *("PPM", "TGA", "PCX", "ICO", "SGI", "QOI"),
)
MAX_PIXELS = 40_000_000  # decoded: 160 MB in color
MAX_SIDE = 512  # px of what is worked on
STRIP = 1 << 20  # px converted at a time
PLAIN_SIDE = 28  # px
SMALLEST_SPREAD = 0.03  # of the largest value: a deep picture with less is of one color


def to_grey(picture: Image.Image, prepare: str, photo: bool | None = None) -> np.ndarray:
    """(H, W) uint8 for `PictureClassifier`.

    `prepare`: "mnist", at most 512 px a side; "plain", 28 x 28. `photo`: whether to remove shadows
    and noise of the paper, for "mnist"; None: if it has any. PictureError: it cannot be read, is
    empty or shows several digits.
    """
    grey = colors.to_grey(reduced(picture))
    if prepare == "plain":
        size = (PLAIN_SIDE, PLAIN_SIDE)
        return np.array(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR))
    if photos.is_photo(grey) if photo is None else photo:
        grey = photos.flatten(grey)
    refusals.check(grey)
    return np.array(grey)  # torch warns of a read-only one


def read(path: str | Path) -> Image.Image:
    """The first picture in a file, as `reduced` returns it. PictureError."""
    with _picture_errors():
        if Path(path).is_dir():
            raise PictureError("is a folder")
        with Path(path).open("rb") as stream:
            if not stream.read(1):
                raise PictureError("the file is empty")
            stream.seek(0)
            with Image.open(stream, formats=FORMATS) as picture:
                return reduced(picture)


def reduced(picture: Image.Image) -> Image.Image:
    """A copy, upright, at most 512 px a side, of the mode L, RGB or RGBA.

    Converts and averages strip by strip, so that little memory is used. PictureError.
    """
    with _picture_errors():
        picture.draft(None, (MAX_SIDE, MAX_SIDE))  # JPEG decodes at 1/2, 1/4 or 1/8
        if picture.width * picture.height > MAX_PIXELS:
            raise PictureError(_too_large(picture.width * picture.height))
        picture.load()
        factor = max(1, -(-max(picture.size) // MAX_SIDE))
        factors = min(factor, picture.width), min(factor, picture.height)
        width, height = (-(-n // f) for n, f in zip(picture.size, factors, strict=True))
        mode = _mode(picture)
        result = Image.new(mode, (width, height))
        rows = max(1, STRIP // (picture.width * factors[1])) * factors[1]
        for top in range(0, picture.height, rows):
            strip = picture.crop((0, top, picture.width, min(top + rows, picture.height)))
            if mode == "F":
                strip = Image.fromarray(np.asarray(strip, np.float32))
            result.paste(strip.convert(mode).reduce(factors), (0, top // factors[1]))
        orientation = picture.getexif().get(ExifTags.Base.Orientation)
        if orientation in range(2, 9):
            result.getexif()[ExifTags.Base.Orientation] = orientation
            result = ImageOps.exif_transpose(result)
        return _scaled(result) if mode == "F" else result


def _mode(picture: Image.Image) -> str:
    """The mode to convert to; F, of which `_scaled` makes L, for more than 8 bits."""
    if picture.mode[0] in "IF":
        return "F"
    if picture.has_transparency_data:
        return "RGBA"
    return "L" if picture.mode in ("1", "L") else "RGB"


def _scaled(picture: Image.Image) -> Image.Image:
    """F -> L, from black for the smallest value to white for the largest."""
    values = np.nan_to_num(np.asarray(picture, np.float64), nan=0, posinf=0, neginf=0)
    low, high = values.min(), values.max()
    if high - low <= SMALLEST_SPREAD * max(abs(low), abs(high)):
        return Image.new("L", picture.size)
    return Image.fromarray(np.round((values - low) / (high - low) * 255).astype(np.uint8))


@contextmanager
def _picture_errors() -> Iterator[None]:
    """Raise the errors and warnings of Pillow as PictureError."""
    with warnings.catch_warnings():
        for category in (UserWarning, Image.DecompressionBombWarning):
            warnings.simplefilter("error", category)
        try:
            yield
        except UserError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise PictureError(_too_large()) from error
        except UnidentifiedImageError as error:
            known = "PNG, JPEG, GIF, BMP, TIFF, WebP, AVIF, ..."
            raise PictureError(f"is not an image that can be read ({known})") from error
        except FileNotFoundError as error:
            raise PictureError("there is no such file") from error
        except Exception as error:  # Pillow raises many kinds for damaged files
            if isinstance(error, OSError) and error.errno is not None:
                raise PictureError(f"cannot be opened ({error.strerror})") from error
            raise PictureError(f"is damaged or incomplete ({one_line(error)})") from error


def _too_large(pixels: int | None = None) -> str:
    count = "too many" if pixels is None else f"{pixels:,}"
    return f"has {count} pixels; make it smaller, at most {MAX_PIXELS:,}"
