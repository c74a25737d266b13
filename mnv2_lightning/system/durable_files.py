"""Writing files that outlive a crash and a power cut: whole or not at all. Without torch."""

import contextlib
import errno
import json
import os
import secrets
import tempfile
from pathlib import Path
from typing import Any

from mnv2_lightning.schema.errors import ConfigError, StorageError

TEMPORARY = ".unfinished"  # how the name of a file ends that a crash left half-written
PROBE = 1 << 20  # bytes
# Errors of os.link on file systems without hard links, such as FAT and some network shares.
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL)
os.umask(UMASK := os.umask(0))  # what the user keeps from others; it cannot be read otherwise


def write_bytes(path: Path, content: bytes | memoryview, *, keep: Path | None = None) -> None:
    """Replace `path` in one step; it is on the disk when this returns.

    `keep`: another name for the file that it replaces, in the same folder. StorageError: the old
    file is still there.
    """
    temporary = None
    try:
        make_folder(path.parent)
        descriptor, temporary = tempfile.mkstemp(TEMPORARY, ".", path.parent)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~UMASK)  # mkstemp's is readable by its owner only
        if keep is not None and path.exists():
            _keep(path, keep)
        os.replace(temporary, path)
        temporary = None
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _keep(path: Path, name: Path) -> None:
    """Give the file a second name, so that `path` always exists; a copy without hard links."""
    link = name.with_name(f".{name.name}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        os.link(path, link)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        write_bytes(name, path.read_bytes())
        return
    try:
        os.replace(link, name)
    finally:  # a rename between two names of one file succeeds and does nothing
        link.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, data: Any) -> None:
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def make_folder(folder: Path) -> None:
    """With those above it; each is on the disk when this returns."""
    missing = [p for p in (folder, *folder.parents) if not p.is_dir()]
    for made in reversed(missing):
        made.mkdir(exist_ok=True)
        sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """Which files are in it, and under what names, is on the disk when this returns."""
    if os.name == "nt":  # a folder cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def settle(folder: Path) -> None:
    """A folder that others made is on the disk when this returns, with those above it."""
    for above in folder.resolve().parents:
        with contextlib.suppress(OSError):  # not all can be opened
            sync_folder(above)


def remove_unfinished(folder: Path) -> None:
    """What `write_bytes` left there when its process was killed."""
    for path in folder.glob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def require_writable(folder: Path) -> None:
    """Write a megabyte where it is to be, and drop it.

    ConfigError: a file is there. StorageError: the disk is full or read-only, or not permitted.
    """
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not there.is_dir():
        raise ConfigError(f"{folder}: {there} is a file")
    try:
        with tempfile.TemporaryFile(dir=there) as probe:
            probe.write(bytes(PROBE))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written to ({error.strerror or error})") from None
