"""What the tests of fetching start in processes of their own. Imports no torch: they are many."""

import time
from pathlib import Path

from mnv2_lightning.data import idx_files
from mnv2_lightning.data.sets import DATA_SETS, DataSet, IdxFile


def load(files: tuple[IdxFile, ...], url: str, folder: Path) -> int:
    """The number of arrays, from the mirror `url` if `folder` is empty."""
    DATA_SETS["mnist"] = DataSet(files, "MNIST", (url,))
    return len(idx_files.load("mnist", str(folder)))


def hold(folder: Path) -> None:
    with idx_files._locked(folder):
        time.sleep(600)
