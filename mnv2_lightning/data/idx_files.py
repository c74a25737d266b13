"""The four IDX files of a data set: finding, fetching and checking them.

Size and SHA-256 of the raw bytes are checked at every start. A wrong file is never used.
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
from mnv2_lightning.data.sources import SOURCES, Deadline, SourceError
from mnv2_lightning.schema.errors import ConfigError, DataError, StorageError
from mnv2_lightning.system.durable_files import remove_unfinished, write_bytes, write_text

log = logging.getLogger(__name__)

FAILED = ".failed"  # the message of the last failed fetch, for processes that waited for it


def load(dataset: str, directory: str | None) -> dict[str, np.ndarray]:
    """The uint8 arrays of `dataset`: train-images (60000, 28, 28), train-labels (60000,), ...

    Files may be raw or .gz, in `directory`, in its subfolder named after the data set, or as
    torchvision stores them. Missing files are fetched into that subfolder. `directory` None: a
    cache folder of the user. ConfigError: no such folder. DataError: no source has the files.
    """
    require_folder(directory)
    root = Path(directory).expanduser() if directory else user_cache_path("mnv2_lightning")
    files = DATA_SETS[dataset].files
    raw = _read_all(dataset, root)
    if len(raw) < len(files):
        raw = _fetch(dataset, root)
    return {file.name.split("-idx")[0]: _array(file, raw[file.name]) for file in files}


def require_folder(directory: str | None) -> None:
    """ConfigError if the folder does not exist, unless the variable MNV2_DATA_DIR names it."""
    if directory in (None, os.environ.get(DATA_DIR)):
        return
    if not Path(os.path.expanduser(str(directory))).is_dir():
        raise ConfigError(
            f"data.dir={directory}: there is no such folder; make it to download into it, or leave "
            "data.dir out for a cache folder of yours"
        )


def has(dataset: str, directory: str) -> bool:
    """Whether `load` would find all files, without fetching."""
    root = Path(os.path.expanduser(directory))  # Path.expanduser() raises for an unknown user
    return len(_read_all(dataset, root)) == len(DATA_SETS[dataset].files)


def _is_valid(file: IdxFile, raw: bytes) -> bool:
    return len(raw) == file.size and hashlib.sha256(raw).hexdigest() == file.sha256


def _array(file: IdxFile, raw: bytes) -> np.ndarray:
    header = 4 + 4 * len(file.shape)  # a magic number and the size of each dimension
    return np.frombuffer(raw, np.uint8, offset=header).reshape(file.shape)


def _read_all(dataset: str, root: Path) -> dict[str, bytes]:
    """The raw bytes of all valid files by name; warns of invalid ones."""
    folders = root / dataset, root, root / DATA_SETS[dataset].torchvision / "raw"
    found: dict[str, bytes] = {}
    for file in DATA_SETS[dataset].files:
        for path in (folder / f"{file.name}{end}" for folder in folders for end in ("", ".gz")):
            if path.is_file():
                raw = _read(path, file.size)
                if _is_valid(file, raw):
                    found[file.name] = raw
                    break
                log.warning("%s: not the right file (size or SHA-256), not used", path)
    return found


def _read(path: Path, size: int) -> bytes:
    """Up to `size` + 1 raw bytes: enough to notice that a file is too long."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            return stream.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        log.warning("%s: cannot be read (%s)", path, error)
        return b""


def _fetch(dataset: str, root: Path) -> dict[str, bytes]:
    """Fetch missing files from the sources, one after the other; other processes wait.

    DataError, before the deadline: a message that says what the user can do.
    """
    deadline = Deadline()
    folder, files = root / dataset, {file.name: file for file in DATA_SETS[dataset].files}
    by_hand = f"put the four files, raw or .gz, into {folder}, or set data.dir=PATH"
    found: dict[str, bytes] = {}
    problems: list[str] = []

    def keep(name: str, raw: bytes) -> None:
        if not _is_valid(files[name], raw):
            raise SourceError(f"{name}: not the right bytes (size or SHA-256)")
        write_bytes(folder / name, raw)
        found[name] = raw

    try:
        with _locked(folder, deadline):
            found |= _read_all(dataset, root)  # another process may have fetched them
            for source, fetch in SOURCES.items():
                missing = {name: f.size for name, f in files.items() if name not in found}
                if not missing:
                    break
                try:
                    fetch(dataset, missing, keep, deadline)
                except SourceError as error:
                    log.warning("%s: %s", source, error)
                    problems.append(f"{source}: {error}")
            if len(found) < len(files):
                message = f"{dataset} could not be fetched ({'; '.join(problems)}); {by_hand}"
                write_text(folder / FAILED, message)
                raise DataError(message)
    except Timeout:
        raise DataError(
            f"{folder}: another process is still fetching: start again when it has ended; or "
            f"{by_hand}"
        ) from None
    except StorageError as error:
        raise DataError(f"{error}; {by_hand}") from None
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror}); {by_hand}") from None
    return found


@contextmanager
def _locked(folder: Path, deadline: Deadline) -> Iterator[None]:
    """Hold the lock of a fetch. DataError: another process held it, and its fetch failed."""
    folder.mkdir(parents=True, exist_ok=True)
    lock, failed, waited = FileLock(folder / ".lock"), folder / FAILED, False
    try:
        lock.acquire(timeout=0.5)
    except Timeout:
        log.info("another process is fetching into %s: waiting for it", folder)
        lock.acquire(timeout=deadline.seconds_left())
        waited = True
    try:
        if waited and failed.exists():  # otherwise each of them would ask all sources in turn
            raise DataError(failed.read_text(encoding="utf-8"))
        failed.unlink(missing_ok=True)
        remove_unfinished(folder)
        yield
    finally:
        lock.release()
