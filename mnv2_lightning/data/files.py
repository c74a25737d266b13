"""The four IDX files of a data set: where they are looked for, fetched to, and checked.

Size and SHA-256 of the raw bytes are checked at every start; a wrong file is never used.
"""

import gzip
import hashlib
import logging
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from mnv2_lightning.data.sources import SOURCES, SourceError
from mnv2_lightning.schema.errors import DataError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IdxFile:
    """A raw file: its name, size in bytes, checksum, and the shape of the array in it."""

    name: str
    size: int
    sha256: str
    shape: tuple[int, ...]

    def is_right(self, raw: bytes) -> bool:
        return len(raw) == self.size and hashlib.sha256(raw).hexdigest() == self.sha256

    def array(self, raw: bytes) -> np.ndarray:
        header = 4 + 4 * len(self.shape)  # a magic number, then a size for each dimension
        return np.frombuffer(raw, np.uint8, offset=header).reshape(self.shape)


def _files(*checksums: str) -> tuple[IdxFile, ...]:
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    sizes = (47_040_016, 60_008, 7_840_016, 10_008)
    shapes = ((60_000, 28, 28), (60_000,), (10_000, 28, 28), (10_000,))
    return tuple(
        IdxFile(f"{name}-ubyte", size, checksum, shape)
        for name, size, checksum, shape in zip(names, sizes, checksums, shapes, strict=True)
    )


FILES = {
    "mnist": _files(
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "fashion_mnist": _files(
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}


def load(dataset: str, directory: str | None) -> dict[str, np.ndarray]:
    """The arrays of `dataset` by split: train-images (60000, 28, 28), train-labels (60000,), ...

    Found in `directory` (None: a cache folder of the user's) raw or as .gz, in its subfolder
    named after the data set, or as torchvision keeps it; else fetched into that subfolder.
    DataError: no right files are there and no source could give them.
    """
    root = Path(directory).expanduser() if directory else user_cache_path("mnv2_lightning")
    files = FILES[dataset]
    raw = _read_all(files, _folders(root, dataset))
    if len(raw) < len(files):
        raw = _fetch(dataset, root)
    return {file.name.split("-idx")[0]: file.array(raw[file.name]) for file in files}


def _folders(root: Path, dataset: str) -> tuple[Path, ...]:
    torchvision_name = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[dataset]
    return root / dataset, root, root / torchvision_name / "raw"


def _read_all(files: tuple[IdxFile, ...], folders: tuple[Path, ...]) -> dict[str, bytes]:
    """The right bytes of each file that is there; a wrong file is named."""
    found: dict[str, bytes] = {}
    for file in files:
        for path in (folder / f"{file.name}{end}" for folder in folders for end in ("", ".gz")):
            if path.is_file():
                raw = _read(path, file.size)
                if file.is_right(raw):
                    found[file.name] = raw
                    break
                log.warning("%s: not the right file (size or SHA-256), not used", path)
    return found


def _read(path: Path, size: int) -> bytes:
    """Up to `size` + 1 raw bytes: enough to see that a file is too long."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            return stream.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        log.warning("%s: cannot be read (%s)", path, error)
        return b""


def _fetch(dataset: str, root: Path) -> dict[str, bytes]:
    """Ask each source in turn for what is missing; one process does, the others wait for it."""
    folder, files = root / dataset, {file.name: file for file in FILES[dataset]}
    by_hand = f"put the four files, raw or .gz, into {folder}, or set data.dir=PATH"
    found: dict[str, bytes] = {}
    problems: list[str] = []

    def keep(name: str, raw: bytes) -> None:
        if not files[name].is_right(raw):
            raise SourceError(f"{name}: not the right bytes (size or SHA-256)")
        _write(folder / name, raw)
        found[name] = raw

    try:
        with _locked(folder):
            # Another process may have fetched them while this one waited.
            found |= _read_all(FILES[dataset], _folders(root, dataset))
            for source, fetch in SOURCES.items():
                missing = {name: f.size for name, f in files.items() if name not in found}
                if not missing:
                    break
                try:
                    fetch(dataset, missing, keep)
                except SourceError as error:
                    log.warning("%s: %s", source, error)
                    problems.append(f"{source}: {error}")
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror}); {by_hand}") from None
    if len(found) < len(files):
        raise DataError(f"{dataset} could not be had ({'; '.join(problems)}); {by_hand}")
    return found


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0.5)
    except Timeout:
        log.info("another process is fetching into %s: waiting for it", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _write(path: Path, raw: bytes) -> None:
    """Whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as stream:
        stream.write(raw)
        stream.flush()
        os.fsync(stream.fileno())
    os.chmod(stream.name, 0o644)
    os.replace(stream.name, path)
