"""Gathering what was predicted, whatever rank saw it."""

import torch
from torch.nn import functional as F

from mnv2_lightning.callbacks.predictions import Collector


def test_collector_puts_ranks_in_order() -> None:
    collector = Collector()
    for indices in ([2, 0], [3, 1]):
        logits = F.one_hot(torch.tensor(indices), 4).float() * 9
        collector.add(logits, (None, torch.tensor(indices), torch.tensor(indices)))
    said = collector.gather(1)
    assert said.indices.tolist() == said.labels.tolist() == [0, 1, 2, 3]
    assert said.probabilities.argmax(1).tolist() == [0, 1, 2, 3]
