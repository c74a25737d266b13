"""Stops training at a NaN or infinite loss, before it reaches a checkpoint."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from mnv2_lightning.classifier import ends_step
from mnv2_lightning.schema.errors import Diverged


class NonFiniteGuard(Callback):
    """Raise Diverged at a NaN or infinite loss, and at the end of an epoch at such a weight.

    Losses stay on the device and are checked every `log_every_n_steps` batches, before a
    validation, before a checkpoint, and at the end of an epoch.
    """

    def __init__(self) -> None:
        self.losses: list[Tensor] = []  # since the last check
        self.steps: list[tuple[int, float]] = []  # step and learning rate of each loss
        self.learning_rate = 0.0  # of the present step

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self.learning_rate = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if "loss" not in (outputs or ()):  # a skipped batch, or a module that optimizes by itself
            return
        if len(self.losses) >= trainer.log_every_n_steps:  # type: ignore[attr-defined]
            self._check(trainer, self._non_finite_losses())
        self.losses.append(outputs["loss"].detach())
        step = trainer.global_step + (not ends_step(trainer, batch_idx))
        self.steps.append((step, self.learning_rate))

    def on_train_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        if self.losses:
            weights = [x for x in pl_module.state_dict().values() if x.is_floating_point()]
            are_finite = torch.stack([x.isfinite().all() for x in weights]).all()
            self._check(trainer, torch.cat([self._non_finite_losses(), ~are_finite[None]]))

    on_validation_start = on_save_checkpoint = on_train_epoch_end

    def _non_finite_losses(self) -> Tensor:
        return ~torch.stack(self.losses).isfinite()

    def _check(self, trainer: Trainer, non_finite: Tensor) -> None:
        """`non_finite`: a bool for each loss, and one for all weights if they are checked too."""
        # All ranks raise together, and name the first step that is non-finite on any of them.
        first = non_finite.int().argmax().where(non_finite.any(), len(non_finite))
        first = trainer.strategy.reduce(first, reduce_op="min")
        if int(first) < len(non_finite):
            index = min(int(first), len(self.losses) - 1)
            step, learning_rate = self.steps[index]
            loss = float(trainer.strategy.reduce(self.losses[index].float(), reduce_op="mean"))
            raise Diverged(
                f"diverged in epoch {trainer.current_epoch + 1} at step {step}, learning rate "
                f"{learning_rate:.4g} (loss {loss:.4g}); a smaller optimizer.lr?"
            )
        self.losses, self.steps = [], []
