"""Data sets of MNIST's format that `sets.py` does not list: no checksums, nothing to download."""

import gzip
import hashlib
import math
import zlib
from itertools import product
from pathlib import Path

import numpy as np

from mnv2_lightning.data.sets import DATA_SETS
from mnv2_lightning.schema.errors import ConfigError, DataError
from mnv2_lightning.schema.nearest import did_you_mean

KINDS = {"images": "idx3", "labels": "idx1"}
SPLITS = {"train": ("train",), "t10k": ("t10k", "test")}  # split -> its names in files


def load(dataset: str, root: Path, classes: int) -> dict[str, np.ndarray]:
    """The uint8 arrays train-images (N, S, S), train-labels (N,), t10k-images, t10k-labels.

    The files are in `root` or its subfolder `dataset`, raw or .gz, named as MNIST's or EMNIST's:
    train-images-idx3-ubyte, emnist-letters-test-labels-idx1-ubyte. Labels start at 0, or at 1 as in
    EMNIST letters. ConfigError: a file is missing. DataError: one is damaged, or does not fit the
    others or `classes`.
    """
    for folder, prefix in product((root / dataset, root), (f"{dataset}-", "")):
        paths = _paths(folder, prefix)
        if all(paths.values()):
            break
    else:
        raise ConfigError(
            f"data.dataset={dataset}: not one of {', '.join(DATA_SETS)}, and {root} does not hold "
            "its four files, raw or .gz (train-images-idx3-ubyte, train-labels-idx1-ubyte, "
            f"t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte){did_you_mean(dataset, DATA_SETS)}"
        )
    arrays = {
        name: _read(path, 3 if name.endswith("images") else 1)
        for name, path in paths.items()
        if path
    }
    train, test = arrays["train-images"], arrays["t10k-images"]
    _, height, width = train.shape
    if height != width or test.shape[1:] != train.shape[1:]:
        shapes = " and ".join(str(images.shape) for images in (train, test))
        raise DataError(f"{folder}: images of shape {shapes}; all must be squares of one size")
    for split in SPLITS:
        counts = {kind: len(arrays[f"{split}-{kind}"]) for kind in KINDS}
        if counts["images"] != counts["labels"] or not counts["labels"]:
            there = " and ".join(f"{count} {kind}" for kind, count in counts.items())
            raise DataError(f"{paths[f'{split}-labels']}: there are {there}")
    labels = np.concatenate([arrays["train-labels"], arrays["t10k-labels"]])
    lowest, highest = int(labels.min()), int(labels.max())
    first = int(lowest == 1 and highest == classes)
    if highest - first != classes - 1:
        raise DataError(
            f"{folder}: labels run from {lowest} to {highest}, but data.classes has {classes} names"
        )
    return {name: a - first if name.endswith("labels") else a for name, a in arrays.items()}


def _paths(folder: Path, prefix: str) -> dict[str, Path | None]:
    """The files in `folder` whose names begin with `prefix`; None for one that is missing."""
    found: dict[str, Path | None] = {}
    for split, kind in product(SPLITS, KINDS):
        names = (
            f"{prefix}{name}-{kind}{separator}{KINDS[kind]}-ubyte{end}"
            for name, separator, end in product(SPLITS[split], "-.", ("", ".gz"))
        )
        paths = (folder / name for name in names)
        found[f"{split}-{kind}"] = next(filter(Path.is_file, paths), None)
    return found


def _read(path: Path, dimensions: int) -> np.ndarray:
    """The array of an IDX file. DataError: it is damaged, or a file of a listed data set."""
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    shape = tuple(int.from_bytes(raw[4 * i : 4 * i + 4], "big") for i in range(1, 1 + dimensions))
    header = 4 + 4 * dimensions
    if not raw.startswith(bytes([0, 0, 8, dimensions])) or len(raw) - header != math.prod(shape):
        raise DataError(f"{path}: not a whole IDX file of bytes in {dimensions} dimensions")
    checksum = hashlib.sha256(raw).hexdigest()
    for name, data_set in DATA_SETS.items():
        if checksum in (file.sha256 for file in data_set.files):
            raise DataError(f"{path}: is a file of {name}; set data.dataset={name}")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)
