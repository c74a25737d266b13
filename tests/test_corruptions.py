"""MNIST-C's corruptions, and runs that are evaluated on them."""

import json
import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from mnv2_lightning.data.corruptions import CORRUPTIONS, corrupt, gaussian, zigzag
from mnv2_lightning.reports import collect
from mnv2_lightning.robustness import summary
from mnv2_lightning.schema.models import Corruption
from tests.conftest import SMALL, Call

RANDOM = set(CORRUPTIONS) - {"scale", "brightness", "stripe", "canny_edges"}


@pytest.fixture(scope="module")
def digits() -> Tensor:
    """(40, 28, 28) uint8: blurred strokes in the middle of the image."""
    strokes = torch.zeros(40, 28, 28)
    for index, stroke in enumerate(strokes):
        stroke[7:21, 8 + index % 10 : 11 + index % 10] = 1
        stroke[8 + index % 7 : 11 + index % 7, 8:20] = 1
    return (gaussian(strokes, 0.6) * 255).byte()


def test_the_kinds_are_those_of_the_schema() -> None:
    assert tuple(CORRUPTIONS) == get_args(Corruption)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_function_of_images_kind_and_seed(kind: str, digits: Tensor) -> None:
    before = digits.clone()
    first = corrupt(digits, kind)
    assert (first.shape, first.dtype) == (digits.shape, torch.uint8)
    assert torch.equal(digits, before)
    assert not torch.equal(first, digits)
    assert torch.equal(first, corrupt(digits, kind))
    assert torch.equal(first, corrupt(digits, kind, seed=1)) == (kind not in RANDOM)


@pytest.mark.parametrize(("kind", "matrix"), [
    ("scale", lambda sign: np.eye(2) / 0.7),
    ("rotate", lambda sign: rotation(sign * 0.4)),
    ("shear", lambda sign: np.array([[np.cos(sign * 0.4), 0], [-np.sin(sign * 0.4), 1]])),
])  # fmt: skip
def test_affine_as_scipy(kind: str, matrix: object, digits: Tensor) -> None:
    """Each image is one of the two directions, bilinear, 0 outside."""
    assert callable(matrix)
    for image, found in zip(digits.numpy(), corrupt(digits, kind).numpy(), strict=True):
        expected = [
            ndimage.affine_transform(image.astype(float), m, 13.5 - m @ (13.5, 13.5), order=1)
            for m in map(matrix, (1, -1))
        ]
        assert min(np.abs(found - each).max() for each in expected) < 1


