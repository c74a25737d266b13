"""manifest.json beside the checkpoints: the SHA-256 of each that the run wrote."""

import hashlib
from pathlib import Path
from typing import Any

from mnv2_lightning.system.durable_files import read_json, write_json

NAME = "manifest.json"
KEPT = 3  # of each name: `last`, what it becomes (`previous`), and one that a crash left unwritten


def add(path: Path, content: bytes | memoryview, **about: Any) -> None:
    """Before `content` is written to `path`, so that no crash leaves a checkpoint without its sum.

    Of each name it knows the last few, also of those that were renamed since. StorageError.
    """
    new = {"file": path.name, "sha256": sha256(content), "bytes": len(content), **about}
    entries = [x for x in known(path.parent) or [] if x["sha256"] != new["sha256"]] + [new]
    names = {x["file"] for x in entries}
    kept = [[x for x in entries if x["file"] == name][-KEPT:] for name in sorted(names)]
    _write(path.parent, [x for of_name in kept for x in of_name])


def settle(folder: Path, whole: dict[str, str]) -> None:
    """Know the checkpoints `whole`, SHA-256 by file name, and forget the rest, which a crash left
    unwritten: a few such would crowd out those that are. Makes one that is lost anew.
    """
    before = known(folder)
    entries = [x for x in before or [] if x["sha256"] in whole.values()]
    sums = {x["sha256"] for x in entries}
    entries += [{"file": f, "sha256": s} for f, s in whole.items() if s not in sums]
    if entries != (before or []):
        _write(folder, entries)


def _write(folder: Path, entries: list[dict[str, Any]]) -> None:
    write_json(folder / NAME, {"checkpoints": entries})


def known(folder: Path) -> list[dict[str, Any]] | None:
    """What `add` wrote; None: there is none that can be read."""
    try:
        found = read_json(folder / NAME)["checkpoints"]
        return found if all(isinstance(x["sha256"], str) and x["file"] for x in found) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def sha256(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()
