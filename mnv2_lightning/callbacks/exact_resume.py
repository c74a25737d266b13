"""Bit-exact resuming: what Lightning itself does not restore from a checkpoint."""

from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback


class ExactResume(Callback):
    """Resume at the start of the next epoch, with the metrics of the last validation.

    For checkpoints of the end of an epoch; `build_callbacks` adds it to those of the config.
    """

    def __init__(self) -> None:
        self.validation: dict[str, float] = {}  # of the checkpoint that was loaded

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write buffered logs to disk first, and keep the validation metrics: early stopping and
        later checkpoints need them.
        """
        for logger in trainer.loggers:
            logger.save()
        metrics = trainer.callback_metrics
        checkpoint["validation"] = {
            name: float(value) for name, value in metrics.items() if name.startswith("val/")
        }

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Count the epoch as completed: Lightning does so after `on_train_epoch_end`, where the
        checkpoint was written.
        """
        self.validation = checkpoint.get("validation", {})
        progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
        for count in (progress["total"], progress["current"]):
            if count["processed"] == count["ready"]:
                count["completed"] = count["processed"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        device = trainer.strategy.root_device
        trainer.callback_metrics.update(
            {name: torch.tensor(value, device=device) for name, value in self.validation.items()}
        )
        # A run that early stopping had ended trains no further.
        for callback in trainer.early_stopping_callbacks:
            if callback.stopped_epoch or callback.wait_count >= callback.patience:
                trainer.should_stop = True
        # With `max_steps` Lightning resumes as if within an epoch, and skips or repeats batches
        # (github.com/Lightning-AI/pytorch-lightning/issues/19617).
        progress = trainer.fit_loop.epoch_progress.current
        if progress.completed == progress.ready:
            trainer.fit_loop.on_iteration_done()
            trainer.fit_loop.epoch_loop.restarting = False
