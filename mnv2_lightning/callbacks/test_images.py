"""Figures of the test predictions in TensorBoard."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from mnv2_lightning.callbacks.predictions import Predictions


class TestImages(Callback):
    """After a test, log the confusion matrix and the `images` most confidently wrong images."""

    def __init__(self, *, images: int = 32) -> None:
        self.images = images
        self.predictions = Predictions()

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.predictions.on_test_batch_end(*args, **kwargs)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.predictions.on_test_epoch_end(trainer, pl_module)
        loggers = [x for x in trainer.loggers if isinstance(x, TensorBoardLogger)]
        predicted = self.predictions.predicted
        if predicted is None or not loggers or not trainer.is_global_zero:
            return
        from mnv2_lightning.reports import figures  # late: matplotlib takes a second to import

        labels, probabilities = predicted.labels, predicted.probabilities
        data = trainer.datamodule  # type: ignore[attr-defined]
        images = data.images("test")[: len(labels)]
        matrix = figures.confusion_matrix(labels, probabilities)
        confusion = figures.draw_confusion(matrix, data.classes)
        wrong = figures.draw_wrong(images, labels, probabilities, data.classes, count=self.images)
        for logger in loggers:  # in a group that TensorBoard shows below the curves
            board, step = logger.experiment, trainer.global_step
            board.add_figure("visualization/confusion_matrix", confusion, step)
            board.add_figure("visualization/most_confidently_wrong", wrong, step)
