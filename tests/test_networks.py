"""The networks are the papers' and the tutorial's, layer by layer."""

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


def network(configure: Configure, *overrides: str) -> nn.Module:
    return build_network(configure(*overrides))


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


@pytest.fixture
def cfg(configure: Configure) -> DictConfig:
    return configure()


def test_starts_at_chance(cfg: DictConfig) -> None:
    """ln 10 = 2.303: the fresh network knows nothing and is sure of nothing."""
    torch.manual_seed(0)
    net = build_network(cfg).eval()
    loss = nn.functional.cross_entropy(net(torch.randn(64, 1, 28, 28)), torch.arange(64) % 10)
    assert loss.item() == pytest.approx(2.303, abs=0.1)
