"""format=page in node: its network and its preparation agree with torch."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mnv2_lightning.data.input_transform import InputTransform
from mnv2_lightning.formats import page, program
from mnv2_lightning.images.preparation import MNISTPreparation
from mnv2_lightning.networks.folding import fold_batch_norms
from mnv2_lightning.networks.mobilenet_v1 import MobileNetV1
from mnv2_lightning.networks.mobilenet_v2 import MobileNetV2
from mnv2_lightning.schema.errors import ConfigError
from mnv2_lightning.trained import TrainedNetwork
from tests import preparation_vectors
from tests.strokes import DIGITS, place, render

GREY, LOGITS = 1e-2, 1e-3  # largest differences: in grey levels, and of logits
needs_node = pytest.mark.skipif(not page.is_available(), reason="needs node")
VECTORS = preparation_vectors.read()
EXAMPLES = np.stack([render(place(DIGITS[i], 5, 4, 20), (28, 28), pen=2.5) for i in range(10)])


def network_v2(**options: Any) -> nn.Module:
    stages = [[1, 16, 1, 1], [6, 24, 2, 2]]
    return MobileNetV2(stages=stages, head_channels=40, width_mult=0.5, **options)


def tiny(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 6, 3, stride=3), *layers, nn.Flatten())


def model_of(
    network: nn.Module, *, crop: int = 28, size: int = 28, prepare: str = "mnist"
) -> TrainedNetwork:
    """With random weights, the statistics of the examples, and logits that tell them apart."""
    transform = InputTransform(crop=crop, image_size=size, mean=0.1307, std=0.3081)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight)
    with torch.no_grad():
        network.train()(transform(torch.from_numpy(EXAMPLES)[:, None] / 255))
    network = fold_batch_norms(network.eval().requires_grad_(False))
    classes = [str(i) for i in range(10)]
    return TrainedNetwork(network, classes, prepare, transform, Path("none"), {}, {})


def write(model: TrainedNetwork, path: Path, **metadata: Any) -> Path:
    page.write(model, path, metadata, EXAMPLES, np.arange(10))
    return path


ARCHITECTURES: dict[str, Any] = {
    "V2": lambda: model_of(network_v2()),
    "V1": lambda: model_of(MobileNetV1(layers=[[32, 1], [64, 2], [96, 2]], width_mult=0.5)),
    "projections": lambda: model_of(
        network_v2(shortcut="projection", stem_kernel=5, strides=[2, 2, 2])
    ),
    "32 px": lambda: model_of(network_v2(), size=32),
    "224 px": lambda: model_of(network_v2(strides=[2, 2, 2]), size=224),
    "crop": lambda: model_of(network_v2(), crop=24, size=24),
    "smaller": lambda: model_of(tiny(), crop=26, size=20),
    "plain": lambda: model_of(tiny(), prepare="plain"),
}


@needs_node
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_node_agrees_with_torch(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ARCHITECTURES[name]()
    path = write(model, tmp_path / "page.html")
    logits, seen = page.run(path, EXAMPLES)
    with torch.no_grad():
        wanted, wanted_seen = model.picture_classifier()(torch.from_numpy(EXAMPLES))
    assert wanted.std(0).max() > 10 * LOGITS  # the pictures are told apart
    assert np.abs(logits - wanted.numpy()).max() < LOGITS
    assert np.abs(seen - wanted_seen.numpy()).max() < GREY


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_in_torch(name: str) -> None:
    picture, seen = VECTORS[name]
    computed = MNISTPreparation()(torch.from_numpy(picture.copy())[None])[0]
    assert np.abs(computed.numpy() - seen).max() < GREY


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return write(model_of(network_v2()), tmp_path_factory.mktemp("page") / "page.html")


@needs_node
@pytest.mark.parametrize("name", VECTORS)
def test_vectors_in_node(name: str, path: Path) -> None:
    picture, wanted = VECTORS[name]
    _, seen = page.run(path, picture[None])
    assert np.abs(seen[0] - wanted).max() < GREY


@needs_node
def test_plain_is_resized_by_area(tmp_path: Path) -> None:
    path = write(model_of(tiny(), prepare="plain"), tmp_path / "page.html")
    picture = np.random.default_rng(0).integers(0, 256, (1, 84, 84))
    _, seen = page.run(path, picture)
    assert np.abs(seen[0] - picture[0].reshape(28, 3, 28, 3).mean((1, 3))).max() < GREY


def test_same_bytes(path: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    again = write(model_of(network_v2()), tmp_path / "again.html")
    assert path.read_bytes() == again.read_bytes()


def test_names_are_text(tmp_path: Path) -> None:
    """Those of a run's folder, which may be a stranger's."""
    model = model_of(tiny())
    model.classes[0] = "</script><script>alert(1)</script>"
    text = write(
        model, tmp_path / "page.html", run="<b>mine</b>", torch_accuracy=0.9941
    ).read_text()
    assert text.count("<script") == 3
    assert "alert(1)</script" not in text
    parts = ("Sequential", "test accuracy 99.41 %", "run &lt;b&gt;mine&lt;/b&gt;")
    assert f"<footer>{''.join(f'<span>{part}</span>' for part in parts)}</footer>" in text
    assert "default-src 'none';" in text
    assert not re.search(r"(src|href)=|url\(|https?:", text)  # nothing to load


class Formula(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = (x * 3 + 1) / 0.7 - 0.5
        return (x + y)[:, 1:, 2:, :-3].clamp(max=1.5)


class Shifted(nn.Module):
    """Adds a learned tensor, which the page's operators do not take."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.ones(1, 8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.shift


class Squared(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.GELU(), r"format=page: no operator for aten\.gelu; use another format"),
        (nn.MaxPool2d(2), "no operator for aten.max_pool2d_with_indices;"),
        (nn.ConvTranspose2d(1, 1, 3), "no operator for aten.convolution with these arguments;"),
        (Shifted(), "no operator for aten.add.Tensor with these arguments;"),
        (Squared(), "no operator for aten.mul.Tensor with these arguments;"),
        (Branch(), r"format=page: torch\.export cannot export the network \("),
    ],
)
def test_unknown_operator(layer: nn.Module, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^(format=page: )?{message}"):
        program.convert(layer.eval(), (1, 8, 8))


@needs_node
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 9, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2), groups=3),
        nn.Conv2d(6, 12, 3, padding=1, groups=6, bias=False),
        nn.Conv2d(6, 5, 1, padding=1),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 7, bias=False)),
        nn.Sequential(nn.Hardtanh(-0.1, 2), nn.Hardtanh()),
        nn.ReLU(),
        Formula(),
    ],
)
def test_operators(layer: nn.Module, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = model_of(tiny(layer))
    logits, _ = page.run(write(model, tmp_path / "page.html"), EXAMPLES[:2])
    with torch.no_grad():
        wanted, _ = model.picture_classifier()(torch.from_numpy(EXAMPLES[:2]))
    assert np.abs(logits - wanted.numpy()).max() < LOGITS


def test_without_node(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert not page.is_available()
    with pytest.raises(ConfigError, match=r"format=page: node, .*, is not installed"):
        page.run(path, EXAMPLES)


@needs_node
def test_script_that_fails(path: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text(path.read_text().replace("function add(", "function subtract("))
    with pytest.raises(ConfigError, match=r"broken\.html: the page's script failed in node: Refer"):
        page.run(broken, EXAMPLES)
