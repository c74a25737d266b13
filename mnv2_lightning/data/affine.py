"""Affine transforms of image batches: random in training, fixed in test-time augmentation."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from mnv2_lightning.data.batches import generator


class RandomAffine:
    """Rotate, scale, shear and shift each image at random.

    Images are (B, C, H, W) in [0, 1]. The transform is a pure function of (seed, epoch, index),
    which makes resuming bit-exact. Pixels beyond the border are 0, the background of MNIST.

    `degrees`: rotation, ±degrees; `translate`: shift, ± fraction of the side; `scale`: size,
    1 ± scale; `shear`: horizontal shear, ±.
    """

    def __init__(self, *, seed: int, **ranges: float) -> None:
        self.ranges, self.seed = _ranges(**ranges), seed

    def __bool__(self) -> bool:
        return any(self.ranges)

    def __call__(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """`indices`: (B,) int64 positions of the images in the data set."""
        drawn = uniform(indices, self.seed, epoch, len(self.ranges)).unbind(1)  # 5 x (B,)
        theta = _theta(*(d * r for d, r in zip(drawn, self.ranges, strict=True)))
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid.to(images.dtype), align_corners=False)


class TestTimeAugmentation:
    """Yield a batch of (B, C, H, W) images, then two for each range, at its ends.

    Each view changes one thing. The ranges are those of `RandomAffine`. Pixels beyond the border
    repeat the edge, because the images are normalized already.
    """

    def __init__(self, **ranges: float) -> None:
        ends = torch.diag(torch.tensor(_ranges(**ranges), device="cpu"))
        ends = ends[ends.any(dim=1)]
        self.theta = _theta(*torch.cat([ends, -ends]).unbind(1))  # (number of views - 1, 2, 3)

    def __len__(self) -> int:
        return 1 + len(self.theta)

    def __call__(self, images: Tensor) -> Iterator[Tensor]:
        yield images
        size = list(images.shape)
        for theta in self.theta.to(images):
            grid = F.affine_grid(theta.expand(size[0], 2, 3), size, align_corners=False)
            yield F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _ranges(
    *, degrees: float = 0.0, translate: float = 0.0, scale: float = 0.0, shear: float = 0.0
) -> tuple[float, ...]:
    """Ranges of the five arguments of `_theta`."""
    return math.radians(degrees), scale, shear, 2 * translate, 2 * translate


def _theta(angle: Tensor, scale: Tensor, shear: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(N, 2, 3) matrices for `affine_grid`: rotation times shear times size, then the shift.

    All arguments are (N,): radians, size - 1, shear, and shifts in half sides.
    """
    cos, sin, size = angle.cos(), angle.sin(), 1 / (1 + scale)
    rows = [cos * size, (cos * shear - sin) * size, x, sin * size, (sin * shear + cos) * size, y]
    return torch.stack(rows, dim=1).view(-1, 2, 3)


def uniform(indices: Tensor, seed: int, epoch: int, draws: int) -> Tensor:
    """(B, draws) numbers in [-1, 1), a hash (the finalizer of splitmix64) of all arguments.

    No generator state has to be saved, and an image gets the same numbers in any batch.
    """
    draw = torch.arange(draws, device=indices.device)
    offset = int(torch.randint(2**62, (), generator=generator(seed, epoch)))
    x = (indices[:, None] * draws + draw) * -7046029254386353131 + offset
    x = (x ^ _shift(x, 30)) * -4658895280553007687
    x = (x ^ _shift(x, 27)) * -7723592293110705685
    x = x ^ _shift(x, 31)
    return _shift(x, 40).float() / 2**23 - 1


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
