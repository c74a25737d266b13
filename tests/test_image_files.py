"""Image files of many kinds: a grey picture of the digit, or a reason in one line."""

import io
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter

from mnv2_lightning.data import idx_files
from mnv2_lightning.images import image_files, image_paths, photos, refusals
from mnv2_lightning.images.preparation import MNISTPreparation
from mnv2_lightning.schema.errors import ConfigError, PictureError

WHITE, BLACK = 255, 0
FOUR = ((4, 2), (4, 10), (12, 10)), ((10, 5), (10, 17))  # strokes, px of 16 x 20


def four(scale: int = 4, margin: int = 6) -> Image.Image:
    """L, black on white: two strokes that look different in each of the 8 orientations."""
    size = (16 + 2 * margin) * scale, (20 + 2 * margin) * scale
    picture = Image.new("L", size, WHITE)
    pen = ImageDraw.Draw(picture)
    for stroke in FOUR:
        pen.line([((x + margin) * scale, (y + margin) * scale) for x, y in stroke], 0, 2 * scale)
    return picture


def saved(form: str, picture: Image.Image | None = None, **options: object) -> bytes:
    stream = io.BytesIO()
    (picture or four()).save(stream, form, **options)
    return stream.getvalue()


def ink(grey: np.ndarray) -> np.ndarray:
    """(20, 16) from 0 to 1: the ink, cut to its box, at a small size."""
    x = grey.astype(np.float32)
    x = np.abs(x - x[0, 0])
    rows, columns = (np.flatnonzero((x > 0.3 * x.max()).any(axis)) for axis in (1, 0))
    x = x[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] / x.max()
    return np.asarray(Image.fromarray(x).resize((16, 20), Image.Resampling.BOX))


def assert_is_four(grey: np.ndarray, tolerance: float = 0.06) -> None:
    assert grey.dtype == np.uint8
    assert grey.flags.writeable
    assert max(grey.shape) <= 520
    assert np.abs(ink(grey) - ink(np.asarray(four()))).mean() < tolerance


def in_colors(paper: tuple[int, int, int], pen: tuple[int, int, int]) -> Image.Image:
    size = four().size
    return Image.composite(Image.new("RGB", size, paper), Image.new("RGB", size, pen), four())


def transparent(color: int, paper: int | None = None) -> Image.Image:
    """RGBA; ink of one color on nothing, or on a card with nothing around it."""
    mask = four().point(lambda value: 255 - value)
    if paper is None:
        picture = Image.new("RGBA", four().size, (color, color, color, 0))
        picture.putalpha(mask)
        return picture
    card = Image.new("RGBA", four().size, (paper, paper, paper, 255))
    card.paste(Image.new("RGBA", four().size, (color, color, color, 255)), mask=mask)
    around = Image.new("RGBA", (card.width + 60, card.height + 60))
    around.paste(card, (30, 30))
    return around


def deep(dtype: str, low: float, high: float) -> Image.Image:
    values = np.asarray(four(), np.float64) / 255 * (high - low) + low
    return Image.fromarray(values.astype(dtype))


def turned(orientation: int, form: str) -> bytes:
    """A file whose EXIF orientation makes it upright."""
    inverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    picture = four().transpose(inverse[orientation]) if orientation in inverse else four()
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(form, picture, exif=exif)


def frames(form: str) -> bytes:
    others = [Image.new("L", four().size, shade) for shade in (10, 200)]
    return saved(form, four(), save_all=True, append_images=others)


