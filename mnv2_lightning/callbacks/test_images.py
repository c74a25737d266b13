"""Figures of the test predictions in TensorBoard."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from mnv2_lightning.callbacks.predictions import Predictions


class TestImages(Callback):
    """After a test, log the confusion matrix and the `images` most confidently wrong images.

    The wrong images need a data module with the method `images(split)`, as MNISTDataModule has.
    """

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
        classes = pl_module.hparams["data"]["classes"]
        matrix = figures.confusion_matrix(labels, probabilities)
        drawn = {"confusion_matrix": figures.draw_confusion(matrix, classes)}
        if hasattr(data, "images"):
            images = data.images("test")[: len(labels)]
            drawn["most_confidently_wrong"] = figures.draw_wrong(
                images, labels, probabilities, classes, count=self.images
            )
        for logger in loggers:
            for name, figure in drawn.items():
                logger.experiment.add_figure(f"test/{name}", figure, trainer.global_step)
