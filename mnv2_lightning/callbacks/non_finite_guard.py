"""Stops a run whose loss is no number any more, before that reaches a checkpoint."""

from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from mnv2_lightning.classifier import ends_step
from mnv2_lightning.schema.errors import Diverged


class Divergence(Callback):
    """Diverged where a loss, or at the end of an epoch a weight, is infinite or no number.

    The losses stay on the device until there are `log_every_n_steps` of them, or a validation, a
    checkpoint or the end of an epoch is near.
    """

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.steps: list[tuple[int, float]] = []  # the number and the learning rate of each
        self.is_checked = True  # whether the weights were since the last step

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if len(self.losses) >= trainer.log_every_n_steps:  # type: ignore[attr-defined]
            self._look(trainer, self._bad_losses())
        self.losses.append(outputs["loss"].detach())
        step = trainer.global_step + (not ends_step(trainer, batch_idx))
        self.steps.append((step, float(pl_module.rate)))  # type: ignore[arg-type]
        self.is_checked = False

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.on_train_epoch_end(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.on_train_epoch_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.is_checked:
            numbers = [x for x in pl_module.state_dict().values() if x.is_floating_point()]
            weights = torch.stack([x.isfinite().all() for x in numbers]).all().logical_not()
            self._look(trainer, torch.cat([self._bad_losses(), weights[None]]))
            self.is_checked = True

    def _bad_losses(self) -> Tensor:
        return torch.stack(self.losses).isfinite().logical_not()

    def _look(self, trainer: L.Trainer, bad: Tensor) -> None:
        """`bad`: of each loss, and of the weights where they are looked at."""
        # All ranks stop where one of them has to, and tell of the first step that was bad on any.
        first = bad.int().argmax().where(bad.any(), len(bad))
        first = trainer.strategy.reduce(first, reduce_op="min")
        if int(first) < len(bad):
            place = min(int(first), len(self.losses) - 1)
            step, rate = self.steps[place]
            loss = float(trainer.strategy.reduce(self.losses[place].float(), reduce_op="mean"))
            raise Diverged(
                f"diverged in epoch {trainer.current_epoch + 1} at step {step}, learning rate "
                f"{rate:.4g} (loss {loss:.4g}); a smaller optimizer.lr?"
            )
        self.losses, self.steps = [], []
