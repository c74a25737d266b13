"""manifest.json beside the checkpoints: the SHA-256 of each that the run wrote."""

import hashlib
from pathlib import Path
from typing import Any

from mnv2_lightning.files import read_json, write_json

NAME = "manifest.json"
KEPT = 3  # of each name: `last`, what it becomes (`previous`), and one that a crash left unwritten


def add(path: Path, content: bytes | memoryview, **about: Any) -> None:
    """Before `content` is written to `path`, so that no crash leaves a checkpoint without its sum.

    Forgets those that are overwritten or gone. StorageError.
    """
    new = {"file": path.name, "sha256": sha256(content), "bytes": len(content), **about}
    there = [x for x in known(path.parent) or [] if x["sha256"] != new["sha256"]]
    there = [x for x in there if x["file"] == path.name or (path.parent / x["file"]).is_file()]
    of_name = [x for x in there if x["file"] == path.name]
    others = [x for x in there if x["file"] != path.name]
    write_json(path.parent / NAME, {"checkpoints": [*others, *of_name[1 - KEPT :], new]})


def keep_only(folder: Path, sums: set[str]) -> None:
    """Forget the rest, which a crash left unwritten: a few such would crowd out those that are."""
    there = known(folder) or []
    if any(x["sha256"] not in sums for x in there):
        write_json(folder / NAME, {"checkpoints": [x for x in there if x["sha256"] in sums]})


def known(folder: Path) -> list[dict[str, Any]] | None:
    """What `add` wrote; None: there is none that can be read."""
    try:
        found = read_json(folder / NAME)["checkpoints"]
        return found if all(isinstance(x["sha256"], str) and x["file"] for x in found) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def sha256(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()
