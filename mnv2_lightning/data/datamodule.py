"""The data module: MNIST in memory, in whole batches."""

from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from mnv2_lightning.data.affine import RandomAffine
from mnv2_lightning.data.batches import Batch, Batches, InMemoryImages, split
from mnv2_lightning.data.idx_files import load


class MNISTDataModule(L.LightningDataModule):
    """Batches of ((B, 1, S, S) float images, (B,) int64 labels, (B,) indices), S = `image_size`.

    The whole data set, 55 MB, is in the memory of the training device. `batch_size` is the sum over
    all ranks. `seed` chooses `val_size` validation images from the training set; the test set is
    the official one. `dir` is the folder of the files, see `idx_files.load`.
    """

    def __init__(
        self,
        *,
        dataset: str = "mnist",
        dir: str | None = None,
        batch_size: int = 128,
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
        self.batch_size, self.val_size, self.seed = batch_size, val_size, seed
        self.crop, self.image_size, self.mean, self.std = crop, image_size, mean, std
        self.classes = classes or [str(digit) for digit in range(10)]
        self.augment = RandomAffine(**(augment or {}), seed=seed)

    def setup(self, stage: str | None = None) -> None:
        """Read and check the files, on every rank; if they are missing, one rank fetches them.

        With a Trainer, move the images to the training device.
        """
        if not hasattr(self, "train_set"):
            arrays = {name: torch.tensor(a) for name, a in load(self.dataset, self.dir).items()}
            self.train_set = InMemoryImages(arrays["train-images"], arrays["train-labels"].long())
            self.test_set = InMemoryImages(arrays["t10k-images"], arrays["t10k-labels"].long())
            indices = split(len(self.train_set), self.val_size, self.seed)
            self.train_indices, self.val_indices = indices
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            self.train_set, self.test_set = self.train_set.to(device), self.test_set.to(device)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.train_set, self.train_indices, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        return self._loader(self.train_set, self.val_indices) if self.val_size else []

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.test_set, torch.arange(len(self.test_set)))

    def images(self, split: str) -> np.ndarray:
        """(N, 28, 28) uint8 images of the file, by index."""
        return (self.test_set if split == "test" else self.train_set).images.cpu().numpy()

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """On the training device: scale, augment (in training), crop, normalize and resize."""
        images, labels, indices = batch
        trainer = self.trainer
        epoch = trainer.current_epoch if trainer is not None and trainer.training else None
        return self.prepare(images, indices, epoch), labels, indices

    def prepare(self, images: Tensor, indices: Tensor, epoch: int | None) -> Tensor:
        """(B, 28, 28) uint8 -> (B, 1, S, S) float32; augmented if `epoch` is given."""
        x = images[:, None].float() / 255
        if epoch is not None and self.augment:
            x = self.augment(x, indices, epoch)
        if self.crop < x.shape[-1]:
            border = (x.shape[-1] - self.crop) // 2
            x = x[..., border : border + self.crop, border : border + self.crop]
        x = (x - self.mean) / self.std
        if x.shape[-1] != self.image_size:
            size = (self.image_size, self.image_size)
            x = F.interpolate(x, size, mode="bilinear", antialias=True)
        return x

    def _loader(
        self, images: InMemoryImages, indices: Tensor, *, shuffle: bool = False
    ) -> DataLoader[Any]:
        trainer, seed = self.trainer, self.seed
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        indices = indices.to(images.labels.device)
        batches = Batches(
            indices, self.batch_size, shuffle=shuffle, seed=seed, rank=rank, world_size=world_size
        )
        # Without a generator the loader would draw from the global one each epoch.
        generator = torch.Generator().manual_seed(seed)
        return DataLoader(images, sampler=batches, batch_size=None, generator=generator)
