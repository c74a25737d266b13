"""Progress: a bar on a terminal or in a notebook, plain lines in a log."""

import logging
import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from rich import get_console

from mnv2_lightning.classifier import ends_step

log = logging.getLogger(__name__)


def progress() -> ProgressBar:
    """A progress bar for a terminal or a notebook, or lines for any other standard output."""
    if get_console().is_jupyter:
        return TQDMProgressBar(refresh_rate=10, leave=True)
    return RichProgressBar(leave=True) if sys.stdout.isatty() else PlainProgress()


class PlainProgress(ProgressBar):
    """Log a line every `trainer.log_every_n_steps` steps and after each validation."""

    is_disabled = False

    def disable(self) -> None:
        """Lightning calls this on every rank but the first."""
        self.is_disabled = True

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        batch, every = kwargs.get("batch_idx", args[-1]), trainer.log_every_n_steps  # type: ignore[attr-defined]
        if ends_step(trainer, batch) and trainer.global_step % every == 0:
            names = ("train/loss", "train/accuracy", "lr", "images_per_second")
            self._print(f"batch {batch + 1}/{trainer.num_training_batches}", trainer, names)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._print("validation", trainer, ("val/loss", "val/accuracy"))

    def _print(self, what: str, trainer: Trainer, names: tuple[str, ...]) -> None:
        if not self.is_disabled:
            epochs = f"/{trainer.max_epochs}" if trainer.max_epochs not in (None, -1) else ""
            start = f"epoch {trainer.current_epoch + 1}{epochs}  {what}"
            metrics = trainer.callback_metrics
            shown = [f"{name} {float(metrics[name]):.4g}" for name in names if name in metrics]
            log.info("%s", "  ".join([start, *shown]))
