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

# Kind -> the end of its files' names. QMNIST's labels have eight numbers each, the class first.
KINDS = {"images": ("idx3-ubyte",), "labels": ("idx1-ubyte", "idx2-int")}
TYPES = {8: ">u1", 12: ">i4"}  # third byte of a file -> the type of its numbers
TRANSPOSED = "emnist-"  # beginning of the names of data sets whose files hold columns as rows
ENDS = ("", ".gz")
SPLITS = {"train": ("train",), "t10k": ("t10k", "test")}  # split -> its names in files


def load(dataset: str, root: Path, classes: int) -> dict[str, np.ndarray]:
    """The uint8 arrays train-images (N, S, S), train-labels (N,), t10k-images, t10k-labels.

    The files are in `root` or its subfolder `dataset`, raw or .gz, named as MNIST's, EMNIST's or
    QMNIST's: train-images-idx3-ubyte, emnist-letters-test-labels-idx1-ubyte,
    qmnist-test-labels-idx2-int. Images of data sets called emnist-... are stored transposed. Labels
    start at 0, or at 1 as in EMNIST letters. ConfigError: a
    file is missing. DataError: one is damaged, or does not fit the others or `classes`.
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
        name: _read_images(path, dataset) if name.endswith("images") else _read_labels(path)
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
            f"{prefix}{name}-{kind}{separator}{form}{end}"
            for name, separator, form, end in product(SPLITS[split], "-.", KINDS[kind], ENDS)
        )
        paths = (folder / name for name in names)
        found[f"{split}-{kind}"] = next(filter(Path.is_file, paths), None)
    return found


def _read_images(path: Path, dataset: str) -> np.ndarray:
    """(N, H, W) uint8. DataError."""
    if (images := _read(path)).ndim != 3 or images.dtype != np.uint8:
        raise DataError(f"{path}: not an IDX file of images, of bytes in 3 dimensions")
    return images.transpose(0, 2, 1).copy() if dataset.startswith(TRANSPOSED) else images


def _read_labels(path: Path) -> np.ndarray:
    """(N,) uint8, the first column if there are several. DataError."""
    labels = _read(path)
    if labels.ndim == 2 and labels.dtype != np.uint8:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise DataError(f"{path}: not an IDX file of labels, in 1 dimension")
    if labels.size and not 0 <= labels.min() <= labels.max() <= 255:
        raise DataError(f"{path}: labels from {labels.min()} to {labels.max()}; 0 to 255 are read")
    return labels.astype(np.uint8)


def _read(path: Path) -> np.ndarray:
    """The array of an IDX file. DataError: it is damaged, or a file of a listed data set."""
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    kind, dimensions = (raw[2], raw[3]) if len(raw) >= 4 and raw[:2] == b"\0\0" else (0, 0)
    shape = tuple(int.from_bytes(raw[4 * i : 4 * i + 4], "big") for i in range(1, 1 + dimensions))
    header, dtype = 4 + 4 * dimensions, np.dtype(TYPES.get(kind, ">u1"))
    if kind not in TYPES or not shape or len(raw) - header != math.prod(shape) * dtype.itemsize:
        raise DataError(f"{path}: not a whole IDX file of bytes or integers")
    checksum = hashlib.sha256(raw).hexdigest()
    for name, data_set in DATA_SETS.items():
        if checksum in (file.sha256 for file in data_set.files):
            raise DataError(f"{path}: is a file of {name}; set data.dataset={name}")
    return np.frombuffer(raw, dtype, offset=header).reshape(shape)
