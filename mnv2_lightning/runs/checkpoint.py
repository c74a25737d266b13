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


def load_weights(module: L.LightningModule, path: Path) -> None:
    """Not by the Trainer: under EMA it would put the weights before averaging in their place."""
    module.load_state_dict(read(path)["state_dict"])


def to_test(trainer: L.Trainer) -> tuple[str | None, Path | None, float | None]:
    """After a fit: "best", or "last" where there is none; its file; its validation accuracy.

    All None where no checkpoint was written: the weights are tested as they are.
    """
    saved = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    for callback in sorted(saved, key=lambda c: c.monitor is None):
        if callback.best_model_path and Path(callback.best_model_path).is_file():
            score = callback.best_model_score if callback.monitor == "val/accuracy" else None
            score = trainer.callback_metrics.get("val/accuracy") if score is None else score
            path = Path(callback.best_model_path)
            return path.stem, path, None if score is None else float(score)
    return None, None, None
