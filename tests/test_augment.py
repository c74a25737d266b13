"""Random affine maps: each a pure function of (seed, epoch, image), and as large as was asked."""

import math

import pytest
import torch

from mnv2_lightning.data.augment import RandomAffine, uniform


def affine(**ranges: float) -> RandomAffine:
    nothing = {"degrees": 0.0, "translate": 0.0, "scale": 0.0, "shear": 0.0}
    return RandomAffine(**(nothing | ranges), seed=0)


def test_augmentation_is_a_function_of_seed_epoch_and_image() -> None:
    augment, images = affine(degrees=20, translate=0.1), torch.rand(8, 1, 28, 28)
    indices = torch.arange(100, 108)
    whole = augment(images, indices, 2)
    parts = [augment(images[i : i + 1], indices[i : i + 1], 2) for i in range(8)]
    torch.testing.assert_close(whole, torch.cat(parts))
    assert not torch.equal(whole, augment(images, indices, 3))


def test_translation_moves_by_the_drawn_share() -> None:
    """A shift of x (in half sides) moves the centre of mass by -14 x px."""
    images = torch.zeros(1, 1, 28, 28)
    images[..., 12:16, 12:16] = 1
    drawn = uniform(torch.tensor([5]), 0, 0, 5)[0]
    moved = affine(translate=0.1)(images, torch.tensor([5]), 0)[0, 0]
    place = torch.arange(28.0)
    across = (moved.sum(0) * place).sum() / moved.sum()
    assert across.item() == pytest.approx(13.5 - 14 * 0.2 * drawn[3].item(), abs=0.05)


def test_rotation_keeps_what_is_round() -> None:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 28), torch.linspace(-1, 1, 28), indexing="ij")
    disc = ((x**2 + y**2) < 0.25).float()[None, None]
    turned = affine(degrees=90)(disc, torch.tensor([1]), 0)
    assert (turned - disc).abs().mean() < 0.03


def test_scale_makes_larger_or_smaller() -> None:
    disc = torch.zeros(200, 1, 28, 28)
    disc[..., 9:19, 9:19] = 1
    areas = affine(scale=0.2)(disc, torch.arange(200), 0).sum((1, 2, 3)) / 100
    assert 0.8**2 - 0.05 < areas.min() < 0.75
    assert 1.35 < areas.max() < 1.2**2 + 0.05


def test_nothing_to_augment() -> None:
    assert not affine()
    assert affine(shear=0.1)


def test_uniform_is_uniform_and_its_draws_independent() -> None:
    drawn = uniform(torch.arange(20_000), 3, 1, 5).double()
    assert drawn.min() >= -1
    assert drawn.max() < 1
    # 5 standard errors of a mean of 20,000: 5 * (1 / sqrt 3) / sqrt 20,000
    assert drawn.mean(0).abs().max() < 5 / math.sqrt(3 * 20_000)
    assert (drawn.T.corrcoef() - torch.eye(5)).abs().max() < 5 / math.sqrt(20_000)
    following = uniform(torch.arange(20_000), 3, 2, 5).double()
    assert (drawn * following).mean(0).abs().max() < 5 / 3 / math.sqrt(20_000)
