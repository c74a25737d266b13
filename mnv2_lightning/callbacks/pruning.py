"""Reports validation accuracy to an Optuna trial, and stops the run if it is pruned."""

from lightning.pytorch import Callback, LightningModule, Trainer
from optuna import Trial

from mnv2_lightning.schema.errors import Pruned

METRIC = "val/accuracy"


class Pruning(Callback):
    """Report `val/accuracy` after each validation; raise Pruned if the pruner says so.

    A report's step is the percentage of optimizer steps done, or the epoch if their total is
    unknown.
    """

    def __init__(self, trial: Trial, reported: dict[int, float]) -> None:
        """`reported`: what a resumed trial has reported before, by step."""
        self.trial, self.reported = trial, reported

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        total = trainer.estimated_stepping_batches
        is_known = 0 < total < float("inf")
        point = int(100 * trainer.global_step / total) if is_known else trainer.current_epoch + 1
        accuracy = float(trainer.callback_metrics[METRIC])
        if not is_known and "points" not in self.trial.user_attrs:
            self.trial.set_user_attr("points", "epochs")
        if point not in self.reported:  # Optuna warns of a second report
            self.trial.report(accuracy, point)
            self.reported[point] = accuracy
        if not (is_known and point >= 100) and self.trial.should_prune():
            where = f"{point} % of its steps" if is_known else f"epoch {point}"
            raise Pruned(f"pruned at {where}, with {METRIC} {accuracy:.4f}")
