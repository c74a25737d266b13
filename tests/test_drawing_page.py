"""format=page in Chromium: strokes by mouse and by touch, keys, and how it looks."""

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mnv2_lightning import trained
from mnv2_lightning.images.preparation import MNISTPreparation
from mnv2_lightning.trained import TrainedNetwork
from tests.chromium import Page, open_chromium
from tests.strokes import DIGITS, Line, place
from tests.test_page import CHROMIUM
from tests.test_page_in_node import EXAMPLES, GREY, LOGITS, model_of, network_v2, path, write

__all__ = ["path"]
NOTHING = "\N{EN DASH}"  # the answer, before one draws
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, as .ci/run installs")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_chromium(tmp_path_factory.mktemp("chromium") / "profile") as opened:
        yield opened


def on_canvas(browser: Page, lines: list[Line]) -> list[Line]:
    """From shares of the canvas to px of the window."""
    box = browser.evaluate(
        "(() => { const box = pad.getBoundingClientRect();"
        " return [box.left, box.top, box.width]; })()"
    )
    return place(lines, *box)


def canvas(browser: Page) -> Tensor:
    """What is drawn, (1, H, W) uint8."""
    letters = "Array.from(picture(), (value) => String.fromCharCode(value)).join('')"
    raw = base64.b64decode(browser.evaluate(f"btoa({letters})"))
    side = round(len(raw) ** 0.5)
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8).reshape(1, side, side)


def shares(browser: Page) -> np.ndarray:
    """The lengths of the bars, from 0 to 1."""
    script = "rows.map((row) => Number(row.querySelector('i').style.getPropertyValue('--share')))"
    return np.array(browser.evaluate(script))


def text(browser: Page, name: str) -> str:
    return browser.evaluate(f"document.getElementById('{name}').textContent").strip()


def wanted_shares(model: TrainedNetwork, browser: Page) -> np.ndarray:
    with torch.no_grad():
        picture = Image.fromarray(canvas(browser)[0].numpy())  # as `predict` reads it
        return model.network(model.transform(picture)).softmax(1)[0].numpy()


def click(browser: Page, selector: str) -> None:
    x, y = browser.evaluate(
        f"(() => {{ const box = document.querySelector('{selector}').getBoundingClientRect();"
        " return [box.left + box.width / 2, box.top + box.height / 2]; })()"
    )
    browser.drag([(x, y)])


@needs_chromium
def test_drawing_by_mouse_and_touch(path: Path, browser: Page) -> None:
    """By mouse and by touch: the bars are torch's probabilities of what is on the canvas."""
    torch.manual_seed(0)
    model = model_of(network_v2())
    for draw, width in ((browser.drag, 1000), (browser.swipe, 320)):
        browser.set_window(width, 600)
        browser.open(path)
        assert text(browser, "answer") == NOTHING
        assert not shares(browser).any()
        for line in on_canvas(browser, place(DIGITS[4], 0.3, 0.2, 0.5)):
            draw(line[::-1])  # upwards, as one scrolls down
        found = shares(browser)
        assert browser.evaluate("scrollY") == 0  # a finger draws, and does not scroll
        assert browser.evaluate("getComputedStyle(hint).display") == "none"
        assert np.abs(found - wanted_shares(model, browser)).max() < 1e-5
        assert text(browser, "answer") == str(found.argmax())
        assert re.fullmatch(r"Computed in \d+\.\d ms", text(browser, "latency"))
        assert text(browser, "status") == f"{found.argmax()}, {100 * found.max():.0f} %"
        click(browser, "#clear")
        assert text(browser, "answer") == NOTHING
        assert not canvas(browser).any()
        assert not shares(browser).any()
    assert not browser.errors


@needs_chromium
def test_bars_move_while_one_draws(path: Path, browser: Page) -> None:
    browser.open(path)
    (x0, y0), (x1, y1) = on_canvas(browser, [[(0.3, 0.3), (0.6, 0.7)]])[0]
    mouse = {"button": "left", "buttons": 1}
    browser.call("Input.dispatchMouseEvent", type="mousePressed", x=x0, y=y0, **mouse)
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x1, y=y1, **mouse)
    browser.evaluate("new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))")
    assert shares(browser).sum() == pytest.approx(1)
    assert text(browser, "status") == ""  # said at the end of a stroke
    browser.call("Input.dispatchMouseEvent", type="mouseReleased", x=x1, y=y1, button="left")


@needs_chromium
def test_examples_and_keys(path: Path, browser: Page) -> None:
    """Tab reaches every button; space presses it. An example comes to the network as it is."""
    browser.open(path)
    order = []
    for _ in range(3):
        for kind in ("keyDown", "keyUp"):
            browser.call("Input.dispatchKeyEvent", type=kind, key="Tab", windowsVirtualKeyCode=9)
        order.append(
            browser.evaluate("document.activeElement.innerText || document.activeElement.ariaLabel")
        )
    assert order == ["Clear", "Example: 0", "Example: 1"]
    for kind in ("keyDown", "keyUp"):
        browser.call(
            "Input.dispatchKeyEvent", type=kind, key=" ", text=" ", windowsVirtualKeyCode=32
        )
    expected = MNISTPreparation()(torch.from_numpy(EXAMPLES[1:2]))[0].numpy()
    seen = browser.evaluate("Array.from(classify(picture(), pad.height, pad.width).seen)")
    assert np.abs(np.reshape(seen, (28, 28)) - expected).max() < GREY


@needs_chromium
@pytest.mark.parametrize("width", [320, 1100])
def test_appearance(width: int, path: Path, browser: Page) -> None:
    """Nothing is wider than the window; light and dark differ; what is drawn is there."""
    shots = []
    for is_dark in (False, True):
        browser.set_window(width, 740, is_dark=is_dark)
        browser.open(path)
        shots.append(pixels(browser))
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert browser.evaluate("innerWidth") == width
    light, dark = shots
    assert np.median(light) > 200
    assert np.median(dark) < 60
    (line,) = on_canvas(browser, [[(0.3, 0.3), (0.6, 0.7)]])
    browser.drag(line)
    drawn = pixels(browser)
    assert (drawn != dark).any(-1).mean() > 0.01
    x, y = line[0]
    assert drawn[int(y), int(x)].min() == 255


def pixels(browser: Page) -> np.ndarray:
    with Image.open(io.BytesIO(browser.screenshot())) as image:
        return np.asarray(image.convert("RGB"))


@needs_chromium
@pytest.mark.slow
def test_ten_digits(mnist_run: Path, browser: Page, tmp_path: Path) -> None:
    """`experiment=fast` reads what a mouse has drawn, small or large, anywhere."""
    model = trained.load(mnist_run)
    browser.set_window(1000, 900)
    browser.open(write(model, tmp_path / "page.html"))
    wrong, drawn = [], 0
    for size, left, top in ((0.8, 0.1, 0.1), (0.6, 0.05, 0.35), (0.45, 0.5, 0.05), (0.3, 0.4, 0.6)):
        for digit, lines in enumerate(DIGITS):
            for line in on_canvas(browser, place(lines, left, top, size)):
                browser.drag(line)
            found = shares(browser)
            assert np.abs(found - wanted_shares(model, browser)).max() < LOGITS
            drawn += 1
            if text(browser, "answer") != str(digit):
                wrong.append((digit, size, text(browser, "answer")))
            click(browser, "#clear")
    assert drawn == 40
    assert wrong == []
