"""The LightningModule: a network, cross-entropy, metrics, an optimizer and its schedule."""

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

from mnv2_lightning.data.affine import Views

Batch = tuple[Tensor, Tensor, Tensor]  # (B, C, H, W) images, (B,) labels, (B,) indices


class Classifier(L.LightningModule):
    """Trains `network`, (B, C, H, W) -> (B, num_classes), by cross-entropy.

    `optimizer`: from parameter groups to an optimizer; `scheduler`: one of `schedules`, called
    with `total_steps` and `steps_per_epoch`. Weight decay leaves out biases and norms. Batch
    order, augmentation and dropout depend on (seed, epoch) alone, so that a resume is exact.
    `test_time_augmentation`: the ranges of `Views`, over which evaluations average.
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
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.network = network
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        if compile:
            self.network.compile()  # in place: the weights keep their names
        self.make_optimizer, self.make_schedule = optimizer, scheduler
        self.label_smoothing, self.channels_last, self.seed = label_smoothing, channels_last, seed
        self.metrics = nn.ModuleDict(
            {
                f"{split}_metrics": nn.ModuleDict(
                    {
                        "loss": MeanMetric(nan_strategy="disable"),  # a NaN is to be seen
                        "accuracy": MulticlassAccuracy(num_classes, average="micro"),
                    }
                )
                for split in ("val", "test")
            }
        )
        self.views = Views(**(test_time_augmentation or {}))
        self.window: Tensor | None = None  # sums of loss, hits and images since the last log
        self.learning_rate = 0.0

    def forward(self, images: Tensor) -> Tensor:
        images = images.to(self.dtype)  # 16-true and the like
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.network(images)

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(
            (self.seed * 1_000_003 + self.current_epoch) * 1009 + self.trainer.global_rank
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels, _ = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        with torch.no_grad():
            hits = (logits.argmax(1) == labels).sum()
            sums = torch.stack([loss.float() * len(labels), hits, hits.new_full((), len(labels))])
            self.window = sums if self.window is None else self.window + sums
        self.learning_rate = self.trainer.optimizers[0].param_groups[0]["lr"]  # of this step
        if is_logged(self.trainer, batch_idx, self.global_step + 1):
            self._log_window()
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Where `max_steps` ends the fit within an epoch, it ends with a validation too."""
        if self.global_step == self.trainer.max_steps:
            self.trainer.should_stop = True

    def _log_window(self) -> None:
        """Loss and accuracy over the steps since the last log; nothing leaves the device before."""
        assert self.window is not None
        loss, hits, images = self.window
        metrics = {
            "train/loss": loss / images,
            "train/accuracy": hits / images,
            "lr": self.learning_rate,
        }
        log_now(self, metrics, self.global_step)
        self.window = None

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._evaluate("test", batch)

    def _evaluate(self, split: str, batch: Batch) -> Tensor:
        """The logits, (B, num_classes). Metrics are sums over the split, divided once."""
        images, labels, _ = batch
        logits = self._over_views(images)
        metrics: Any = self.metrics[f"{split}_metrics"]
        metrics["loss"].update(F.cross_entropy(logits, labels, reduction="none"))
        metrics["accuracy"].update(logits, labels)
        for name, metric in metrics.items():
            self.log(
                f"{split}/{name}", metric, on_step=False, on_epoch=True, prog_bar=split == "val"
            )
        return logits

    def _over_views(self, images: Tensor) -> Tensor:
        """(B, num_classes): the logits; of several views, the log of their mean probabilities."""
        if len(self.views) == 1:
            return self(images)
        said = torch.stack([self(view).float().log_softmax(1) for view in self.views(images)])
        return said.logsumexp(0) - math.log(len(said))

    def build_optimizer(self) -> Optimizer:
        """Of all weights, without decay of biases and norms."""
        weights = [p for p in self.network.parameters() if p.ndim > 1]
        biases_and_norms = [p for p in self.network.parameters() if p.ndim <= 1]
        return self.make_optimizer(
            [{"params": weights}, {"params": biases_and_norms, "weight_decay": 0.0}]
        )

    def configure_optimizers(self) -> Any:
        optimizer = self.build_optimizer()
        factor = self.make_schedule(
            total_steps=self.trainer.estimated_stepping_batches,
            steps_per_epoch=self._steps_per_epoch(),
        )
        schedule = {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def _steps_per_epoch(self) -> int:
        self.trainer.fit_loop.setup_data()  # else unknown here where max_steps alone ends the fit
        return math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)


def is_logged(trainer: L.Trainer, batch_idx: int, steps: int) -> bool:
    """Whether metrics are logged at the batch that makes `steps` optimizer steps of those before:
    every n steps, and at the last of an epoch or a fit.
    """
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    is_last = batch_idx + 1 == trainer.num_training_batches or steps == trainer.max_steps
    return ends_step(trainer, batch_idx) and (steps % every == 0 or is_last)


def log_now(module: L.LightningModule, metrics: dict[str, Any], step: int) -> None:
    """To the loggers at once and not, as `module.log` does at an epoch's end, after a checkpoint
    was written, from which a resume would go on without it. `train/loss` also goes on the bar.
    """
    trainer = module.trainer
    for name, value in metrics.items():
        module.log(name, value, prog_bar=name == "train/loss", logger=False)
    numbers = {name: float(value) for name, value in metrics.items()}
    for logger in trainer.loggers:
        logger.log_metrics(numbers | {"epoch": trainer.current_epoch}, step)


def ends_step(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether the optimizer steps on this batch, and does not only add up its gradients."""
    seen = batch_idx + 1
    return seen % trainer.accumulate_grad_batches == 0 or seen == trainer.num_training_batches
