"""The accuracy of trained networks on corrupted images."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mnv2_lightning.data.corruptions import corrupt
from mnv2_lightning.data.datamodule import MNISTDataModule
from mnv2_lightning.schema.errors import ConfigError


class Robustness:
    """Measures networks on images that are corrupted once for all of them.

    `kinds`: keys of `data.corruptions.CORRUPTIONS`. `split`: "test" or "val".
    """

    def __init__(self, kinds: Sequence[str], split: str) -> None:
        self.kinds, self.split = kinds, split
        self.images: dict[tuple[str, int], Tensor] = {}  # by kind and checksum of the images

    def accuracies(
        self, datamodule: MNISTDataModule, measure: Callable[..., dict[str, float]]
    ) -> dict[str, float]:
        """By kind. `measure(dataloaders=loader)` returns what the LightningModule logs.

        ConfigError: it logs no accuracy.
        """
        datamodule.setup()
        images, found = datamodule.images(self.split), {}
        for kind in self.kinds:
            loader = datamodule.evaluation_loader(self.split, self._corrupted(kind, images))
            metrics = measure(dataloaders=loader)
            if (name := f"{self.split}/accuracy") not in metrics:
                raise ConfigError(f"corruptions: the LightningModule logs no {name}")
            found[kind] = metrics[name]
        return found

    def examples(self, datamodule: MNISTDataModule) -> list[np.ndarray]:
        """An image of each kind, (28, 28) uint8."""
        images = datamodule.images(self.split)
        return [self._corrupted(kind, images)[0].numpy() for kind in self.kinds]

    def _corrupted(self, kind: str, images: np.ndarray) -> Tensor:
        """(N, 28, 28) uint8."""
        key = kind, zlib.crc32(images.tobytes())
        if key not in self.images:
            self.images[key] = corrupt(torch.tensor(images), kind)
        return self.images[key]


def summary(accuracies: dict[str, float], baseline: dict[str, float] | None) -> dict[str, Any]:
    """`corruptions`: accuracy by kind, and the error divided by the baseline's; their means.

    A ratio is None where the baseline makes no error, and is left out of the mean.
    """
    rows: list[dict[str, Any]] = []
    for kind, accuracy in accuracies.items():
        before = None if baseline is None else baseline[kind]
        ratio = None if before in (None, 1.0) else (1 - accuracy) / (1 - before)
        row = {"kind": kind, "accuracy": accuracy, "baseline_accuracy": before}
        rows.append(row | {"error_ratio": ratio})
    ratios = [row["error_ratio"] for row in rows if row["error_ratio"] is not None]
    return {
        "corruptions": rows,
        "corrupted_accuracy": fmean(accuracies.values()),
        "error_ratio": fmean(ratios) if ratios else None,
    }
