"""The four IDX files of a data set: where they are looked for, fetched to, and checked.

Size and SHA-256 of the raw bytes are checked at every start; a wrong file is never used.
"""

import gzip
import hashlib
import logging
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from mnv2_lightning.data.sets import DATA_DIR, DATA_SETS, IdxFile
from mnv2_lightning.data.sources import SOURCES, Patience, SourceError
from mnv2_lightning.schema.errors import ConfigError, DataError, StorageError
from mnv2_lightning.system.durable_files import remove_unfinished, write_bytes, write_text

log = logging.getLogger(__name__)

FAILED = ".failed"  # the file that tells those that waited why the last fetch failed


def _is_right(file: IdxFile, raw: bytes) -> bool:
    return len(raw) == file.size and hashlib.sha256(raw).hexdigest() == file.sha256


def _array(file: IdxFile, raw: bytes) -> np.ndarray:
    header = 4 + 4 * len(file.shape)  # a magic number, then a size for each dimension
    return np.frombuffer(raw, np.uint8, offset=header).reshape(file.shape)


def load(dataset: str, directory: str | None) -> dict[str, np.ndarray]:
    """The arrays of `dataset` by split: train-images (60000, 28, 28), train-labels (60000,), ...

    Found in `directory` (None: a cache folder of the user's) raw or as .gz, in its subfolder
    named after the data set, or as torchvision keeps it; else fetched into that subfolder.
    ConfigError: there is no folder `directory`. DataError: no right files are there and no source
    could give them.
    """
    require_folder(directory)
    root = Path(directory).expanduser() if directory else user_cache_path("mnv2_lightning")
    files = DATA_SETS[dataset].files
    raw = _read_all(files, _folders(root, dataset))
    if len(raw) < len(files):
        raw = _fetch(dataset, root)
    return {file.name.split("-idx")[0]: _array(file, raw[file.name]) for file in files}


def require_folder(directory: str | None) -> None:
    """ConfigError: it does not exist, and is not the one that MNV2_DATA_DIR names."""
    if directory in (None, os.environ.get(DATA_DIR)):
        return
    if not Path(os.path.expanduser(str(directory))).is_dir():
        raise ConfigError(
            f"data.dir={directory}: there is no such folder; make it to download into it, or leave "
            "data.dir out for a cache folder of yours"
        )


def has(dataset: str, directory: str) -> bool:
    """Whether `load` finds all files there. Writes and fetches nothing."""
    root = Path(os.path.expanduser(directory))  # Path.expanduser() fails for a user that is none
    files = DATA_SETS[dataset].files
    return len(_read_all(files, _folders(root, dataset))) == len(files)


def _folders(root: Path, dataset: str) -> tuple[Path, ...]:
    return root / dataset, root, root / DATA_SETS[dataset].torchvision / "raw"


def _read_all(files: tuple[IdxFile, ...], folders: tuple[Path, ...]) -> dict[str, bytes]:
    """The right bytes of each file that is there; a wrong file is named."""
    found: dict[str, bytes] = {}
    for file in files:
        for path in (folder / f"{file.name}{end}" for folder in folders for end in ("", ".gz")):
            if path.is_file():
                raw = _read(path, file.size)
                if _is_right(file, raw):
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
    """Ask each source in turn for what is missing; one process does, the others wait for it.

    DataError, within the time of `Patience`, the wait included: what to do by hand.
    """
    patience = Patience()
    folder, files = root / dataset, {file.name: file for file in DATA_SETS[dataset].files}
    by_hand = f"put the four files, raw or .gz, into {folder}, or set data.dir=PATH"
    found: dict[str, bytes] = {}
    problems: list[str] = []

    def keep(name: str, raw: bytes) -> None:
        if not _is_right(files[name], raw):
            raise SourceError(f"{name}: not the right bytes (size or SHA-256)")
        write_bytes(folder / name, raw)
        found[name] = raw

    try:
        with _locked(folder, patience):
            # Another process may have fetched them while this one waited.
            found |= _read_all(DATA_SETS[dataset].files, _folders(root, dataset))
            for source, fetch in SOURCES.items():
                missing = {name: f.size for name, f in files.items() if name not in found}
                if not missing:
                    break
                try:
                    fetch(dataset, missing, keep, patience)
                except SourceError as error:
                    log.warning("%s: %s", source, error)
                    problems.append(f"{source}: {error}")
            if len(found) < len(files):
                failure = f"{dataset} could not be had ({'; '.join(problems)}); {by_hand}"
                write_text(folder / FAILED, failure)
                raise DataError(failure)
    except Timeout:
        failure = f"{folder}: another process is fetching still: start again when it has ended"
        raise DataError(f"{failure}; or {by_hand}") from None
    except StorageError as error:
        raise DataError(f"{error}; {by_hand}") from None
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror}); {by_hand}") from None
    return found


@contextmanager
def _locked(folder: Path, patience: Patience) -> Iterator[None]:
    """One process at a time. DataError: the one that this one waited for found no source."""
    folder.mkdir(parents=True, exist_ok=True)
    lock, failed, waited = FileLock(folder / ".lock"), folder / FAILED, False
    try:
        lock.acquire(timeout=0.5)
    except Timeout:
        log.info("another process is fetching into %s: waiting for it", folder)
        lock.acquire(timeout=patience.left())
        waited = True
    try:
        if waited and failed.exists():  # else all that wait would ask, one after the other
            raise DataError(failed.read_text(encoding="utf-8"))
        failed.unlink(missing_ok=True)
        remove_unfinished(folder)
        yield
    finally:
        lock.release()
