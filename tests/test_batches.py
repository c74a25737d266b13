"""Batches: their order, a pure function of (seed, epoch, rank), and how images are prepared."""

from itertools import chain

import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms as T
from PIL import Image

from mnv2_lightning.build import build_datamodule
from mnv2_lightning.callbacks.predictions import positions
from mnv2_lightning.data.batches import Batches, split, stratified
from mnv2_lightning.data.datamodule import MNISTDataModule
from mnv2_lightning.schema.check import smallest_batch
from tests.conftest import SMALL, Configure


def batches(epoch: int, **options: int) -> list[list[int]]:
    sampler = Batches(torch.arange(103), 10, shuffle=True, seed=options.pop("seed", 0), **options)
    sampler.set_epoch(epoch)
    return [indices.tolist() for indices, _ in sampler]


def test_order_is_a_function_of_seed_and_epoch() -> None:
    assert batches(3) == batches(3)
    assert batches(3) != batches(4)
    assert batches(3) != batches(3, seed=1)


def test_every_image_once_and_no_small_batch() -> None:
    """103 images in batches of 10: eleven of 9 or 10."""
    epoch = batches(0)
    assert sorted(chain(*epoch)) == list(range(103))
    assert {len(batch) for batch in epoch} == {9, 10}
    assert len(epoch) == 11


@pytest.mark.parametrize("batch_size", [1, 2, 3, 10, 52, 102, 103])
def test_the_smallest_batch(batch_size: int) -> None:
    batches = Batches(torch.arange(103), batch_size, shuffle=False)
    assert smallest_batch(103, batch_size) == min(len(indices) for indices, _ in batches)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_each_batch(world_size: int) -> None:
    whole = batches(5)
    ranks = [batches(5, rank=rank, world_size=world_size) for rank in range(world_size)]
    for index, batch in enumerate(whole):
        assert sorted(chain(*(rank[index] for rank in ranks))) == sorted(batch)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_positions_of_the_shares(world_size: int) -> None:
    ranks = [
        [
            indices.tolist()
            for indices, _ in Batches(
                torch.arange(103), 10, shuffle=False, rank=rank, world_size=world_size
            )
        ]
        for rank in range(world_size)
    ]
    sizes = [[len(share) for share in shares] for shares in ranks]
    assert positions(sizes).tolist() == list(chain(*chain(*ranks)))


def test_split_is_disjoint_and_by_seed() -> None:
    train, val = split(100, 30, seed=0)
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(100))
    assert len(val) == 30
    assert val.tolist() != split(100, 30, seed=1)[1].tolist()
    assert len(split(100, 0, seed=0)[1]) == 0


@pytest.mark.parametrize(("size", "counts"), [(1000, (500, 300, 200)), (7, (4, 2, 1)), (1, (1,))])
def test_stratified(size: int, counts: tuple[int, ...]) -> None:
    """Each class has its share, rounded, and another seed draws others."""
    labels = torch.tensor([0] * 5000 + [1] * 3000 + [2] * 2000)[torch.randperm(10_000)]
    drawn = stratified(labels, size, seed=0)
    assert tuple(labels[drawn].bincount().tolist()) == counts
    assert len(drawn.unique()) == size
    assert drawn.tolist() == stratified(labels, size, seed=0).tolist()
    assert drawn.tolist() != stratified(labels, size, seed=1).tolist()


def test_train_size_leaves_the_validation_images_out(configure: Configure) -> None:
    data = build_datamodule(configure("data.train_size=100", "data.val_size=50"))
    data.setup()
    train, val = (set(data.indices[split].tolist()) for split in ("train", "val"))
    assert (len(train), len(val), len(train & val)) == (100, 50, 0)
    assert sum(len(labels) for _, labels in data.train_dataloader()) == 100


def test_global_random_state_is_left_alone(configure: Configure) -> None:
    data = build_datamodule(configure(*SMALL))
    data.setup()
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    next(iter(data.train_dataloader()))
    assert torch.rand(1) == expected


@pytest.mark.parametrize("size", [28, 56, 224])
def test_prepared_as_the_tutorial_does(size: int, configure: Configure) -> None:
    """ToTensor, Normalize, Resize (bilinear, antialiased), one image at a time by torchvision."""
    data = build_datamodule(configure(*SMALL, f"data.image_size={size}"))
    data.setup()
    steps = [T.ToTensor(), T.Normalize(0.1307, 0.3081), T.Resize((size, size), antialias=True)]
    theirs = [T.Compose(steps)(Image.fromarray(image)) for image in data.images("test")[:3]]
    x, labels = next(iter(data.test_dataloader()))
    assert (x.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert x.shape == (len(labels), 1, size, size)
    torch.testing.assert_close(x[:3], torch.stack(theirs), atol=1e-5, rtol=0)


def test_crop(configure: Configure) -> None:
    """The middle of the prepared image, which the image size follows."""
    whole = build_datamodule(configure(*SMALL))
    middle = build_datamodule(configure(*SMALL, "data.crop=24"))
    x = torch.rand(5, 1, 28, 28)
    cropped = middle.transform(x)
    assert cropped.shape == (5, 1, 24, 24)
    torch.testing.assert_close(cropped, whole.transform(x)[..., 2:26, 2:26])


def test_augmented_in_training_only(configure: Configure) -> None:
    """By (seed, epoch), whoever asks; the images of a batch are those of its labels."""
    plain = build_datamodule(configure(*SMALL))
    augmented = build_datamodule(configure(*SMALL, "data.augment.degrees=20"))
    plain.setup()
    augmented.setup()

    def epoch(data: MNISTDataModule, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        loader = data.train_dataloader()
        loader.sampler.set_epoch(number)  # type: ignore[attr-defined]
        images, labels = zip(*loader, strict=True)
        return torch.cat(images), torch.cat(labels)

    images, labels = epoch(plain, 1)
    turned, same_labels = epoch(augmented, 1)
    assert torch.equal(labels, same_labels)
    assert 0.1 < (images - turned).abs().mean() < 1
    assert torch.equal(turned, epoch(augmented, 1)[0])
    bars = (images[:, 0, :, 4:24].mean(-1) > 1).float()  # rows 2 label + 4 to 2 label + 6
    assert torch.equal(bars.argmax(1), 2 * labels + 4)
    for a, b in ((plain.val_dataloader(), augmented.val_dataloader()),):
        for (x, _), (y, _) in zip(a, b, strict=True):
            assert torch.equal(x, y)


def test_interpolation_and_normalisation_commute() -> None:
    """Why images may be normalised before they are resized: the weights sum to 1."""
    x = torch.rand(1, 1, 28, 28)
    size = (40, 40)
    a = F.interpolate((x - 0.3) / 0.2, size, mode="bilinear", antialias=True)
    b = (F.interpolate(x, size, mode="bilinear", antialias=True) - 0.3) / 0.2
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
