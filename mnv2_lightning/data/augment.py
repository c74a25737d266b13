"""Random affine maps of whole batches, each a pure function of (seed, epoch, image, draw)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


class RandomAffine:
    """(B, C, H, W) images in [0, 1], each turned, scaled, sheared and shifted by chance.

    `degrees`: +- rotation; `translate`: +- share of the side; `scale`: size 1 +- scale;
    `shear`: +- horizontal shear. Beyond the border the image is 0, MNIST's background.
    """

    def __init__(
        self, *, degrees: float, translate: float, scale: float, shear: float, seed: int
    ) -> None:
        self.ranges = (math.radians(degrees), scale, shear, 2 * translate, 2 * translate)
        self.seed = seed

    def __bool__(self) -> bool:
        return any(self.ranges)

    def __call__(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """`indices`: (B,) int64, the images' places in the data set."""
        drawn = uniform(indices, self.seed, epoch, len(self.ranges)).unbind(1)  # 5 x (B,)
        angle, scale, shear, x, y = (d * r for d, r in zip(drawn, self.ranges, strict=True))
        cos, sin, size = angle.cos(), angle.sin(), 1 / (1 + scale)
        # From output to input: rotation times shear times size, then the shift. (B, 2, 3)
        rows = torch.stack(
            [cos * size, (cos * shear - sin) * size, x, sin * size, (sin * shear + cos) * size, y],
            dim=1,
        )
        grid = F.affine_grid(rows.view(-1, 2, 3), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid.to(images.dtype), align_corners=False)


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
