"""The data module: MNIST, or a data set of its format, in memory, in whole batches."""

from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mnv2_lightning.data.affine import RandomAffine
from mnv2_lightning.data.batches import Batches, InMemoryImages, split, stratified
from mnv2_lightning.data.idx_files import load
from mnv2_lightning.data.input_transform import InputTransform

FILES = {"train": "train", "val": "train", "test": "t10k"}  # split -> prefix of its files


class MNISTDataModule(L.LightningDataModule):
    """Batches of ((B, 1, S, S) float32 images, (B,) int64 labels), S = `image_size`.

    The whole data set, 55 MB, is in the memory of the training device, where batches are made.
    `batch_size` is the sum over all ranks. `seed` chooses `val_size` validation images from the
    training set, and `train_size` of the others, as many of each class as their share; None: all.
    The test set is the official one. `dir` is the folder of the files, see
    `idx_files.load`.
    """

    def __init__(
        self,
        *,
        dataset: str = "mnist",
        dir: str | None = None,
        batch_size: int = 128,
        train_size: int | None = None,
        val_size: int = 5000,
        crop: int = 28,
        image_size: int = 28,
        mean: float = 0.1307,
        std: float = 0.3081,
        augment: dict[str, float] | None = None,
        classes: list[str] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.dataset, self.dir = dataset, dir
        self.batch_size, self.seed = batch_size, seed
        self.train_size, self.val_size = train_size, val_size
        self.image_size = image_size
        self.transform = InputTransform(crop=crop, image_size=image_size, mean=mean, std=std)
        self.classes = classes or [str(digit) for digit in range(10)]
        self.augment = RandomAffine(**(augment or {}), seed=seed)

    def setup(self, stage: str | None = None) -> None:
        """Read and check the files, on every rank; if they are missing, one rank fetches them.

        With a Trainer, move the images to the training device.
        """
        if not hasattr(self, "arrays"):
            loaded = load(self.dataset, self.dir, len(self.classes))
            arrays = {name: torch.tensor(array) for name, array in loaded.items()}
            self.arrays = {k: v.long() if k.endswith("labels") else v for k, v in arrays.items()}
            count = len(self.arrays["train-labels"])
            train, val = split(count, self.val_size, self.seed)
            if self.train_size is not None:
                labels = self.arrays["train-labels"][train]
                train = train[stratified(labels, self.train_size, self.seed)]
            self.indices = {"train": train, "val": val}
            self.indices["test"] = torch.arange(len(self.arrays["t10k-labels"]))
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            self.arrays = {name: tensor.to(device) for name, tensor in self.arrays.items()}

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled and augmented by (seed, epoch), which `loader.sampler.set_epoch` sets."""
        return self._loader("train", augment=self.augment or None, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        return self._loader("val") if self.val_size else []

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader("test")

    predict_dataloader = test_dataloader

    def images(self, split: str) -> np.ndarray:
        """(N, 28, 28) uint8 images of the files, in the order in which `split` is evaluated."""
        return self.arrays[f"{FILES[split]}-images"].cpu()[self.indices[split]].numpy()

    def evaluation_loader(self, split: str, images: Tensor) -> DataLoader[Any]:
        """Batches of other images, (N, H, W) uint8, with the labels of `images(split)`."""
        return self._loader(split, images=images)

    def _loader(
        self,
        split: str,
        *,
        images: Tensor | None = None,
        augment: RandomAffine | None = None,
        shuffle: bool = False,
    ) -> DataLoader[Any]:
        labels = self.arrays[f"{FILES[split]}-labels"]
        indices, trainer = self.indices[split].to(labels.device), self.trainer
        if images is None:
            images = self.arrays[f"{FILES[split]}-images"]
        else:
            labels, images = labels[indices], images.to(labels.device)
            indices = torch.arange(len(labels), device=labels.device)
        batches = Batches(
            indices,
            self.batch_size,
            shuffle=shuffle,
            seed=self.seed,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
        )
        dataset = InMemoryImages(images, labels, self.transform, augment)
        # Without a generator the loader would draw from the global one each epoch.
        generator = torch.Generator().manual_seed(self.seed)
        return DataLoader(dataset, sampler=batches, batch_size=None, generator=generator)