FOURS: dict[str, Callable[[], bytes]] = {
    **{f"{form.lower()}": partial(saved, form) for form in image_files.FORMATS
       if form not in ("ICO", "QOI", "DIB")},
    "dib": lambda: saved("DIB"),
    "ico": lambda: saved("ICO", four().convert("RGBA"), sizes=[(112, 128)]),
    "qoi": lambda: saved("QOI", four().convert("RGB")),
    "progressive.jpg": lambda: saved("JPEG", progressive=True),
    "cmyk.jpg": lambda: saved("JPEG", four().convert("RGB").convert("CMYK")),
    "cmyk.tiff": lambda: saved("TIFF", four().convert("RGB").convert("CMYK")),
    "lossless.webp": lambda: saved("WEBP", four().convert("RGB"), lossless=True),
    "lzw.tiff": lambda: saved("TIFF", compression="tiff_lzw"),
    "fax.tiff": lambda: saved("TIFF", four().convert("1"), compression="group4"),
    "pages.tiff": lambda: frames("TIFF"),
    "1-bit.png": lambda: saved("PNG", four().convert("1")),
    "rgb.png": lambda: saved("PNG", four().convert("RGB")),
    "palette.png": lambda: saved("PNG", four().convert("P")),
    "palette of 2.gif": lambda: saved("GIF", four().quantize(2)),
    "animated.gif": lambda: frames("GIF"),
    "animated.png": lambda: frames("PNG"),
    "light on dark.png": lambda: saved("PNG", four().point(lambda value: 255 - value)),
    "dark alpha.png": lambda: saved("PNG", transparent(0)),
    "light alpha.png": lambda: saved("PNG", transparent(255)),
    "alpha.webp": lambda: saved("WEBP", transparent(0), lossless=True),
    "card.png": lambda: saved("PNG", transparent(0, paper=255)),
    "dark card.png": lambda: saved("PNG", transparent(255, paper=0)),
    "LA.png": lambda: saved("PNG", transparent(0).convert("LA")),
    "transparent palette.png": lambda: saved("PNG", transparent(0).quantize(16)),
    "transparent palette.gif": lambda: saved("GIF", transparent(0)),
    "transparent color.png": lambda: saved("PNG", four(), transparency=255),
    "16 bit.png": lambda: saved("PNG", deep("uint16", 0, 65535)),
    "10 of 16 bit.png": lambda: saved("PNG", deep("uint16", 90, 1000)),
    "16 bit.tiff": lambda: saved("TIFF", deep("uint16", 5000, 30000)),
    "32 bit.tiff": lambda: saved("TIFF", deep("int32", -70_000, 900_000)),
    "float.tiff": lambda: saved("TIFF", deep("float32", 0, 1)),
    "yellow on white.png": lambda: saved("PNG", in_colors((255, 255, 255), (255, 255, 0))),
    "red on green.png": lambda: saved("PNG", in_colors((0, 130, 0), (255, 0, 0))),
    "blue on black.png": lambda: saved("PNG", in_colors((0, 0, 0), (0, 0, 255))),
    "large.png": lambda: saved("PNG", four(80)),
    "large.jpg": lambda: saved("JPEG", four(80)),
    **{f"turned {n}.jpg": partial(turned, n, "JPEG") for n in range(1, 10)},
    **{f"turned {n}.png": partial(turned, n, "PNG") for n in (3, 6)},
    **{f"turned {n}.tiff": partial(turned, n, "TIFF") for n in (3, 6)},
    **{f"turned {n}.webp": partial(turned, n, "WEBP") for n in (3, 6)},
}  # fmt: skip


