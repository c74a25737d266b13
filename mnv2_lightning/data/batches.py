"""Images in memory, and the indices of each batch: a pure function of (seed, epoch, rank)."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

Batch = tuple[Tensor, Tensor, Tensor]  # images, (B,) labels, (B,) indices


class InMemoryImages(Dataset[Batch]):
    """(N, 28, 28) uint8 images and (N,) labels; an item is a whole batch, gathered at once.

    Batches and their indices are made on the device of `images`.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __getitem__(self, indices: Tensor) -> Batch:
        return self.images[indices], self.labels[indices], indices

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "InMemoryImages":
        return InMemoryImages(self.images.to(device), self.labels.to(device))


@dataclass(eq=False)
class Batches(Sampler[Tensor]):
    """Yield the indices of each batch; each index occurs once an epoch.

    Batch sizes differ by at most one, so that no epoch ends with a small batch. Each rank takes
    its share of every batch. Lightning calls `set_epoch` before an epoch. The order is drawn on
    the CPU, so that it is the same for every device.
    """

    indices: Tensor
    batch_size: int
    _: KW_ONLY
    shuffle: bool
    seed: int = 0
    rank: int = 0
    world_size: int = 1

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        indices = self.indices
        if self.shuffle:
            order = torch.randperm(len(indices), generator=generator(self.seed, self.epoch))
            indices = indices[order.to(indices.device)]
        for batch in torch.tensor_split(indices, len(self)):
            yield batch[self.rank :: self.world_size]


def smallest_batch(count: int, batch_size: int) -> int:
    """Size of the smallest batch that `Batches` makes of `count` indices."""
    return count // -(-count // batch_size)


def generator(seed: int, epoch: int) -> torch.Generator:
    """A CPU generator seeded by both."""
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)


def split(count: int, held_out: int, seed: int) -> tuple[Tensor, Tensor]:
    """Sorted indices of the training images and of the `held_out` validation images."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[held_out:].sort().values, order[:held_out].sort().values
