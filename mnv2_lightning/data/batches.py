"""Which images make up which batch: a pure function of (seed, epoch, rank)."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler


class InMemoryImages(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """(N, 28, 28) uint8 images and (N,) labels; an item is a whole batch, gathered at once.

    Where they lie (CPU or GPU) is where the batches and their indices are made.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.images[indices], self.labels[indices], indices

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "InMemoryImages":
        return InMemoryImages(self.images.to(device), self.labels.to(device))


class Batches(Sampler[Tensor]):
    """Yields the indices of each batch, every index once an epoch.

    Batch sizes differ by one at most, so that no epoch ends in a small batch; with several ranks
    each takes its share of every batch. Lightning calls `set_epoch` before an epoch. The order is
    drawn on the CPU, equal for every device, and sent to that of `indices` once an epoch.
    """

    def __init__(
        self,
        indices: Tensor,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.indices, self.batch_size, self.shuffle = indices, batch_size, shuffle
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.epoch = 0

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
    """The size of the smallest of `count` items' batches."""
    return count // -(-count // batch_size)


def generator(seed: int, epoch: int) -> torch.Generator:
    """A CPU generator that depends on both."""
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)


def split(count: int, held_out: int, seed: int) -> tuple[Tensor, Tensor]:
    """Sorted indices of `count` items, cut by the seed into (kept, `held_out` of them)."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[held_out:].sort().values, order[:held_out].sort().values
