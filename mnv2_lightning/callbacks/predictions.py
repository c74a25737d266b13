"""Predictions for every image of an evaluation."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor


@dataclass(frozen=True)
class Predicted:
    """Predictions for N images in the order of the data set.

    `indices`: (N,) positions in the data set; `labels`: (N,); `probabilities`: (N, num_classes).
    """

    indices: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray


class Predictions(Callback):
    """Collects what `trainer.test` or `trainer.validate` predicts, from all ranks.

    `predicted` holds the result after the evaluation, on every rank.
    """

    predicted: Predicted

    def __init__(self) -> None:
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """`outputs`: (B, num_classes) logits."""
        _, labels, indices = batch
        self._batches.append((indices, labels, outputs.float().softmax(1)))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        local = [torch.cat(part).cpu().numpy() for part in zip(*self._batches, strict=True)]
        self._batches = []
        parts = [local]
        if trainer.world_size > 1:
            parts = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(parts, local)
        indices, labels, probabilities = (np.concatenate(p) for p in zip(*parts, strict=True))
        order = np.argsort(indices)
        self.predicted = Predicted(indices[order], labels[order], probabilities[order])

    on_validation_batch_end = on_test_batch_end
    on_validation_epoch_end = on_test_epoch_end
