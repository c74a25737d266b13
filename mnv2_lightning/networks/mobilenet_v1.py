"""MobileNetV1: depthwise-separable convolutions (Howard et al., arXiv 1704.04861)."""

from collections.abc import Sequence

from torch import Tensor, nn

from mnv2_lightning.networks.blocks import conv_norm, initialize, make_divisible


class MobileNetV1(nn.Module):
    """(B, in_channels, H, W) images -> (B, num_classes) logits.

    `layers`: a row (c, s) for each depthwise-separable layer: channels and stride.
    """

    def __init__(
        self,
        *,
        layers: Sequence[Sequence[int]],
        in_channels: int = 1,
        num_classes: int = 10,
        stem_channels: int = 32,
        stem_stride: int = 2,
        width_mult: float = 1.0,
        round_nearest: int = 8,
        dropout: float = 0.0,
        init: str = "pytorch",
    ) -> None:
        super().__init__()
        channels = make_divisible(stem_channels * width_mult, round_nearest)
        self.stem = conv_norm(
            in_channels, channels, kernel=3, stride=stem_stride, activation="relu"
        )
        self.layers = nn.Sequential()
        for c, stride in layers:
            out_channels = make_divisible(c * width_mult, round_nearest)
            depthwise = conv_norm(
                channels, channels, kernel=3, stride=stride, groups=channels, activation="relu"
            )
            pointwise = conv_norm(channels, out_channels, activation="relu")
            self.layers.append(nn.Sequential(depthwise, pointwise))
            channels = out_channels
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, num_classes))
        initialize(self, init)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.stem(x))  # (B, C, h, w)
        return self.classifier(self.pool(x).flatten(1))
