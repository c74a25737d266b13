"""The type of an exported network as a function, and the reason why one cannot be exported."""

from collections.abc import Callable

import numpy as np

from mnv2_lightning.schema.errors import one_line

Outputs = tuple[np.ndarray, np.ndarray]  # logits, (B, num_classes); what the network saw
Run = Callable[[np.ndarray], Outputs]  # of (B, H, W) uint8


def root_cause(error: BaseException) -> str:
    """The message of the first exception of a chain, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)
