"""The check of a network without data: each message names the key to change, where one does it."""

import re
from collections.abc import Callable

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from mnv2_lightning import build
from mnv2_lightning.schema.errors import ConfigError
from tests.conftest import Configure


class Of(nn.Module):
    """A network from a function of the images."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> object:
        return self.function(images)


class Mine(LightningModule):
    def test_step(self, batch: object) -> None:
        pass


def fails(images: Tensor) -> Tensor:
    if images.shape[-1] != 224:
        raise AssertionError
    return images.new_empty(len(images), 10)


def linear(pixels: int, classes: int = 10) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes))


def large_kernel() -> nn.Module:
    pool = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(nn.Conv2d(1, 4, 40), pool, nn.Flatten(), nn.Linear(4, 10))


WRONG: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "another size": (
        lambda: linear(32 * 32),
        r"data.image_size=28: Sequential: .*2, 784.* X .*1024, 10.*; data.image_size=32 would fit",
    ),
    "a kernel larger than the image": (
        large_kernel,
        "data.image_size=28: Sequential: Calculated padded .*; data.image_size=48 would fit",
    ),
    "an assertion without a message": (
        lambda: Of(fails),
        "data.image_size=28: Of: AssertionError; data.image_size=224 would fit",
    ),
    "channels": (
        lambda: nn.Sequential(nn.Conv2d(3, 10, 28), nn.Flatten()),
        r"model: Sequential takes images of 3 channels, not of 1",
    ),
    "classes": (
        lambda: linear(784, 7),
        r"model: Sequential returns \(2, 7\) for a batch of 2, not \(2, 10\)",
    ),
    "maps": (
        lambda: nn.Conv2d(1, 10, 3, padding=1),
        r"model: Conv2d returns \(2, 10, 28, 28\) for a batch of 2, not \(2, 10\)",
    ),
    "a tuple": (
        lambda: Of(lambda x: (x, x)),
        r"model: Of returns tuple for a batch of 2, not \(2, 10\)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_network(name: str, configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    network, message = WRONG[name]
    monkeypatch.setattr(build, "build_network", lambda cfg: network())
    with pytest.raises(ConfigError) as error:
        build.check_parts(configure())
    assert re.fullmatch(message, str(error.value))


def test_one_image(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why it is too few, if it is."""
    assert build.check_parts(configure("model=mobilenet_v2")) is None
    needs_two = build.check_parts(configure("model=mobilenet_v1"))
    assert needs_two is not None
    assert needs_two.startswith("batch norm needs two values a channel or more")
    squeezed = Of(lambda x: torch.zeros(len(x), 10).squeeze())
    monkeypatch.setattr(build, "build_network", lambda cfg: squeezed)
    assert build.check_parts(configure()) == "Of returns (10,) for a batch of 1, not (1, 10)"


def test_outputs_for_a_module_of_the_users_own(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "build_network", lambda cfg: linear(784, 3))
    cfg = configure()
    cfg.classifier = {"_target_": f"{__name__}.Mine"}
    assert build.check_parts(cfg) is None


def test_a_key_in_the_networks_own_message(configure: Configure) -> None:
    with pytest.raises(ConfigError, match=r"^model\.strides=\[1\]: 1 strides; the stem and"):
        build.check_parts(configure("model.strides=[1]"))