def rotation(angle: float) -> np.ndarray:
    """Of (row, column)."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, sin], [-sin, cos]])


def test_gaussian_as_scipy(digits: Tensor) -> None:
    x = digits.float()
    expected = [ndimage.gaussian_filter(image, 0.7, mode="nearest") for image in x.numpy()]
    assert np.abs(gaussian(x, 0.7).numpy() - expected).max() < 1e-3


def test_glass_blur_is_along_columns(digits: Tensor) -> None:
    """As the published code blurs."""
    x = torch.zeros(1, 28, 28)
    x[:, 14] = 1
    expected = ndimage.gaussian_filter(x[0].numpy(), (0.7, 0), mode="nearest")
    assert np.abs(gaussian(x, (0.7, 0.0))[0].numpy() - expected).max() < 1e-6


def test_translate_moves_by_three_pixels(digits: Tensor) -> None:
    for image, moved in zip(digits, corrupt(digits, "translate"), strict=True):
        shifts = [(a, b) for a in (-3, 3) for b in (-3, 3)]
        assert any(torch.equal(image.roll(shift, (0, 1)), moved) for shift in shifts)


def test_brightness_stripe_and_noise(digits: Tensor) -> None:
    assert corrupt(digits, "brightness").min() == 128  # half of 255, rounded to even
    stripe = corrupt(digits, "stripe")
    assert torch.equal(stripe[..., 7:21], digits[..., 7:21])
    assert torch.equal(stripe[..., :7], 255 - digits[..., :7])
    is_changed = corrupt(digits.new_full((100, 28, 28), 100), "impulse_noise") != 100
    assert is_changed.float().mean() == pytest.approx(0.17, abs=0.005)
    photons = corrupt(digits.new_full((100, 28, 28), 85), "shot_noise").unique()
    assert photons.tolist() == [0, 85, 170, 255]


def test_motion_blur_keeps_the_ink(digits: Tensor) -> None:
    ink = digits.float().sum((1, 2))
    assert (corrupt(digits, "motion_blur").float().sum((1, 2)) / ink - 1).abs().max() < 0.03


def test_lines_are_where_the_paper_has_them(digits: Tensor) -> None:
    dotted = corrupt(torch.zeros_like(digits), "dotted_line").amax((0, 1)).nonzero().flatten()
    assert dotted.tolist() == [column for column in range(27) if column % 4 >= 2]
    lines = zigzag(torch.zeros(40, 28, 28), torch.Generator().manual_seed(0))
    columns = torch.nonzero(lines.amax((0, 1)) > 0).flatten().tolist()
    assert columns == list(range(columns[0], columns[-1] + 1))
    assert columns[0] <= 2
    assert columns[-1] >= 24


def test_canny_finds_the_outline_of_a_square() -> None:
    """Both pixels at the step, which are equally steep, all around; a faint square has none."""
    image = torch.zeros(2, 28, 28, dtype=torch.uint8)
    image[0, 8:20, 8:20], image[1, 8:20, 8:20] = 255, 5
    bright, faint = corrupt(image, "canny_edges")
    assert faint.sum() == 0
    assert set(bright.unique().tolist()) == {0, 255}
    assert ndimage.label(bright.numpy() == 0)[1] == 2  # inside and outside
    assert bright[14].nonzero().flatten().tolist() == [7, 8, 19, 20]


def test_evaluated_on(call: Call, copied: Path, tmp_path: Path) -> None:
    """The run is its own baseline: the same errors."""
    ended = call(
        "evaluate", f"run_dir={copied}", "corruptions=[stripe,shear]", f"baseline={copied}"
    )
    assert ended.status == 0, ended.err
    found = json.loads(
        (copied / "evaluation" / "best-test-corruptions-stripe-shear.json").read_text()
    )
    assert [row["kind"] for row in found["corruptions"]] == ["stripe", "shear"]
    accuracies = [row["accuracy"] for row in found["corruptions"]]
    assert found["corrupted_accuracy"] == pytest.approx(np.mean(accuracies))
    assert found["error_ratio"] == pytest.approx(1) or set(accuracies) == {1.0}
    assert (copied / "evaluation" / "best-test-corruptions-stripe-shear.png").is_file()
    assert "stripe" in ended.out + ended.err


def test_ratios_of_errors() -> None:
    """Where the baseline makes none, there is none, and the mean is of the others."""
    found = summary({"fog": 0.9, "stripe": 0.7}, {"fog": 1.0, "stripe": 0.85})
    assert [row["error_ratio"] for row in found["corruptions"]] == [None, pytest.approx(2)]
    assert found["error_ratio"] == pytest.approx(2)
    assert found["corrupted_accuracy"] == pytest.approx(0.8)
    assert summary({"fog": 0.9}, {"fog": 1.0})["error_ratio"] is None
    assert summary({"fog": 0.9}, None)["error_ratio"] is None


def test_some_kinds_are_not_taken_for_all(call: Call, copied: Path) -> None:
    assert call("evaluate", f"run_dir={copied}", "corruptions=stripe").status == 0
    assert (copied / "evaluation" / "best-test-corruptions-stripe.json").is_file()
    (row,) = collect.rows([copied])
    assert row["corrupted_accuracy"] is None


def test_a_sweep(call: Call, tmp_path: Path) -> None:
    """Runs without a checkpoint are left out; a run that was resumed since is not as measured."""
    sweep = ("-m", "seed=0,1", "sweep=s", "trainer.max_epochs=1")
    assert call("train", *SMALL, *sweep).status == 0
    folder = tmp_path / "outputs" / "sweeps" / "s"
    shutil.copytree(folder / "seed-1", folder / "seed-2")
    shutil.rmtree(folder / "seed-2" / "checkpoints")
    ended = call("evaluate", f"run_dir={folder}", "corruptions=all")
    assert ended.status == 0, ended.err
    assert (ended.err + ended.out).count("they have no checkpoint: seed-2\n") == 1
    found = json.loads((folder / "evaluation" / "runs.json").read_text())["runs"]
    assert [result["run"] for result in found] == ["seed-0", "seed-1"]
    rows = collect.rows([folder])
    assert [row["corrupted_accuracy"] for row in rows[:2]] == [
        result["corrupted_accuracy"] for result in found
    ]
    ended = call("evaluate", f"run_dir={folder}", "checkpoint=previous")
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "no run has a checkpoint previous" in ended.err
    assert call("train", f"resume={folder / 'seed-0'}", "trainer.max_epochs=2").status == 0
    assert collect.rows([folder / "seed-0"])[0]["corrupted_accuracy"] is None
    ended = call("compare", f"run_dir={folder}", "metric=corrupted_accuracy")
    assert ended.status == 2
    assert "not measured of seed-0" in ended.err


@pytest.mark.parametrize(("typed", "message"), [
    ("corruptions=[smoke]", "corruptions"),
    ("data=digits split=val", "split=val: digits has test images only"),
    ("data=mnist data.crop=20", "data.crop: is as in the run"),
    ("+data.foo=1", "data.foo: unknown key"),
    ("data=qmnist", "data.dir: must hold the four files of qmnist"),
    ("corruptions=some", "corruptions=some: must be 'all' or"),
    ("baseline=here", "baseline: is for corruptions=all"),
    ("corruptions=all baseline=nowhere", "baseline=nowhere: there is no such folder"),
    ("data=fashion_mnist", "its classes are T-shirt"),
])  # fmt: skip
def test_bad(typed: str, message: str, call: Call, copied: Path) -> None:
    ended = call("evaluate", f"run_dir={copied}", *typed.split())
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert message in ended.err
