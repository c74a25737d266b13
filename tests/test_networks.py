"""The networks are the papers' and the tutorial's: parity, counts with their arithmetic."""

import pytest
import torch
import torchvision
from omegaconf import DictConfig
from torch import Tensor, nn

from mnv2_lightning.build import build_network
from mnv2_lightning.networks import complexity
from mnv2_lightning.networks.blocks import InvertedResidual, make_divisible
from mnv2_lightning.networks.mobilenet_v2 import MobileNetV2
from mnv2_lightning.networks.strides import STRIDES
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


def network(configure: Configure, *overrides: str) -> nn.Module:
    return build_network(configure(*overrides))


@pytest.mark.parametrize("case", PINNED, ids=str)
def test_pinned_costs(case: tuple, configure: Configure) -> None:
    model, channels, classes, size, strides = case
    overrides = [f"model={model}", f"model.in_channels={channels}", f"model.num_classes={classes}"]
    if strides:
        overrides.append(f"model.strides={strides}")
    net = network(configure, *overrides)
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


@pytest.mark.parametrize(
    ("preset", "size", "expected"),
    [
        ("28px", 28, [14, 14, 14, 7, 7, 7, 4, 4]),
        ("32px", 32, [32, 32, 16, 8, 4, 4, 4, 4]),
        ("224px", 224, [112, 112, 56, 28, 14, 14, 7, 7]),
    ],
)
def test_stride_presets(preset: str, size: int, expected: list[int], configure: Configure) -> None:
    net = network(configure, "model=mobilenet_v2", f"model.strides={preset}")
    sizes = complexity.measure(net, in_channels=1, image_size=size).map_sizes
    assert list(sizes.values())[: len(expected)] == expected
    assert len(STRIDES[preset]) == len(expected)


def test_tutorial_is_layer_by_layer_the_tutorials(configure: Configure) -> None:
    """Its block written out: expand, norm, ReLU6, depthwise, norm, project, norm; no dropout."""
    net = network(configure, "model=tutorial")
    kinds = {
        "Conv2d": nn.Conv2d,
        "BatchNorm2d": nn.BatchNorm2d,
        "ReLU6": nn.ReLU6,
        "Linear": nn.Linear,
    }
    layers = [name for m in net.modules() for name, kind in kinds.items() if isinstance(m, kind)]
    block = ["Conv2d", "BatchNorm2d", "ReLU6", *["Conv2d", "BatchNorm2d"] * 2]
    stem = head = ["Conv2d", "BatchNorm2d", "ReLU6"]
    assert layers == [*stem, *block * 17, *head, "Linear"]
    # Default initialisation: uniform within 1 / sqrt(fan in), 320 for the linear layer.
    linear = net.get_submodule("classifier.1")
    assert isinstance(linear, nn.Linear)
    assert linear.weight.abs().max() <= 320**-0.5
    assert linear.bias.abs().max() > 0
    assert not any(m.p for m in net.modules() if isinstance(m, nn.Dropout))


def torchvision_names(net: nn.Module) -> dict[str, str]:
    """Ours -> torchvision's, pairing both state dicts in order: the layers come in the same one."""
    ours, theirs = list(net.state_dict()), list(torchvision.models.mobilenet_v2().state_dict())
    return dict(zip(ours, theirs, strict=True))


def test_torchvision_parity(configure: Configure) -> None:
    net = network(
        configure,
        "model=mobilenet_v2",
        "model.in_channels=3",
        "model.num_classes=1000",
        "model.strides=224px",
    )
    torch.manual_seed(0)
    reference = torchvision.models.mobilenet_v2()
    for buffer in reference.buffers():  # running statistics that are not 0 and 1
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    weights = reference.state_dict()
    net.load_state_dict({ours: weights[theirs] for ours, theirs in torchvision_names(net).items()})
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(
            net.eval()(images), reference.eval()(images), atol=1e-5, rtol=1e-5
        )


def test_initialised_as_torchvision(configure: Configure) -> None:
    """The same spread in every layer, which parity by copied weights does not show."""
    net = network(configure, "model=mobilenet_v2", "model.in_channels=3", "model.num_classes=1000")
    torch.manual_seed(0)
    theirs = torchvision.models.mobilenet_v2().state_dict()
    for name, their_name in torchvision_names(net).items():
        ours, their = net.state_dict()[name].float(), theirs[their_name].float()
        assert ours.shape == their.shape
        if ours.numel() > 1000:
            torch.testing.assert_close(ours.std(), their.std(), rtol=0.15, atol=1e-6)
        elif ours.numel() > 1:
            assert (ours.std() > 0) == (their.std() > 0)


