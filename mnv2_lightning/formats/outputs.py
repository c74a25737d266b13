"""The type of an exported network as a function."""

from collections.abc import Callable

import numpy as np

Outputs = tuple[np.ndarray, np.ndarray]  # logits, (B, num_classes); what the network saw
Run = Callable[[np.ndarray], Outputs]  # of (B, H, W) uint8
