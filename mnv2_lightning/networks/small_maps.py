"""PyTorch's layers, with a way round what is slow in training on maps of 1 to 4 px on a CPU.

The same sums, but for the order of their terms; larger maps and inference go PyTorch's way.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _is_within(x: Tensor, size: int) -> bool:
    return max(x.shape[-2:]) <= size and torch.is_grad_enabled() and x.is_cpu


class DepthwiseConv2d(nn.Conv2d):
    """A convolution of each channel by itself, padded so that stride 1 keeps the map's size.

    oneDNN's backward pass on 1 and 2 px takes many times what it takes on 4 px, though nearly all
    that the kernel covers there is padding: here each pixel of the output is a weighted sum of the
    at most four pixels there are.
    """

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if not _is_within(x, 2):
            return super().forward(x)
        # Which tap of the kernel meets which pixel: (pixels, taps, pixels of the output).
        pixels = torch.eye(height * width).unflatten(1, (1, height, width))
        padding = self.kernel_size[0] // 2
        meets = F.unfold(pixels, self.kernel_size, padding=padding, stride=self.stride)
        weights = torch.einsum("ck,qkp->pqc", self.weight.flatten(1), meets.to(self.weight))
        y = (x.permute(0, 2, 3, 1).flatten(1, 2)[:, None] * weights.to(x.dtype)).sum(2)
        y = y.unflatten(1, (-(-height // self.stride[0]), -1)).permute(0, 3, 1, 2)
        return y if self.bias is None else y + self.bias.to(x.dtype)[:, None, None]


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution with stride 1, as the product of two matrices: faster up to 4 px."""

    def forward(self, x: Tensor) -> Tensor:
        if not _is_within(x, 4):
            return super().forward(x)
        pixels = x.permute(0, 2, 3, 1)  # (B, H, W, C), as channels_last has them in memory
        return F.linear(pixels, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class BatchNorm2d(nn.BatchNorm2d):
    """B images of 1 px are one image of B px: the same statistics, had along memory's order."""

    def forward(self, x: Tensor) -> Tensor:
        if not _is_within(x, 1):
            return super().forward(x)
        return super().forward(x.permute(2, 1, 0, 3)).permute(2, 1, 0, 3)
