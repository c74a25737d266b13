"""What the test got wrong, as pictures in TensorBoard."""

from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from mnv2_lightning.callbacks.predictions import Collector


class Pictures(Callback):
    """After a test: the confusion matrix, and the `images` most confidently wrong images."""

    def __init__(self, *, images: int = 32) -> None:
        self.images = images
        self._collector = Collector()

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._collector.add(outputs, batch)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        said = self._collector.gather(trainer.world_size)
        loggers = [x for x in trainer.loggers if isinstance(x, TensorBoardLogger)]
        if not loggers or not trainer.is_global_zero:
            return
        from mnv2_lightning.reports import figures  # late: matplotlib takes a second

        data = trainer.datamodule  # type: ignore[attr-defined]
        images = data.images("test")[said.indices]
        confusion = figures.confusion_matrix(said.labels, said.probabilities)
        pictures = {
            "test/confusion_matrix": figures.draw_confusion(confusion, data.classes),
            "test/most_confidently_wrong": figures.draw_wrong(
                images, said.labels, said.probabilities, data.classes, count=self.images
            ),
        }
        for logger in loggers:
            for tag, picture in pictures.items():
                logger.experiment.add_image(
                    tag, figures.pixels(picture), trainer.global_step, dataformats="HWC"
                )
