"""Affine maps of whole batches: random ones for training, and fixed ones for evaluation."""

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class RandomAffine:
    """(B, C, H, W) images in [0, 1], each turned, scaled, sheared and shifted by chance: a pure
    function of (seed, epoch, image).

    `degrees`: +- rotation; `translate`: +- share of the side; `scale`: size 1 +- scale;
    `shear`: +- horizontal shear. Beyond the border the image is 0, MNIST's background.
    """

    def __init__(self, *, seed: int, **ranges: float) -> None:
        self.ranges, self.seed = _ranges(**ranges), seed

    def __bool__(self) -> bool:
        return any(self.ranges)

    def __call__(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """`indices`: (B,) int64, the images' places in the data set."""
        drawn = uniform(indices, self.seed, epoch, len(self.ranges)).unbind(1)  # 5 x (B,)
        to_input = _to_input(*(d * r for d, r in zip(drawn, self.ranges, strict=True)))
        grid = F.affine_grid(to_input, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid.to(images.dtype), align_corners=False)


class Views:
    """(B, C, H, W) images as they are, and changed by each range to either end, one at a time.

    The ranges are those of `RandomAffine`. Beyond the border an image goes on as at its edge.
    """

    def __init__(self, **ranges: float) -> None:
        ends = np.diag(_ranges(**ranges))
        ends = ends[ends.any(axis=1)]
        changes = torch.tensor(np.concatenate([ends, -ends]), dtype=torch.float, device="cpu")
        self.maps = _to_input(*changes.unbind(1))  # (V - 1, 2, 3)

    def __len__(self) -> int:
        return 1 + len(self.maps)

    def __call__(self, images: Tensor) -> Iterator[Tensor]:
        yield images
        for to_input in self.maps.to(images):
            each = to_input.expand(len(images), 2, 3)
            grid = F.affine_grid(each, list(images.shape), align_corners=False)
            yield F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _ranges(
    *, degrees: float = 0.0, translate: float = 0.0, scale: float = 0.0, shear: float = 0.0
) -> tuple[float, ...]:
    """Of angle, size, shear, and the shifts in x and y in half sides."""
    return math.radians(degrees), scale, shear, 2 * translate, 2 * translate


def _to_input(angle: Tensor, scale: Tensor, shear: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(N,) each -> (N, 2, 3), from output to input: rotation times shear times size, then shift."""
    cos, sin, size = angle.cos(), angle.sin(), 1 / (1 + scale)
    rows = [cos * size, (cos * shear - sin) * size, x, sin * size, (sin * shear + cos) * size, y]
    return torch.stack(rows, dim=1).view(-1, 2, 3)


def uniform(indices: Tensor, seed: int, epoch: int, draws: int) -> Tensor:
    """(B, draws) numbers in [-1, 1) by hashing (splitmix64's finalizer): no generator to keep."""
    draw = torch.arange(draws, device=indices.device)
    start = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    offset = int(torch.randint(2**62, (), generator=start))
    x = (indices[:, None] * draws + draw) * -7046029254386353131 + offset
    x = (x ^ _shift(x, 30)) * -4658895280553007687
    x = (x ^ _shift(x, 27)) * -7723592293110705685
    x = x ^ _shift(x, 31)
    return _shift(x, 40).float() / 2**23 - 1


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
