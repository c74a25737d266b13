"""Atomic writes that survive a crash or a power cut. Imports no torch."""

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from mnv2_lightning.schema.errors import ConfigError, StorageError

TEMPORARY = ".unfinished"  # suffix of temporary files
os.umask(UMASK := os.umask(0))  # the only way to read it


def write_bytes(path: Path, content: bytes | memoryview, *, keep: Path | None = None) -> None:
    """Replace `path` in one step; it is on the disk when this returns.

    `keep`: a name in the same folder for the replaced file. StorageError: `path` is unchanged.
    """
    temporary = None
    try:
        make_folder(path.parent)
        descriptor, temporary = tempfile.mkstemp(TEMPORARY, ".", path.parent)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~UMASK)  # mkstemp makes it private
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
    """Give the file a second name, so that `path` always exists."""
    link = name.with_name(f".{name.name}{TEMPORARY}")
    link.unlink(missing_ok=True)  # of a process that was killed
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links
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


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents; they are on the disk when this returns."""
    missing = [p for p in (folder, *folder.parents) if not p.is_dir()]
    for made in reversed(missing):
        made.mkdir(exist_ok=True)
        sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """The names in `folder` are on the disk when this returns."""
    if os.name == "nt":  # a folder cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files of `write_bytes` in a process that was killed."""
    for path in folder.glob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def require_writable(folder: Path) -> None:
    """Write a temporary file of 1 MB into `folder`, or into the parent that exists.

    ConfigError: a file is there. StorageError: the disk is full or read-only, or not permitted.
    """
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not there.is_dir():
        raise ConfigError(f"{folder}: {there} is a file")
    try:
        with tempfile.TemporaryFile(dir=there) as probe:
            probe.write(bytes(1 << 20))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written to ({error.strerror or error})") from None
