"""Predictions are put into the order of the data set."""

from types import SimpleNamespace
from typing import Any

import torch
from torch.nn import functional as F

from mnv2_lightning.callbacks.predictions import Predictions


def test_predictions_are_in_the_order_of_the_data_set() -> None:
    predictions, trainer, module = Predictions(), SimpleNamespace(world_size=1), object()
    arguments: tuple[Any, Any] = (trainer, module)
    for number, indices in enumerate(([2, 0], [3, 1])):
        logits = F.one_hot(torch.tensor(indices), 4).float() * 9
        batch = (None, torch.tensor(indices), torch.tensor(indices))
        predictions.on_test_batch_end(*arguments, logits, batch, number)
    predictions.on_test_epoch_end(*arguments)
    predicted = predictions.predicted
    assert predicted.indices.tolist() == predicted.labels.tolist() == [0, 1, 2, 3]
    assert predicted.probabilities.argmax(1).tolist() == [0, 1, 2, 3]