@pytest.mark.parametrize("name", FOURS)
def test_readable(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(FOURS[name]())
    grey = image_files.to_grey(image_files.read(path), "mnist")
    assert_is_four(grey)
    plain = image_files.to_grey(image_files.read(path), "plain")
    assert (plain.shape, plain.dtype) == ((28, 28), np.uint8)


def two(gap: int, axis: int) -> Image.Image:
    """Two digits of 20 px, `gap` px apart in one direction."""
    digit = np.asarray(four(1, 0))
    between = np.full((gap, 16) if axis == 0 else (20, gap), WHITE, np.uint8)
    both = np.concatenate([digit, between, digit], axis)
    return Image.fromarray(np.pad(both, 5, constant_values=WHITE))


def noise(deviation: float) -> Image.Image:
    values = np.random.default_rng(0).normal(200, deviation, (90, 120))
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


REASONS: dict[str, tuple[Callable[[], bytes], str]] = {
    "zero.png": (lambda: b"", "the file is empty"),
    "text.png": (lambda: b"a text, no image", "is not an image that can be read"),
    "vector.svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not an image"),
    "drawing.eps": (lambda: saved("EPS"), "is not an image that can be read"),  # runs a program
    "cut.png": (lambda: saved("PNG")[:120], "is damaged or incomplete"),
    "cut.jpg": (lambda: saved("JPEG")[:900], "is damaged or incomplete"),
    "cut.gif": (lambda: saved("GIF")[:-100], "is damaged or incomplete"),
    "cut.bmp": (lambda: saved("BMP")[:-400], "is damaged or incomplete"),
    "head.jpg": (lambda: saved("JPEG")[:20], "is (not an image|damaged)"),
    "bomb.png": (lambda: saved("PNG", Image.new("1", (14_000, 14_000))), "has too many pixels"),
    "large.png": (lambda: saved("PNG", Image.new("1", (9000, 9000))), "has 81,000,000 pixels"),
    "white.png": (lambda: saved("PNG", Image.new("L", (50, 50), 255)), "is empty"),
    "black.jpg": (lambda: saved("JPEG", Image.new("RGB", (50, 50))), "is empty"),
    "1 px.png": (lambda: saved("PNG", Image.new("L", (1, 1), 7)), "is empty"),
    "1 by 1000.png": (lambda: saved("PNG", Image.new("L", (1, 1000), 7)), "is empty"),
    "1000 by 1.png": (lambda: saved("PNG", Image.new("RGB", (1000, 1))), "is empty"),
    "clear.png": (lambda: saved("PNG", Image.new("RGBA", (50, 50))), "is empty"),
    "flat 16 bit.png": (lambda: saved("PNG", deep("uint16", 30_000, 30_020)), "is empty"),
    "noise.png": (lambda: saved("PNG", noise(4)), "is empty"),
    "more noise.png": (lambda: saved("PNG", noise(8)), "is empty"),
    "two.png": (lambda: saved("PNG", two(2, 1)), "shows several digits; crop it to one"),
    "stacked.png": (lambda: saved("PNG", two(2, 0)), "shows several digits; crop it to one"),
}


@pytest.mark.parametrize("name", REASONS)
def test_refused(name: str, tmp_path: Path) -> None:
    make, reason = REASONS[name]
    path = tmp_path / name
    path.write_bytes(make())
    with pytest.raises(PictureError, match=f"^{reason}") as caught:
        image_files.to_grey(image_files.read(path), "mnist")
    assert "\n" not in str(caught.value)


def test_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="there is no such file"):
        image_files.read(tmp_path / "none.png")
    with pytest.raises(PictureError, match="is a folder"):
        image_files.read(tmp_path)
    with pytest.raises(PictureError, match="cannot be opened"):
        image_files.read("a" * 5000)


