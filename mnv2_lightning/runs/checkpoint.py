"""Reading checkpoints: plain data only, never code."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from mnv2_lightning.schema.errors import ConfigError


def read(path: Path) -> dict[str, Any]:
    """The checkpoint's content, on the CPU. ConfigError: it is none, or holds more than data."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigError(f"{path}: not a checkpoint ({str(error).splitlines()[0]})") from error


def global_step(path: Path) -> int:
    """The optimizer steps that were made before it was written."""
    return read(path)["global_step"]


def epochs(path: Path) -> int:
    """The whole epochs that were trained before it was written."""
    return read(path)["epoch"] + 1


def load_weights(module: L.LightningModule, path: Path) -> dict[str, float]:
    """Returns what the validation before it measured; none without validation.

    Not by the Trainer: under EMA it would put the weights before averaging in their place.
    """
    content = read(path)
    module.load_state_dict(content["state_dict"])
    return content.get("validation", {})


def to_test(trainer: L.Trainer) -> Path | None:
    """After a fit: the best checkpoint, or the last where there is no best.

    None where none was written: the weights are tested as they are.
    """
    saved = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    for callback in sorted(saved, key=lambda c: c.monitor is None):
        if callback.best_model_path and Path(callback.best_model_path).is_file():
            return Path(callback.best_model_path)
    return None
