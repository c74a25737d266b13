"""What the modules of the formats share."""

from collections.abc import Callable

import numpy as np

from mnv2_lightning.schema.errors import one_line

Answers = tuple[np.ndarray, np.ndarray]  # logits, (B, num_classes); what the network saw
Run = Callable[[np.ndarray], Answers]  # of (B, H, W) uint8


def root_cause(error: BaseException) -> str:
    """The message of the first exception of a chain, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)
