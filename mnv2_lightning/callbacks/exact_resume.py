"""Bit-exact resuming: restores what Lightning does not."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class ExactResume(Callback):
    """Resume at the start of the next epoch, with the metrics of the last validation.

    Works with checkpoints written at the end of an epoch. Dropout and whatever else draws random
    numbers in training depend on (seed, epoch, rank) alone. `build_callbacks` always adds it.
    """

    def __init__(self, *, seed: int) -> None:
        self.seed = seed
        self.validation: dict[str, float] = {}  # metrics in the loaded checkpoint

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Flush the loggers; save the validation metrics, which callbacks monitor."""
        for logger in trainer.loggers:
            logger.save()
        metrics = trainer.callback_metrics
        checkpoint["validation"] = {k: float(v) for k, v in metrics.items() if k.startswith("val/")}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Count the epoch as completed, as Lightning does after it wrote the checkpoint."""
        self.validation = checkpoint.get("validation", {})
        progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
        for count in (progress["total"], progress["current"]):
            if count["processed"] == count["ready"]:
                count["completed"] = count["processed"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        device = trainer.strategy.root_device
        for name, value in self.validation.items():
            trainer.callback_metrics[name] = torch.tensor(value, device=device)
        # A run that early stopping had stopped stays stopped.
        for callback in trainer.early_stopping_callbacks:
            if callback.stopped_epoch or callback.wait_count >= callback.patience:
                trainer.should_stop = True
        # With `max_steps` Lightning resumes as if within an epoch and skips or repeats batches
        # (github.com/Lightning-AI/pytorch-lightning/issues/19617).
        progress = trainer.fit_loop.epoch_progress.current
        if progress.completed == progress.ready:
            trainer.fit_loop.on_iteration_done()
            trainer.fit_loop.epoch_loop.restarting = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seed = self.seed * 1_000_003 + trainer.current_epoch
        torch.manual_seed(seed * 1009 + trainer.global_rank)

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Stop at `max_steps`; within an epoch, Lightning alone would skip the validation."""
        if trainer.global_step == trainer.max_steps:
            trainer.should_stop = True
