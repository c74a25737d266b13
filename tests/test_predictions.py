"""Predictions of an evaluation, in the order in which it runs over the data set."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mnv2_lightning.callbacks.predictions import Predictions


def predict(*batches: tuple[list[int], Any], world_size: int = 1) -> Predictions:
    """Labels and outputs of each batch."""
    predictions, arguments = Predictions(), (SimpleNamespace(world_size=world_size), object())
    for number, (labels, outputs) in enumerate(batches):
        batch = (None, torch.tensor(labels))
        predictions.on_test_batch_end(*arguments, outputs, batch, number)  # type: ignore[arg-type]
    predictions.on_test_epoch_end(*arguments)  # type: ignore[arg-type]
    return predictions


def logits(labels: list[int]) -> torch.Tensor:
    return F.one_hot(torch.tensor(labels), 4).float() * 9


def test_predictions_of_two_ranks_are_interleaved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of labels 0, 1, 2 and 3, 0; rank 0 has 0, 2 and 3, rank 1 has 1 and 0."""

    def gather(parts: list[Any], local: Any) -> None:
        other = [1, 0]
        parts[:] = [local, ([1, 1], np.array(other), logits(other).softmax(1).numpy())]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    shares = ([0, 2], [3])
    predicted = predict(*((share, logits(share)) for share in shares), world_size=2).predicted
    assert predicted is not None
    assert predicted.labels.tolist() == [0, 1, 2, 3, 0]
    assert predicted.probabilities.argmax(1).tolist() == [0, 1, 2, 3, 0]


def test_of_a_step_that_returns_no_logits_nothing_is_known() -> None:
    assert predict(([0, 1], None)).predicted is None
    assert predict(([0, 1], torch.tensor(0.5))).predicted is None
