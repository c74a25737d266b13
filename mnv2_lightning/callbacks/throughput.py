"""Training throughput and duration."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mnv2_lightning.classifier import log_now, should_log


def throughput(callbacks: list[Callback]) -> dict[str, float | None]:
    """The fields of result.json that the Throughput callback measures; empty without one."""
    for callback in callbacks:
        if isinstance(callback, Throughput):
            return {
                "train_seconds": callback.fit_seconds,
                "images_per_second": callback.images_per_second,
            }
    return {}


class Throughput(Callback):
    """Log `images_per_second`, the sum over all ranks, every `log_every_n_steps` steps.

    Loading and training are timed, validation is not. The attribute `images_per_second` leaves out
    the first `warmup_steps` of each fit; `fit_seconds` is the duration of the whole fit. Both
    include what a resumed run did before. Times are taken after pending work of the device.
    """

    def __init__(self, *, warmup_steps: int = 10) -> None:
        self.warmup_steps = warmup_steps
        self._seconds_before = 0.0  # fit_seconds of the checkpoint
        self._started: float | None = None
        self._ended: float | None = None
        self._mark = 0.0  # time since which batches are not counted yet
        self._steps = self._pending_images = self._images = self._window_images = 0
        self._seconds = self._window_seconds = 0.0

    @property
    def images_per_second(self) -> float | None:
        """None before the end of the warm-up."""
        return self._images / self._seconds if self._seconds else None

    @property
    def fit_seconds(self) -> float:
        if self._started is None:
            return self._seconds_before
        return self._seconds_before + (self._ended or time.perf_counter()) - self._started

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._started = _now(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._ended = _now(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark = _now(trainer)

    on_validation_end = on_train_epoch_start

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._count(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._steps += 1
        self._pending_images += len(batch[1]) * trainer.world_size
        is_end = should_log(trainer, batch_idx, trainer.global_step)
        if is_end or self._steps == self.warmup_steps:
            self._count(trainer)
        if is_end:
            images_per_second = self._window_images / self._window_seconds
            log_now(pl_module, {"images_per_second": images_per_second}, trainer.global_step - 1)
            self._window_images, self._window_seconds = 0, 0.0

    def _count(self, trainer: Trainer) -> None:
        """Add the pending images to the window and, after the warm-up, to the total."""
        now = _now(trainer)
        seconds, self._mark = now - self._mark, now
        images, self._pending_images = self._pending_images, 0
        self._window_images += images
        self._window_seconds += seconds
        if self._steps > self.warmup_steps and images:
            self._images += images
            self._seconds += seconds

    def state_dict(self) -> dict[str, Any]:
        return {"fit_seconds": self.fit_seconds, "images": self._images, "seconds": self._seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._seconds_before = state_dict["fit_seconds"]
        self._images, self._seconds = state_dict["images"], state_dict["seconds"]


def _now(trainer: Trainer) -> float:
    """Clock in seconds, after the device has finished its pending work."""
    device = trainer.strategy.root_device
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
