"""What the inverted residuals of a network do to the information that passes them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnv2_lightning.networks.blocks import InvertedResidual


@dataclass(frozen=True)
class PositiveShare:
    """The share of an expansion's channels that are positive before its ReLU6, over positions.

    `threshold`: the block's input channels divided by the expanded ones. Where fewer are positive,
    the ReLU6 cannot be inverted (lemma 2 of arXiv 1801.04381); `below`: the share of positions.
    """

    block: str
    in_channels: int
    channels: int
    threshold: float
    mean: float
    deviation: float
    least: float
    most: float
    below: float


@dataclass(frozen=True)
class Loss:
    """What a ReLU6 would change in the output of a block's projection.

    `negative`, `above_6`: the share of values. `lost`: the sum of the squared changes, divided by
    that of the squared values.
    """

    block: str
    channels: int
    negative: float
    above_6: float
    lost: float


def blocks(network: nn.Module) -> dict[str, InvertedResidual]:
    """By name."""
    found = network.named_modules()
    return {name: block for name, block in found if isinstance(block, InvertedResidual)}


@contextmanager
def after(
    modules: Mapping[str, nn.Module], function: Callable[[str, Tensor], Tensor | None]
) -> Iterator[None]:
    """Call `function(name, output)` after each module; a Tensor that it returns is the output."""
    hooks = [
        module.register_forward_hook(lambda _, inputs, output, name=name: function(name, output))
        for name, module in modules.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def positive_shares(network: nn.Module, batches: Iterable[Tensor]) -> list[PositiveShare]:
    """Of each block that expands. `batches`: (B, C, H, W) inputs, at least one."""
    expanding: dict[str, Any] = {
        name: block.expand
        for name, block in blocks(network).items()
        if isinstance(block.expand, nn.Sequential)
    }
    counts: dict[str, list[Tensor]] = {name: [] for name in expanding}  # positions by their share

    def count(name: str, output: Tensor) -> None:
        positive = (output > 0).sum(1).flatten()
        counts[name].append(positive.bincount(minlength=output.shape[1] + 1))

    with after({name: expand.norm for name, expand in expanding.items()}, count):
        for batch in batches:
            network(batch)
    return [
        _share(name, expanding[name].conv.in_channels, torch.stack(of).sum(0))
        for name, of in counts.items()
    ]


def _share(name: str, in_channels: int, positions: Tensor) -> PositiveShare:
    """`positions`: how many have 0, 1, 2, ... positive channels."""
    channels = len(positions) - 1
    shares, weights = torch.arange(channels + 1) / channels, positions.double() / positions.sum()
    mean = float((shares * weights).sum())
    there = positions.nonzero()
    return PositiveShare(
        block=name,
        in_channels=in_channels,
        channels=channels,
        threshold=in_channels / channels,
        mean=mean,
        deviation=float(((shares - mean) ** 2 * weights).sum().sqrt()),
        least=float(shares[there.min()]),
        most=float(shares[there.max()]),
        below=float(weights[:in_channels].sum()),
    )


def relu6_after(names: Sequence[str], network: nn.Module) -> AbstractContextManager[None]:
    """Apply a ReLU6 to the outputs of the projections of these blocks."""
    projections = {name: blocks(network)[name].project for name in names}
    return after(projections, lambda _, output: F.relu6(output))


@torch.no_grad()
def accuracy(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """`batches`: inputs and labels."""
    found = [network(x).argmax(1) == labels for x, labels in batches]
    return float(torch.cat(found).float().mean())


@torch.no_grad()
def losses(network: nn.Module, batches: Iterable[Tensor]) -> list[Loss]:
    """Of each block, in one pass over the inputs."""
    found = blocks(network)
    # Negative, above 6, squares of the change, squares, number of values.
    sums = {name: torch.zeros(5, dtype=torch.double) for name in found}

    def add(name: str, y: Tensor) -> None:
        change = (y - F.relu6(y)).square().sum(dtype=torch.double)
        square = y.square().sum(dtype=torch.double)
        of_batch = [(y < 0).sum(), (y > 6).sum(), change, square, torch.tensor(y.numel())]
        sums[name] += torch.stack([value.double() for value in of_batch])

    with after({name: block.project for name, block in found.items()}, add):
        for batch in batches:
            network(batch)
    made = []
    for name, block in found.items():
        negative, above, change, square, count = sums[name].tolist()
        project: Any = block.project
        lost = change / square if square else 0.0
        channels = project.conv.out_channels
        made.append(Loss(name, channels, negative / count, above / count, lost))
    return made


@torch.no_grad()
def features(
    network: nn.Module, name: str, batches: Iterable[Tensor], side: int = 4
) -> tuple[Tensor, Tensor]:
    """The output of the block's projection, and that after a ReLU6: (N, F) each.

    Maps of more than `side` px are averaged down to it.
    """
    found: list[list[Tensor]] = [[], []]

    def collect(_: str, y: Tensor) -> None:
        for outputs, kept in zip((y, F.relu6(y)), found, strict=True):
            size = min(side, y.shape[-1])
            kept.append(F.adaptive_avg_pool2d(outputs, size).flatten(1))

    with after({name: blocks(network)[name].project}, collect):
        for batch in batches:
            network(batch)
    before, changed = map(torch.cat, found)
    return before, changed