def test_warnings_become_reasons(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """An EXIF table that is cut off, of which Pillow warns."""
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x05\x00"
    (tmp_path / "a.jpg").write_bytes(saved("JPEG", exif=exif))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with pytest.raises(PictureError, match="is damaged or incomplete"):
            image_files.read(tmp_path / "a.jpg")
    assert capfd.readouterr().err == ""


def test_tall_and_wide_pictures_are_kept_in_shape() -> None:
    for size in ((1, 1000), (1000, 1), (3, 5_000_000), (5_000_000, 3)):
        picture = image_files.reduced(Image.new("L", size))
        assert max(picture.size) <= 512
        assert min(picture.size) == 1


def test_a_picture_is_left_as_it_was() -> None:
    picture = four(40)
    before = picture.copy()
    image_files.to_grey(picture, "mnist")
    assert picture == before


def test_specks_on_paper_are_no_paper() -> None:
    """What the preparation makes of a picture does not change by pixels lighter than the paper."""
    clean = np.where(np.asarray(four()) > 128, 200, 20).astype(np.uint8)
    specks = clean.copy()
    specks[3, 3], specks[10, 60:64] = 255, 240
    for change in (lambda x: x, lambda x: 255 - x):
        pictures = [Image.fromarray(change(x)) for x in (clean, specks)]
        greys = [torch.tensor(image_files.to_grey(picture, "mnist")) for picture in pictures]
        found = [MNISTPreparation()(grey[None]) for grey in greys]
        torch.testing.assert_close(found[1], found[0])


def test_mnists_images_stay_as_they_are() -> None:
    image = np.zeros((28, 28), np.uint8)
    image[4:24, 12:15] = 200
    np.testing.assert_array_equal(image_files.to_grey(Image.fromarray(image), "mnist"), image)
    np.testing.assert_array_equal(image_files.to_grey(Image.fromarray(image), "plain"), image)


def photograph(
    mask: np.ndarray, rng: np.random.Generator, ink: tuple[int, int, int] = (35, 35, 40)
) -> Image.Image:
    """Ink on paper of grey 150 to 240, brighter by 50 on one side, with noise of deviation 4.

    `mask`: (H, W) from 0 to 1, put at a random place. The light on the ink is that on the paper.
    """
    height, width = (side + int(rng.integers(10, 300)) for side in mask.shape)
    top = int(rng.integers(0, height - mask.shape[0] + 1))
    left = int(rng.integers(0, width - mask.shape[1] + 1))
    amount = np.zeros((height, width))
    amount[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    paper, angle = rng.uniform(150, 240), rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width]
    ramp = np.cos(angle) * x / width + np.sin(angle) * y / height
    light = 1 + 50 * ((ramp - ramp.min()) / np.ptp(ramp) - 0.5) / paper
    color = paper * (1 - amount[..., None]) + amount[..., None] * np.array(ink) * paper / 240
    color = color * light[..., None] + rng.normal(0, 4, color.shape)
    return Image.fromarray(np.clip(np.round(color), 0, 255).astype(np.uint8))


def test_photographs_are_found_and_flattened() -> None:
    rng = np.random.default_rng(3)
    mask = 1 - np.asarray(four()) / 255
    for _ in range(5):
        picture = photograph(mask, rng)
        assert photos.is_photo(np.asarray(picture.convert("L")))
        grey = image_files.to_grey(picture, "mnist")
        assert (grey == 0).mean() > 0.5  # the paper, in spite of the noise
        assert_is_four(grey, tolerance=0.1)
        np.testing.assert_array_equal(image_files.to_grey(picture, "mnist", photo=True), grey)
        assert image_files.to_grey(picture, "mnist", photo=False).shape != grey.shape
    chalk = Image.fromarray(255 - np.asarray(picture))
    assert_is_four(image_files.to_grey(chalk, "mnist"), tolerance=0.15)


def test_drawings_are_no_photographs() -> None:
    drawings = [
        four(),
        four(1),
        four(16),
        four(margin=1),
        four().filter(ImageFilter.GaussianBlur(3)),
    ]
    compressed = Image.open(io.BytesIO(saved("JPEG", four(8), quality=30)))
    for picture in (*drawings, compressed):
        assert not photos.is_photo(np.asarray(picture))
    rng = np.random.default_rng(0)
    assert not photos.is_photo(rng.integers(0, 256, (28, 28), dtype=np.uint8))  # too small


def test_an_empty_photograph() -> None:
    picture = photograph(np.zeros((100, 100)), np.random.default_rng(1))
    with pytest.raises(PictureError, match="is empty"):
        image_files.to_grey(picture, "mnist")


def test_components() -> None:
    mask = np.zeros((6, 7), bool)
    mask[0, 0] = mask[1, 1] = mask[2, 0] = True  # by their corners
    mask[4, 3:6] = True
    assert sorted(map(len, refusals.components(mask))) == [3, 3]
    assert refusals.components(np.zeros((2, 2), bool)) == []


def test_a_broken_digit_is_one() -> None:
    """A 5 whose bar stands apart, and specks."""
    image = np.zeros((64, 48), np.uint8)
    image[18:60, 10:20] = image[50:60, 10:36] = 255
    image[4:16, 10:40] = 255
    image[62, 44] = 255
    refusals.check(image)


def test_find_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    names = ("b.png", "a.JPG", ".hidden.png", "c.txt", "a[1], b=2 ü.png")
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).touch()
    (tmp_path / "in" / "below.png").mkdir()
    (tmp_path / "none").mkdir()

    def found(images: str | list[str]) -> list[str]:
        return [str(path) for path in image_paths.find(images)]

    assert found("in") == ["in/a.JPG", "in/a[1], b=2 ü.png", "in/b.png"]
    assert found("in/*.png") == ["in/a[1], b=2 ü.png", "in/b.png"]
    assert found("in/[bc].*") == ["in/b.png", "in/c.txt"]
    assert found("in/a[1], b=2 ü.png") == ["in/a[1], b=2 ü.png"]
    assert found(["in/b.png", "in", "missing.png"])[::3] == ["in/b.png", "missing.png"]
    assert found("~/in/b.png") == [str(tmp_path / "in" / "b.png")]
    for images, message in {
        "none": "holds no image files",
        "*.jpg": "no file matches",
        "missing.png": "there is no such file",
    }.items():
        with pytest.raises(ConfigError, match=message):
            image_paths.find(images)


