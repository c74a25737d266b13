"""Figures of the test predictions, as PNGs and in TensorBoard."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from mnv2_lightning.callbacks.predictions import Predictions
from mnv2_lightning.runs.prediction_file import PREDICTIONS, write_predictions
from mnv2_lightning.system.durable_files import write_bytes


class TestImages(Callback):
    """After a test, draw the confusion matrix and the `images` most confidently wrong images.

    Writes confusion_matrix.png, most_confidently_wrong.png and test_predictions.csv into
    `trainer.default_root_dir`, and the figures to TensorBoard if it is a logger. StorageError.
    The wrong images need a data module with the method `images(split)`, as MNISTDataModule has.
    """

    def __init__(self, *, images: int = 32) -> None:
        self.images = images
        self.predictions = Predictions()

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.predictions.on_test_batch_end(*args, **kwargs)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.predictions.on_test_epoch_end(trainer, pl_module)
        predicted = self.predictions.predicted
        if predicted is None or not trainer.is_global_zero:
            return
        from mnv2_lightning.reports import figures  # late: matplotlib takes a second to import

        labels, probabilities = predicted.labels, predicted.probabilities
        data = trainer.datamodule  # type: ignore[attr-defined]
        classes = pl_module.hparams["data"]["classes"]
        folder = Path(trainer.default_root_dir)
        write_predictions(folder / PREDICTIONS, labels, probabilities)
        matrix = figures.confusion_matrix(labels, probabilities)
        drawn = {"confusion_matrix": figures.draw_confusion(matrix, classes)}
        if hasattr(data, "images"):
            images = data.images("test")[: len(labels)]
            drawn["most_confidently_wrong"] = figures.draw_wrong(
                images, labels, probabilities, classes, count=self.images
            )
        for name, figure in drawn.items():
            png, pixels = figures.png_and_pixels(figure)
            write_bytes(folder / f"{name}.png", png)
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):  # in a group below the curves
                    board, step = logger.experiment, trainer.global_step
                    board.add_image(f"visualization/{name}", pixels, step, dataformats="HWC")
