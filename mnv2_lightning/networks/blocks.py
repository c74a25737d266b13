"""The building blocks of MobileNet V1 and V2. Shapes: (B, C, H, W)."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6, "linear": None, "none": None}


def make_divisible(channels: float, divisor: int) -> int:
    """Round to the nearest multiple of `divisor`, never losing more than 10 % (TF-slim's rule)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


class DepthwiseConv2d(nn.Conv2d):
    """A convolution of each channel by itself, padded so that stride 1 keeps the map's size.

    On maps of 1 and 2 px oneDNN's backward pass is many times slower than on 4 px, though nearly
    all that the kernel covers there is padding. The same sums are then had in another way.
    """

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if max(height, width) > 2 or not torch.is_grad_enabled():
            return super().forward(x)
        if height == width == 1:  # only the kernel's centre meets the map
            centre = self.weight[:, :, self.kernel_size[0] // 2, self.kernel_size[1] // 2]
            y = x * centre.to(x.dtype)[..., None]
            return y if self.bias is None else y + self.bias.to(x.dtype)[:, None, None]
        out = super().forward(F.pad(x, (0, 2, 0, 2)))  # zeros, as beyond the border
        return out[..., : -(-height // self.stride[0]), : -(-width // self.stride[1])]


def conv_norm(
    in_channels: int,
    out_channels: int,
    *,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: str = "relu6",
) -> nn.Sequential:
    """Convolution without bias, batch norm and, unless it is "linear" or "none", an activation."""
    kind = DepthwiseConv2d if groups == in_channels > 1 else nn.Conv2d
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=kind(
            in_channels,
            out_channels,
            kernel,
            stride,
            padding=kernel // 2,
            groups=groups,
            bias=False,
        ),
        norm=nn.BatchNorm2d(out_channels),
    )
    if (function := ACTIVATIONS[activation]) is not None:
        layers["activation"] = function(inplace=True)
    return nn.Sequential(layers)


class InvertedResidual(nn.Module):
    """Expand (1x1), filter (3x3 depthwise), project (1x1); arXiv 1801.04381, section 3.3.

    `shortcut`: "identity" adds the input where its shape is the output's; "projection" also
    matches it where it is not (1x1 convolution with the block's stride, batch norm); "none" never.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        expand_ratio: float,
        expand_always: bool = False,
        bottleneck_activation: str = "linear",
        depthwise_activation: str = "relu6",
        shortcut: str = "identity",
    ) -> None:
        super().__init__()
        hidden = round(in_channels * expand_ratio)
        self.expand = (
            conv_norm(in_channels, hidden) if expand_ratio != 1 or expand_always else nn.Identity()
        )
        self.depthwise = conv_norm(
            hidden,
            hidden,
            kernel=3,
            stride=stride,
            groups=hidden,
            activation=depthwise_activation,
        )
        self.project = conv_norm(hidden, out_channels, activation=bottleneck_activation)
        self.shortcut: nn.Module | None = None
        if shortcut != "none" and stride == 1 and in_channels == out_channels:
            self.shortcut = nn.Identity()
        elif shortcut == "projection":
            self.shortcut = conv_norm(in_channels, out_channels, stride=stride, activation="linear")

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.depthwise(self.expand(x)))  # (B, C', H / stride, W / stride)
        return out if self.shortcut is None else self.shortcut(x) + out


def initialize(network: nn.Module, scheme: str) -> None:
    """Set the weights as torchvision's MobileNets do; "pytorch" keeps each layer's default."""
    if scheme == "pytorch":
        return
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)
