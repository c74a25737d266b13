"""scikit-learn's digits, scans of 8 x 8 px, in the form of MNIST: a test set without training."""

import numpy as np
import torch

from mnv2_lightning.images.preparation import SIDE, MNISTPreparation
from mnv2_lightning.schema.errors import ConfigError


def load() -> dict[str, np.ndarray]:
    """t10k-images (1797, 28, 28), t10k-labels (1797,), and empty train-images and train-labels.

    All are uint8. ConfigError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ConfigError(
            'data=digits: scikit-learn is not installed; pip install -e ".[digits]"'
        ) from None
    found = load_digits()  # 0 to 16
    digits = MNISTPreparation()(torch.tensor(found.images) * 255 / 16)
    return {
        "train-images": np.empty((0, SIDE, SIDE), np.uint8),
        "train-labels": np.empty(0, np.uint8),
        "t10k-images": digits.round().byte().numpy(),
        "t10k-labels": found.target.astype(np.uint8),
    }