def damaged(raw: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with a few changed, and in one of three cut off."""
    changed = bytearray(raw)
    for at in rng.integers(0, len(raw), rng.integers(0, 12)):
        changed[at] = rng.integers(0, 256)
    return bytes(changed[: rng.integers(1, len(raw))] if rng.random() < 1 / 3 else changed)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"])
def test_damaged_files(form: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """2,000 of six formats: a picture or a reason, and no other exception, warning or message."""
    rng = np.random.default_rng(0)
    small = four(1).convert("RGB")
    other = transparent(0).resize((20, 20)).convert("L" if form == "JPEG" else "RGBA")
    raws = [saved(form, small), saved(form, other)]
    if form == "TIFF":
        raws.append(saved(form, small, compression="tiff_lzw"))
    reasons = []
    for number in range(334):
        path = tmp_path / "damaged"
        path.write_bytes(damaged(raws[number % len(raws)], rng))
        try:
            image_files.to_grey(image_files.read(path), "mnist")
        except PictureError as error:
            reasons.append(str(error))
    assert len(reasons) > 50
    assert not any("\n" in reason for reason in reasons)
    if form != "TIFF":  # libtiff prints what is wrong
        assert capfd.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "size", "mode", "options"),
    [
        ("PNG", (9000, 9000), "1", {}),
        ("PNG", (7000, 5700), "RGBA", {}),  # 39.9 million
        ("JPEG", (8000, 6000), "RGB", {}),
        ("JPEG", (8000, 6000), "RGB", {"progressive": True}),
        ("TIFF", (7000, 5700), "RGB", {"compression": "tiff_lzw"}),
    ],
)
def test_memory(
    form: str, size: tuple[int, int], mode: str, options: dict[str, object], tmp_path: Path
) -> None:
    """Below 400 MB, with Python, NumPy and Pillow; torch comes to that in `predict run_dir=`."""
    path = tmp_path / "large"
    path.write_bytes(saved(form, Image.new(mode, size), **options))
    code = (
        "from mnv2_lightning.images import image_files\n"
        "from mnv2_lightning.schema.errors import PictureError\n"
        "from mnv2_lightning.system.memory import peak_rss_bytes\n"
        f"try: image_files.read({str(path)!r})\n"
        "except PictureError as error: print(error)\n"
        "print(peak_rss_bytes())"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *reason, peak = ended.stdout.splitlines()
    print(form, size, options, reason, int(peak) // 2**20, "MiB")
    assert bool(reason) == (form == "PNG" and size[0] == 9000)  # JPEG is decoded at 1/8
    assert int(peak) < 400e6


def crop(image: np.ndarray) -> np.ndarray:
    rows, columns = (np.flatnonzero((image > 50).any(axis)) for axis in (1, 0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def is_refused(grey: np.ndarray) -> bool:
    try:
        refusals.check(grey)
    except PictureError:
        return True
    return False


@pytest.mark.slow
def test_refusals_of_mnist() -> None:
    """Of 20,000 single digits below 0.1 %; of 1,000 pairs 2 to 5 px apart at least 99 %."""
    images = idx_files.load("mnist", None, 10)["train-images"]
    singles = sum(map(is_refused, images[:20_000]))
    rng = np.random.default_rng(11)
    pairs = 0
    for number in range(1000):
        a, b = (crop(images[i]) for i in rng.integers(0, len(images), 2))
        axis = number % 2
        gap = rng.integers(2, 6)
        side = max(a.shape[1 - axis], b.shape[1 - axis])
        padded = []
        for digit in (a, b):
            before = (side - digit.shape[1 - axis]) // 2
            pad = [(0, 0), (0, 0)]
            pad[1 - axis] = (before, side - digit.shape[1 - axis] - before)
            padded.append(np.pad(digit, pad))
        between = np.zeros((gap, side) if axis == 0 else (side, gap), np.uint8)
        pair = np.pad(np.concatenate([padded[0], between, padded[1]], axis), 5)
        pairs += is_refused(pair)
    print(f"refused: {singles} of 20,000 digits, {pairs} of 1,000 pairs")
    assert singles < 20
    assert pairs >= 990
