"""Random affine maps: each a pure function of (seed, epoch, image), and as large as was asked."""

import math

import pytest
import torch

from mnv2_lightning.data import affine
from mnv2_lightning.data.affine import RandomAffine, uniform


def test_augmentation_is_a_function_of_seed_epoch_and_image() -> None:
    augment, images = RandomAffine(degrees=20, translate=0.1, seed=0), torch.rand(8, 1, 28, 28)
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
    moved = RandomAffine(translate=0.1, seed=0)(images, torch.tensor([5]), 0)[0, 0]
    place = torch.arange(28.0)
    across = (moved.sum(0) * place).sum() / moved.sum()
    assert across.item() == pytest.approx(13.5 - 14 * 0.2 * drawn[3].item(), abs=0.05)


def test_rotation_keeps_what_is_round() -> None:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 28), torch.linspace(-1, 1, 28), indexing="ij")
    disc = ((x**2 + y**2) < 0.25).float()[None, None]
    turned = RandomAffine(degrees=90, seed=0)(disc, torch.tensor([1]), 0)
    assert (turned - disc).abs().mean() < 0.03


def test_scale_makes_larger_or_smaller() -> None:
    disc = torch.zeros(200, 1, 28, 28)
    disc[..., 9:19, 9:19] = 1
    areas = RandomAffine(scale=0.2, seed=0)(disc, torch.arange(200), 0).sum((1, 2, 3)) / 100
    assert 0.8**2 - 0.05 < areas.min() < 0.75
    assert 1.35 < areas.max() < 1.2**2 + 0.05


def test_nothing_to_augment() -> None:
    assert not RandomAffine(seed=0)
    assert RandomAffine(shear=0.1, seed=0)


def test_uniform_is_uniform_and_its_draws_independent() -> None:
    drawn = uniform(torch.arange(20_000), 3, 1, 5).double()
    assert drawn.min() >= -1
    assert drawn.max() < 1
    # 5 standard errors of a mean of 20,000: 5 * (1 / sqrt 3) / sqrt 20,000
    assert drawn.mean(0).abs().max() < 5 / math.sqrt(3 * 20_000)
    assert (drawn.T.corrcoef() - torch.eye(5)).abs().max() < 5 / math.sqrt(20_000)
    following = uniform(torch.arange(20_000), 3, 2, 5).double()
    assert (drawn * following).mean(0).abs().max() < 5 / 3 / math.sqrt(20_000)


def test_views_are_the_image_and_each_change_to_either_end() -> None:
    images = torch.rand(2, 1, 28, 28)
    image, *shifted = affine.TestTimeAugmentation(translate=1 / 28)(images)
    assert image is images
    left, up, right, down = shifted
    torch.testing.assert_close(left[..., :-1], images[..., 1:])
    torch.testing.assert_close(right[..., 1:], images[..., :-1])
    torch.testing.assert_close(up[..., :-1, :], images[..., 1:, :])
    torch.testing.assert_close(down[..., 1:, :], images[..., :-1, :])
    for ranges, count in (({}, 1), ({"degrees": 7, "scale": 0.1}, 5), ({"shear": 0.1}, 3)):
        views = affine.TestTimeAugmentation(**ranges)
        assert len(views) == len(list(views(images))) == count


def test_views_repeat_the_border() -> None:
    """A normalized image has a background other than 0."""
    grey = torch.full((1, 1, 28, 28), -0.42)
    for view in affine.TestTimeAugmentation(degrees=30, translate=0.2, scale=0.3, shear=0.3)(grey):
        torch.testing.assert_close(view, grey)
