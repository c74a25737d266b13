"""MobileNetV2: inverted residuals and linear bottlenecks (Sandler et al., arXiv 1801.04381)."""

from collections.abc import Sequence

from torch import Tensor, nn

from mnv2_lightning.networks.blocks import InvertedResidual, conv_norm, initialize, make_divisible
from mnv2_lightning.networks.strides import resolve_strides


class MobileNetV2(nn.Module):
    """(B, in_channels, H, W) images -> (B, num_classes) logits.

    `stages`: rows of (t, c, n, s): expansion ratio, channels, blocks, stride of the first block.
    `strides`: None for the s of `stages` and 2 for the stem, a name in `networks.strides`, or the
    strides of the stem and of each stage. `expand_ratio` replaces every t above 1. ValueError: the
    number of strides is wrong.
    """

    def __init__(
        self,
        *,
        stages: Sequence[Sequence[int]],
        in_channels: int = 1,
        num_classes: int = 10,
        stem_channels: int = 32,
        stem_kernel: int = 3,
        head_channels: int = 1280,
        expand_ratio: float | None = None,
        expand_always: bool = False,
        width_mult: float = 1.0,
        round_nearest: int = 8,
        strides: str | Sequence[int] | None = None,
        bottleneck_activation: str = "linear",
        depthwise_activation: str = "relu6",
        shortcut: str = "identity",
        dropout: float = 0.2,
        init: str = "torchvision",
    ) -> None:
        super().__init__()
        stem_stride, *stage_strides = resolve_strides(stages, strides)
        channels = make_divisible(stem_channels * width_mult, round_nearest)
        self.stem = conv_norm(in_channels, channels, kernel=stem_kernel, stride=stem_stride)

        self.stages = nn.Sequential()
        for (t, c, n, _), stage_stride in zip(stages, stage_strides, strict=True):
            out_channels = make_divisible(c * width_mult, round_nearest)
            stage = nn.Sequential()
            for block in range(n):
                stage.append(
                    InvertedResidual(
                        channels,
                        out_channels,
                        stride=stage_stride if block == 0 else 1,
                        expand_ratio=expand_ratio if expand_ratio and t > 1 else t,
                        expand_always=expand_always,
                        bottleneck_activation=bottleneck_activation,
                        depthwise_activation=depthwise_activation,
                        shortcut=shortcut,
                    )
                )
                channels = out_channels
            self.stages.append(stage)

        # As in the paper, a width below 1 does not make the head narrower.
        head_channels = make_divisible(head_channels * max(1.0, width_mult), round_nearest)
        self.head = conv_norm(channels, head_channels)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(head_channels, num_classes))
        initialize(self, init)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.stages(self.stem(x)))  # (B, head_channels, h, w)
        return self.classifier(self.pool(x).flatten(1))
