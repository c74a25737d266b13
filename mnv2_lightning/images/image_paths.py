"""The files that `images=` names."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from mnv2_lightning.schema.errors import ConfigError


def find(images: str | Sequence[str]) -> list[Path]:
    """Files; for a folder its image files, sorted, without hidden ones; for a glob what it matches.

    In a glob, `**` stands for folders of any depth. A file is not opened, and need not exist if
    others do. ConfigError: none exists, or a folder or glob has none.
    """
    found = [path for given in _as_list(images) for path in _find(given)]
    if not any(os.path.exists(path) for path in found):
        missing = str(found[0]) if len(found) == 1 else f"[{found[0]}, ...]"
        raise ConfigError(f"images={missing}: there is no such file or folder")
    return list(dict.fromkeys(found))


def _as_list(images: str | Sequence[str]) -> list[str]:
    given = [images] if isinstance(images, str) else list(images)
    return [os.path.expanduser(path) for path in given]


def _find(given: str) -> list[Path]:
    if os.path.isdir(given):
        files = _in_folder(given)
        if not files:
            raise ConfigError(f"images={given}: the folder holds no image files")
        return files
    if os.path.lexists(given) or not any(mark in given for mark in "*?["):
        return [Path(given)]
    files = [
        Path(path) for path in sorted(glob.glob(given, recursive=True)) if os.path.isfile(path)
    ]
    if not files:
        raise ConfigError(f"images={given}: no file matches")
    return files


def _in_folder(folder: str) -> list[Path]:
    """The files whose names end as those of a format that can be read."""
    from PIL import Image

    from mnv2_lightning.images.image_files import FORMATS

    ends = tuple(end for end, name in Image.registered_extensions().items() if name in FORMATS)
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise ConfigError(f"images={folder}: cannot be read ({error.strerror})") from error
    shown = [Path(folder, name) for name in names if not name.startswith(".")]
    return [path for path in shown if path.name.lower().endswith(ends) and path.is_file()]
