"""Predictions for every image of an evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor


@dataclass(frozen=True)
class Predicted:
    """Predictions for N images, in the order in which they are evaluated.

    `labels`: (N,); `probabilities`: (N, num_classes).
    """

    labels: np.ndarray
    probabilities: np.ndarray


def positions(sizes: Sequence[Sequence[int]]) -> np.ndarray:
    """Positions in an epoch that was not shuffled of rank 0's images, then rank 1's, and so on.

    `sizes`: of each rank, the sizes of its shares of the batches.
    """
    starts = np.cumsum([0, *np.sum(sizes, axis=0)])
    return np.concatenate(
        [
            start + rank + len(sizes) * np.arange(size)
            for rank, shares in enumerate(sizes)
            for start, size in zip(starts, shares, strict=False)
        ]
    )


class Predictions(Callback):
    """Collects what `trainer.test` or `trainer.validate` predicts, from all ranks.

    `predicted` holds the result after the evaluation, on every rank; None if the module's step
    does not return logits.
    """

    predicted: Predicted | None = None

    def __init__(self) -> None:
        self._batches: list[tuple[Tensor, Tensor]] = []

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
        if isinstance(outputs, Tensor) and outputs.ndim == 2:
            self._batches.append((batch[1], outputs.float().softmax(1)))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._batches:
            return
        sizes = [len(labels) for labels, _ in self._batches]
        labels, probabilities = map(torch.cat, zip(*self._batches, strict=True))
        self._batches = []
        local = (sizes, labels.cpu().numpy(), probabilities.cpu().numpy())
        parts = [local] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(parts, local)
        all_sizes, *arrays = zip(*parts, strict=True)
        order = np.argsort(positions(all_sizes))
        self.predicted = Predicted(*(np.concatenate(array)[order] for array in arrays))

    on_validation_batch_end = on_test_batch_end
    on_validation_epoch_end = on_test_epoch_end
