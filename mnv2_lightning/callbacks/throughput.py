"""Images a second, and the seconds that a fit took."""

import time
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback

from mnv2_lightning.classifier import should_log, log_now


def throughput(callbacks: list[Callback]) -> dict[str, float | None]:
    """What one of them measured, as a record holds it; empty where it is none of them."""
    for callback in callbacks:
        if isinstance(callback, Throughput):
            seconds, rate = callback.fit_seconds, callback.images_per_second
            return {"train_seconds": seconds, "images_per_second": rate}
    return {}


class Throughput(Callback):
    """Logs `images_per_second` (over all ranks) every `log_every_n_steps` steps.

    The rate counts loading and training, not validation; `images_per_second` leaves out the first
    `warmup_steps` of each fit, `fit_seconds` counts all of it. Both go on over resumes. Times are
    taken after the device has finished its work.
    """

    def __init__(self, *, warmup_steps: int = 10) -> None:
        self.warmup_steps = warmup_steps
        self._seconds_before = 0.0  # of the fits that this one goes on from
        self._started: float | None = None
        self._ended: float | None = None
        self._mark = 0.0  # since when the batches not yet counted have been trained
        self._steps = self._pending_images = self._images = self._window_images = 0
        self._seconds = self._window_seconds = 0.0

    @property
    def images_per_second(self) -> float | None:
        """None: no step was made after the warm-up."""
        return self._images / self._seconds if self._seconds else None

    @property
    def fit_seconds(self) -> float:
        if self._started is None:
            return self._seconds_before
        return self._seconds_before + (self._ended or time.perf_counter()) - self._started

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._started = _now(trainer)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._ended = _now(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark = _now(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._count(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark = _now(trainer)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._steps += 1
        self._pending_images += len(batch[1]) * trainer.world_size
        is_end = should_log(trainer, batch_idx, trainer.global_step)
        if is_end or self._steps == self.warmup_steps:
            self._count(trainer)
        if is_end:
            rate = self._window_images / self._window_seconds
            log_now(pl_module, {"images_per_second": rate}, trainer.global_step - 1)
            self._window_images, self._window_seconds = 0, 0.0

    def _count(self, trainer: L.Trainer) -> None:
        """Add the pending batches to the window and, after the warm-up, to the run."""
        now = _now(trainer)
        seconds, self._mark = now - self._mark, now
        images, self._pending_images = self._pending_images, 0
        self._window_images += images
        self._window_seconds += seconds
        if self._steps > self.warmup_steps and images:
            self._images += images
            self._seconds += seconds

    def state_dict(self) -> dict[str, Any]:
        return {
            "fit_seconds": self.fit_seconds,
            "images": self._images,
            "seconds": self._seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._seconds_before = state_dict["fit_seconds"]
        self._images, self._seconds = state_dict["images"], state_dict["seconds"]


def _now(trainer: L.Trainer) -> float:
    """Seconds, once the device has done what was asked of it so far."""
    device = trainer.strategy.root_device
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