@pytest.mark.parametrize(
    ("channels", "divisor", "expected"),
    [(32, 8, 32), (11.2, 8, 16), (24 * 0.75, 8, 24), (3, 8, 8), (33, 1, 33), (160 * 0.35, 8, 56)],
)
def test_make_divisible(channels: float, divisor: int, expected: int) -> None:
    """18 rounds to 16, which loses more than 10 %, hence 24."""
    assert make_divisible(channels, divisor) == expected


@pytest.mark.parametrize("width", [0.35, 0.5, 1.4])
def test_width_as_torchvision(width: float, configure: Configure) -> None:
    net = network(
        configure,
        "model=mobilenet_v2",
        f"model.width_mult={width}",
        "model.in_channels=3",
        "model.num_classes=1000",
    )
    reference = torchvision.models.mobilenet_v2(width_mult=width)
    assert sum(p.numel() for p in net.parameters()) == sum(
        p.numel() for p in reference.parameters()
    )


def test_expand_ratio_replaces_every_t_above_one(configure: Configure) -> None:
    net = network(configure, "model=mobilenet_v2", "model.expand_ratio=2")
    blocks = [m for m in net.modules() if isinstance(m, InvertedResidual)]
    assert isinstance(blocks[0].expand, nn.Identity)
    for block in blocks[1:]:
        conv = block.expand.get_submodule("conv")
        assert isinstance(conv, nn.Conv2d)
        assert conv.out_channels == 2 * conv.in_channels


@pytest.mark.parametrize(
    "override",
    [
        "model=mobilenet_v2",
        "model=mobilenet_v2_small",
        "model=tutorial",
        "model=mobilenet_v1",
        "model.shortcut=projection",
        "model.shortcut=none",
        "model.bottleneck_activation=relu6",
        "model.depthwise_activation=none",
    ],
)
def test_gradient_reaches_every_parameter(override: str, configure: Configure) -> None:
    torch.manual_seed(0)
    net = network(configure, override).train()
    images = torch.randn(8, 1, 28, 28)
    nn.functional.cross_entropy(net(images), torch.arange(8)).backward()
    without = [
        name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum()
    ]
    assert not without


def shortcuts(configure: Configure, choice: str) -> list[str]:
    net = network(configure, "model=mobilenet_v2", f"model.shortcut={choice}")
    return [type(m.shortcut).__name__ for m in net.modules() if isinstance(m, InvertedResidual)]


def test_shortcuts(configure: Configure) -> None:
    """10 of the paper's 17 blocks keep shape; "projection" gives the other 7 a convolution."""
    assert shortcuts(configure, "identity").count("Identity") == 10
    assert shortcuts(configure, "projection").count("Sequential") == 7
    assert set(shortcuts(configure, "none")) == {"NoneType"}


def test_linear_bottleneck_lets_negatives_through() -> None:
    torch.manual_seed(0)
    images = torch.randn(4, 8, 7, 7)

    def lowest(activation: str) -> Tensor:
        block = InvertedResidual(8, 16, stride=1, expand_ratio=6, bottleneck_activation=activation)
        return block(images).min()

    assert lowest("linear") < 0
    assert lowest("relu6") == 0


def test_strides_must_fit_the_table() -> None:
    with pytest.raises(ValueError, match="the stem and 1 stages need 2"):
        MobileNetV2(stages=[(1, 16, 1, 1)], strides=[1, 1, 1])


def test_peak_activations_by_hand() -> None:
    """Two convolutions at 4x4: 1 -> 2 -> 8 channels. The largest pair alive is the last one's."""
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 8, 1))
    costs = complexity.measure(net, in_channels=1, image_size=4)
    # The image is held throughout by the caller: 16 px; then 2 and 8 channels of 16 px, 4 bytes.
    assert costs.peak_activation_bytes == 4 * 16 * (1 + 2 + 8)
    assert costs.multiply_adds == 16 * (1 * 2 + 2 * 8)


@pytest.fixture
def cfg(configure: Configure) -> DictConfig:
    return configure()


def test_starts_at_chance(cfg: DictConfig) -> None:
    """ln 10 = 2.303: the fresh network knows nothing and is sure of nothing."""
    torch.manual_seed(0)
    net = build_network(cfg).eval()
    loss = nn.functional.cross_entropy(net(torch.randn(64, 1, 28, 28)), torch.arange(64) % 10)
    assert loss.item() == pytest.approx(2.303, abs=0.1)
