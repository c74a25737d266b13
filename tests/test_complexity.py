"""Parameters and multiply-adds: measured, pinned, and by hand."""

import pytest
import torch
from torch import nn

from mnv2_lightning.build import build_network
from mnv2_lightning.networks import complexity
from tests.conftest import Configure

# (model, overrides) -> parameters, multiply-adds at that size (the tutorial's pinned table)
PINNED = {
    ("mobilenet_v2", 3, 1000, 224, "224px"): (3_504_872, 300_774_272),
    ("mobilenet_v2", 1, 10, 28, "224px"): (2_236_106, 5_597_552),
    ("tutorial", 1, 10, 224, "null"): (1_047_114, 117_281_152),
    ("tutorial", 1, 10, 28, "null"): (1_047_114, 2_431_456),
    ("mobilenet_v1", 3, 1000, 224, None): (4_231_976, 568_740_352),
    ("mobilenet_v1", 1, 10, 224, None): (3_216_650, 560_501_248),
    ("mobilenet_v1", 1, 10, 28, None): (3_216_650, 10_896_832),
}


@pytest.mark.parametrize("case", PINNED, ids=str)
def test_pinned_costs(case: tuple, configure: Configure) -> None:
    model, channels, classes, size, strides = case
    overrides = [f"model={model}", f"model.in_channels={channels}", f"model.num_classes={classes}"]
    if strides:
        overrides.append(f"model.strides={strides}")
    net = build_network(configure(*overrides))
    costs = complexity.measure(net, in_channels=channels, image_size=size)
    assert (costs.parameters, costs.multiply_adds) == PINNED[case]


def costs_by_hand(case: tuple) -> tuple[int, int]:
    """From the papers' and the tutorial's tables alone: every layer written out, then summed."""
    model, in_channels, classes, size, _ = case
    layers: list[tuple[int, int, int, int, int]] = []  # in, out, kernel, groups, stride
    channels = 32
    layers.append((in_channels, channels, 3, 1, 2))
    if model == "mobilenet_v1":
        for c, stride in [
            *[(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)],
            *[(512, 1)] * 5,
            *[(1024, 2), (1024, 1)],
        ]:
            layers += [(channels, channels, 3, channels, stride), (channels, c, 1, 1, 1)]
            channels = c
    else:
        tutorial = [
            *[(1, 16, 1, 1), (6, 16, 1, 2), (6, 24, 3, 2), (6, 32, 4, 2)],
            *[(6, 64, 3, 2), (6, 96, 3, 1), (6, 160, 2, 2)],
        ]
        paper = [
            *[(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)],
            *[(6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)],
        ]
        for t, c, n, s in tutorial if model == "tutorial" else paper:
            for block in range(n):
                hidden = t * channels
                if t > 1 or model == "tutorial":  # whose expansion is there for t = 1 too
                    layers.append((channels, hidden, 1, 1, 1))
                layers.append((hidden, hidden, 3, hidden, s if block == 0 else 1))
                layers.append((hidden, c, 1, 1, 1))
                channels = c
        head = 320 if model == "tutorial" else 1280
        layers.append((channels, head, 1, 1, 1))
        channels = head
    parameters, multiply_adds = channels * classes + classes, channels * classes
    for inputs, outputs, kernel, groups, stride in layers:
        size = -(-size // stride)
        weights = kernel**2 * inputs // groups * outputs
        parameters += weights + 2 * outputs  # and batch norm's
        multiply_adds += weights * size**2
    return parameters, multiply_adds


@pytest.mark.parametrize("case", PINNED, ids=str)
def test_pinned_costs_by_hand(case: tuple) -> None:
    assert costs_by_hand(case) == PINNED[case]


def test_multiply_adds_by_hand() -> None:
    """Two 1x1 convolutions at 4x4: 1 -> 2 -> 8 channels."""
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 8, 1))
    costs = complexity.measure(net, in_channels=1, image_size=4)
    assert costs.multiply_adds == 16 * (1 * 2 + 2 * 8)


@pytest.mark.parametrize(("precision", "size"), [("32-true", 4), ("64-true", 8), ("bf16-true", 2)])
def test_memory_by_hand(precision: str, size: int) -> None:
    """Kept for each image of 4x4 px: itself, and the ReLU's output for both the ReLU and the linear
    layer, which gets a view of it.
    """
    net = nn.Sequential(
        nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(32, 10, bias=False)
    )
    found = complexity.training_bytes(
        net, in_channels=1, image_size=4, batch_size=10, precision=precision
    )
    parameters = 2 + 32 * 10
    assert found == size * (10 * (16 + 32) + 4 * parameters)


def test_memory_of_a_network_that_reads_values_is_unknown() -> None:
    class Reads(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.flatten(1)) * float(x.max())

    found = complexity.training_bytes(
        Reads(16, 10), in_channels=1, image_size=4, batch_size=10, precision="32-true"
    )
    assert found is None
