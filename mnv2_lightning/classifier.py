"""The LightningModule: a network with its loss, metrics, optimizer and schedule."""

import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from mnv2_lightning.data.affine import TestTimeAugmentation
from mnv2_lightning.data.batches import Batch


class Classifier(L.LightningModule):
    """Train `network`, (B, C, H, W) -> (B, num_classes), with cross-entropy.

    `optimizer` maps parameter groups to an optimizer. `scheduler` is one of `schedules`, called
    with `total_steps` and `steps_per_epoch`. `test_time_augmentation` holds the ranges of
    `TestTimeAugmentation`; evaluations average over its views. Biases and norms have no weight
    decay.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        scheduler: Callable[..., Callable[[int], float]],
        num_classes: int = 10,
        label_smoothing: float = 0.0,
        test_time_augmentation: dict[str, float] | None = None,
        channels_last: bool = True,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        if compile:
            self.network.compile()  # in place: the weights keep their names
        self.make_optimizer, self.make_schedule = optimizer, scheduler
        self.label_smoothing, self.channels_last = label_smoothing, channels_last
        self.metrics = nn.ModuleDict()
        for split in ("val", "test"):
            loss = MeanMetric(nan_strategy="disable")  # show a NaN
            accuracy = MulticlassAccuracy(num_classes, average="micro")
            self.metrics[f"{split}_metrics"] = nn.ModuleDict({"loss": loss, "accuracy": accuracy})
        self.views = TestTimeAugmentation(**(test_time_augmentation or {}))
        self.window: Tensor | None = None  # sums of loss, correct and images since the last log

    def forward(self, images: Tensor) -> Tensor:
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.network(images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        with torch.no_grad():
            correct = (logits.argmax(1) == labels).sum()
            images_seen = correct.new_full((), len(labels))
            sums = torch.stack([loss.float() * len(labels), correct, images_seen])
            self.window = sums if self.window is None else self.window + sums
        if should_log(self.trainer, batch_idx, self.global_step + 1):
            # The loss and accuracy since the last log. Only here is a value read from the device.
            loss_sum, correct, images_seen = self.window
            means = {"train/loss": loss_sum / images_seen, "train/accuracy": correct / images_seen}
            learning_rate = self.trainer.optimizers[0].param_groups[0]["lr"]
            log_now(self, means | {"lr": learning_rate}, self.global_step)
            self.window = None
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._evaluate("test", batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The probability of each class, (B, num_classes)."""
        return self._evaluation_logits(batch[0]).softmax(1)

    def _evaluate(self, split: str, batch: Batch) -> Tensor:
        """Update the metrics of `split`; return the logits, (B, num_classes)."""
        images, labels = batch
        logits = self._evaluation_logits(images)
        metrics: Any = self.metrics[f"{split}_metrics"]
        metrics["loss"].update(F.cross_entropy(logits, labels, reduction="none"))
        metrics["accuracy"].update(logits, labels)
        for name, metric in metrics.items():
            self.log(f"{split}/{name}", metric)
        return logits

    def _evaluation_logits(self, images: Tensor) -> Tensor:
        """(B, num_classes) logits, or of several views the log of the mean probabilities."""
        if len(self.views) == 1:
            return self(images)
        each = torch.stack([self(view).float().log_softmax(1) for view in self.views(images)])
        return each.logsumexp(0) - math.log(len(each))

    def build_optimizer(self) -> Optimizer:
        """The optimizer of all weights; biases and norms are without weight decay."""
        weights = [p for p in self.network.parameters() if p.ndim > 1]
        biases_and_norms = [p for p in self.network.parameters() if p.ndim <= 1]
        return self.make_optimizer(
            [{"params": weights}, {"params": biases_and_norms, "weight_decay": 0.0}]
        )

    def configure_optimizers(self) -> Any:
        optimizer = self.build_optimizer()
        total_steps = self.trainer.estimated_stepping_batches
        self.trainer.fit_loop.setup_data()  # Lightning defers it if max_steps alone ends the fit
        batches = self.trainer.num_training_batches
        steps_per_epoch = math.ceil(batches / self.trainer.accumulate_grad_batches)
        factor = self.make_schedule(total_steps=total_steps, steps_per_epoch=steps_per_epoch)
        schedule = {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def should_log(trainer: L.Trainer, batch_idx: int, step: int) -> bool:
    """Whether to log after optimizer step `step`, which batch `batch_idx` completes.

    True at the first step, every `log_every_n_steps` steps, and at the last step of an epoch or of
    the fit.
    """
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    is_last = batch_idx + 1 == trainer.num_training_batches or step == trainer.max_steps
    return ends_step(trainer, batch_idx) and (step == 1 or step % every == 0 or is_last)


def log_now(module: L.LightningModule, metrics: dict[str, Any], step: int) -> None:
    """Log to all loggers now.

    `module.log` defers until after the checkpoint is written, so a resumed run would lose values.
    With `prog_bar=True` it would read the value from the device at every step.
    """
    trainer = module.trainer
    for name, value in metrics.items():
        module.log(name, value, logger=False)
    numbers = {name: float(value) for name, value in metrics.items()}
    for logger in trainer.loggers:
        logger.log_metrics(numbers | {"epoch": trainer.current_epoch}, step)


def ends_step(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether the optimizer steps after this batch, rather than accumulate its gradients."""
    seen = batch_idx + 1
    return seen % trainer.accumulate_grad_batches == 0 or seen == trainer.num_training_batches
