"""Collects what a classifier says of each image of an evaluated split."""

from dataclasses import dataclass
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor


@dataclass(frozen=True)
class Predicted:
    """Of N images: their places in the data set (N,), labels (N,), probabilities (N, classes)."""

    indices: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray


class Collector:
    """Gathers the batches of an evaluation, over all ranks, into the data set's order."""

    def __init__(self) -> None:
        self.batches: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, logits: Any, batch: Any) -> None:
        """(B, classes) logits of a (images, labels, indices) batch."""
        _, labels, indices = batch
        self.batches.append((indices, labels, logits.float().softmax(1)))

    def gather(self, world_size: int) -> Predicted:
        """Every rank must call it; it starts afresh."""
        local = [torch.cat(part).cpu().numpy() for part in zip(*self.batches, strict=True)]
        self.batches = []
        parts = [local]
        if world_size > 1:
            parts = [[] for _ in range(world_size)]
            torch.distributed.all_gather_object(parts, local)
        indices, labels, probabilities = (np.concatenate(p) for p in zip(*parts, strict=True))
        order = np.argsort(indices)
        return Predicted(indices[order], labels[order], probabilities[order])


class Predictions(Callback):
    """After `trainer.test` or `trainer.validate`, `predicted` holds what was said."""

    predicted: Predicted

    def __init__(self) -> None:
        self._collector = Collector()

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._collector.add(outputs, batch)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.predicted = self._collector.gather(trainer.world_size)

    on_validation_batch_end = on_test_batch_end
    on_validation_epoch_end = on_test_epoch_end
