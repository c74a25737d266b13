"""The data module: MNIST in memory, in whole batches."""

from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from mnv2_lightning.data.affine import RandomAffine
from mnv2_lightning.data.batches import Batches, InMemoryImages, split
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
        self.train_set: InMemoryImages | None = None
        self.test_set: InMemoryImages | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read and check the files, on every rank; if they are missing, one rank fetches them."""
        if self.train_set is not None:
            return
        arrays = {name: torch.tensor(a) for name, a in load(self.dataset, self.dir).items()}
        train_labels, test_labels = arrays["train-labels"].long(), arrays["t10k-labels"].long()
        self.train_set = InMemoryImages(arrays["train-images"], train_labels)
        self.test_set = InMemoryImages(arrays["t10k-images"], test_labels)
        self.train_indices, self.val_indices = split(len(train_labels), self.val_size, self.seed)

    def on_device(self) -> tuple[InMemoryImages, InMemoryImages]:
        """The training set and the test set on the training device."""
        assert self.train_set is not None, "setup() comes first"
        assert self.test_set is not None
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            self.train_set, self.test_set = self.train_set.to(device), self.test_set.to(device)
        return self.train_set, self.test_set

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.on_device()[0], self.train_indices, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        if not self.val_size:
            return []
        return self._loader(self.on_device()[0], self.val_indices)

    def test_dataloader(self) -> DataLoader[Any]:
        test_set = self.on_device()[1]
        return self._loader(test_set, torch.arange(len(test_set)))

    def images(self, split: str) -> np.ndarray:
        """(N, 28, 28) uint8 images of the file, by index."""
        chosen = self.test_set if split == "test" else self.train_set
        assert chosen is not None, "setup() comes first"
        return chosen.images.cpu().numpy()

    def on_after_batch_transfer(
        self, batch: tuple[Tensor, Tensor, Tensor], dataloader_idx: int
    ) -> tuple[Tensor, Tensor, Tensor]:
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
        rank = self.trainer.global_rank if self.trainer is not None else 0
        world_size = self.trainer.world_size if self.trainer is not None else 1
        batches = Batches(
            indices.to(images.labels.device),
            self.batch_size,
            shuffle=shuffle,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
        )
        # Without a generator the loader would draw from the global one each epoch.
        generator = torch.Generator().manual_seed(self.seed)
        return DataLoader(images, sampler=batches, batch_size=None, generator=generator)
