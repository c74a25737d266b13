"""PyTorch's layers with faster training on a CPU for maps of 1 to 4 px.

Results differ only by rounding. Larger maps, other devices and inference use PyTorch's own code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _is_within(x: Tensor, size: int) -> bool:
    return max(x.shape[-2:]) <= size and torch.is_grad_enabled() and x.is_cpu


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution with padding that keeps the map's size at stride 1.

    The backward pass of oneDNN takes many times longer on maps of 1 and 2 px than of 4 px. Here
    each output pixel of such a map is a weighted sum of its input pixels, four at most.
    """

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if not _is_within(x, 2):
            return super().forward(x)
        # 1 where a tap of the kernel meets a pixel: (pixels, taps, output pixels).
        pixels = torch.eye(height * width).unflatten(1, (1, height, width))
        padding = self.kernel_size[0] // 2
        meets = F.unfold(pixels, self.kernel_size, padding=padding, stride=self.stride)
        weights = torch.einsum("ck,qkp->pqc", self.weight.flatten(1), meets.to(self.weight))
        y = (x.permute(0, 2, 3, 1).flatten(1, 2)[:, None] * weights.to(x.dtype)).sum(2)
        y = y.unflatten(1, (-(-height // self.stride[0]), -1)).permute(0, 3, 1, 2)
        return y if self.bias is None else y + self.bias.to(x.dtype)[:, None, None]


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution with stride 1, as a matrix product for maps of up to 4 px."""

    def forward(self, x: Tensor) -> Tensor:
        if not _is_within(x, 4):
            return super().forward(x)
        pixels = x.permute(0, 2, 3, 1)  # (B, H, W, C), the order of channels_last in memory
        return F.linear(pixels, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm that treats B images of 1 px as one image of B px, contiguous in memory."""

    def forward(self, x: Tensor) -> Tensor:
        if not _is_within(x, 1):
            return super().forward(x)
        return super().forward(x.permute(2, 1, 0, 3)).permute(2, 1, 0, 3)
