"""Building blocks of MobileNetV1 and V2. All inputs are (B, C, H, W)."""

from collections import OrderedDict

from torch import Tensor, nn

from mnv2_lightning.networks.small_maps import BatchNorm2d, DepthwiseConv2d, PointwiseConv2d

ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6, "linear": None, "none": None}


def make_divisible(channels: float, divisor: int) -> int:
    """Round to the nearest multiple of `divisor`, but never down by more than 10 %, as TF-slim."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def conv_norm(
    in_channels: int,
    out_channels: int,
    *,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: str = "relu6",
) -> nn.Sequential:
    """Convolution without bias, batch norm, and an activation: a key of ACTIVATIONS."""
    kind = nn.Conv2d
    if groups == in_channels > 1:
        kind = DepthwiseConv2d
    elif kernel == stride == 1:
        kind = PointwiseConv2d
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
        norm=BatchNorm2d(out_channels),
    )
    if (function := ACTIVATIONS[activation]) is not None:
        # An in-place ReLU6 copies its input first, which its gradient needs; ReLU does not.
        layers["activation"] = function(inplace=function is nn.ReLU)
    return nn.Sequential(layers)


class InvertedResidual(nn.Module):
    """Expand (1x1), filter (3x3 depthwise), project (1x1); arXiv 1801.04381, section 3.3.

    `shortcut`: "identity" adds the input if it has the shape of the output; "projection" also adds
    other inputs, after a 1x1 convolution and batch norm; "none" adds nothing. ValueError: no
    channels are left between expansion and projection.
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
        if (hidden := round(in_channels * expand_ratio)) == 0:
            raise ValueError(f"expand_ratio={expand_ratio}: leaves none of {in_channels} channels")
        expands = expand_ratio != 1 or expand_always
        self.expand = conv_norm(in_channels, hidden) if expands else nn.Identity()
        self.depthwise = conv_norm(
            hidden, hidden, kernel=3, stride=stride, groups=hidden, activation=depthwise_activation
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
    """Initialize weights as torchvision does; "pytorch" keeps the defaults of the layers."""
    if scheme == "pytorch":
        return
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)
