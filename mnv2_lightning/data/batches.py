"""Images in memory, and the indices of each batch: a pure function of (seed, epoch, rank)."""

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

Batch = tuple[Tensor, Tensor]  # (B, 1, S, S) float32 images, (B,) int64 labels


@dataclass(eq=False, frozen=True)
class InMemoryImages(Dataset[Batch]):
    """An item is a whole batch: `dataset[indices, epoch]` of (B,) int64 indices and an integer.

    `images`: (N, 28, 28) uint8; `labels`: (N,) int64. A batch is made on their device.
    `augment(x, indices, epoch)` maps (B, 1, 28, 28) in [0, 1] to the same shape and range,
    `transform` maps it to what the network takes.
    """

    images: Tensor
    labels: Tensor
    transform: Callable[[Tensor], Tensor]
    augment: Callable[[Tensor, Tensor, int], Tensor] | None = None

    def __getitem__(self, item: tuple[Tensor, int]) -> Batch:
        indices, epoch = item
        x = self.images[indices][:, None].float() / 255
        if self.augment is not None:
            x = self.augment(x, indices, epoch)
        return self.transform(x), self.labels[indices]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(eq=False)
class Batches(Sampler[tuple[Tensor, int]]):
    """Yield the indices of each batch, and the epoch; each index occurs once an epoch.

    Batch sizes differ by at most one, so that no epoch ends with a small batch. Each rank takes
    its share of every batch. Lightning calls `set_epoch` before an epoch, as a loop of one's own
    does. The order is drawn on the CPU, so that it is the same for every device.
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

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        indices = self.indices
        if self.shuffle:
            order = torch.randperm(len(indices), generator=generator(self.seed, self.epoch))
            indices = indices[order.to(indices.device)]
        for batch in torch.tensor_split(indices, len(self)):
            yield batch[self.rank :: self.world_size], self.epoch


def generator(seed: int, epoch: int) -> torch.Generator:
    """A CPU generator seeded by both."""
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)


def split(count: int, held_out: int, seed: int) -> tuple[Tensor, Tensor]:
    """Sorted indices of the training images and of the `held_out` validation images."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[held_out:].sort().values, order[:held_out].sort().values


def stratified(labels: Tensor, size: int, seed: int) -> Tensor:
    """Sorted positions of `size` of the (N,) `labels`, with the share of each class as in all.

    Drawn by `seed`; a class is rounded by the largest remainder. ValueError: there are too few.
    """
    if size > len(labels):
        raise ValueError(f"train_size={size}: there are {len(labels)} images")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    counts = labels.bincount()
    quotas = counts.double() * size / len(labels)
    taken = quotas.floor().long()
    largest = (quotas - taken).sort(descending=True, stable=True).indices
    taken[largest[: size - int(taken.sum())]] += 1
    drawn = labels[order]
    positions = [order[drawn == label][:count] for label, count in enumerate(taken.tolist())]
    return torch.cat(positions).sort().values
