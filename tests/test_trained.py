"""A run's network in Python: `mnv2_lightning.load`."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import mnv2_lightning
from mnv2_lightning import build
from mnv2_lightning.networks.folding import fold_batch_norms
from mnv2_lightning.runs import checkpoints, stored_config
from mnv2_lightning.schema.errors import ConfigError
from mnv2_lightning.train import train
from mnv2_lightning.trained import TrainedNetwork
from tests.conftest import SMALL, Configure
from tests.conftest import load as load_checkpoint
from tests.test_own_parts import own

__all__ = ["own"]


def test_answers_are_those_of_an_evaluation(run: Path) -> None:
    """The data module's batches through the LightningModule, and its images through `transform`."""
    cfg = stored_config.config_to_evaluate(run, None)
    classifier = build.build_classifier(cfg, build.build_network(cfg)).eval()
    checkpoints.load_weights(classifier, run / "checkpoints" / "best.ckpt")
    data = build.build_datamodule(cfg)
    data.setup()
    images, _ = next(iter(data.test_dataloader()))
    model = mnv2_lightning.load(run, prepare="plain")
    x = model.transform(data.images("test")[: len(images)])
    torch.testing.assert_close(x, images)
    with torch.no_grad():
        torch.testing.assert_close(model.network(x), classifier(images), atol=1e-4, rtol=1e-4)


def test_batch_norms_are_folded_by_option(run: Path) -> None:
    x = torch.randn(8, 1, 28, 28)
    folded, plain = (mnv2_lightning.load(run, fold=fold) for fold in (True, False))
    has_norm = [
        any(isinstance(m, nn.BatchNorm2d) for m in model.network.modules())
        for model in (folded, plain)
    ]
    assert has_norm == [False, True]
    assert not plain.network.training
    torch.testing.assert_close(folded.network(x), plain.network(x), atol=1e-4, rtol=1e-4)
    assert not folded.network(x).requires_grad


def test_folding_leaves_other_layers_alone() -> None:
    network = nn.Sequential(
        nn.BatchNorm2d(1), nn.Conv2d(1, 2, 3), nn.ReLU(), nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1)
    ).eval()
    before = [type(layer) for layer in network]
    assert [type(layer) for layer in fold_batch_norms(network).children()] == before


def test_which_checkpoint(run: Path) -> None:
    model = mnv2_lightning.load(run, checkpoint="last", fold=False)
    assert model.checkpoint == run / "checkpoints" / "last.ckpt"
    weights = load_checkpoint(run)["state_dict"]
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(tensor, weights[f"network.{name}"]), name
    assert mnv2_lightning.load(run).checkpoint.stem == "best"
    assert mnv2_lightning.load(run).record["status"] == "finished"
    with pytest.raises(ConfigError, match="has no first checkpoint"):
        mnv2_lightning.load(run, checkpoint="first")


@pytest.fixture
def model(run: Path) -> TrainedNetwork:
    return mnv2_lightning.load(run)


@pytest.fixture
def seven() -> np.ndarray:
    """(60, 80) uint8: a dark stroke on light paper."""
    picture = np.full((60, 80), 230, np.uint8)
    picture[10:14, 30:50] = picture[10:50, 46:50] = 20
    return picture


def test_every_kind_of_picture_gives_the_same(model: TrainedNetwork, seven: np.ndarray) -> None:
    x = model.transform(seven)
    assert (x.shape, x.dtype) == ((1, 1, 28, 28), torch.float32)
    for other in (
        torch.tensor(seven),
        seven / 255,
        (seven / 255).astype(np.float32),
        seven.astype(np.int64),
        255 - seven,  # light ink on dark paper
        np.pad(seven, 7, mode="edge"),
        Image.fromarray(seven),
        Image.fromarray(seven).convert("RGB"),
    ):
        torch.testing.assert_close(model.transform(other), x, atol=1e-4, rtol=1e-4)
    batch = model.transform(np.stack([seven, seven[:, ::-1]]))
    assert batch.shape == (2, 1, 28, 28)
    torch.testing.assert_close(batch[:1], x)


def test_wrong_pictures(model: TrainedNetwork) -> None:
    for shape in ((3,), (1, 2, 3, 4), (60, 80, 3), (60, 80, 4)):
        with pytest.raises(ConfigError, match=r"\(H, W\) or \(B, H, W\)"):
            model.transform(np.zeros(shape, np.uint8))
    plain = replace(model, prepare="plain")
    with pytest.raises(ConfigError, match=r"must be of 28 x 28 px with prepare=plain"):
        plain.transform(np.zeros((60, 100), np.uint8))
    assert plain.transform(Image.new("L", (60, 100))).shape[-2:] == (28, 28)


def test_transform_leaves_the_network_in_its_mode(model: TrainedNetwork, seven: np.ndarray) -> None:
    model.network.train()
    try:
        model.transform(seven)
        assert model.network.training
    finally:
        model.network.eval()


def test_wrong_preparation(run: Path) -> None:
    with pytest.raises(ConfigError, match="prepare=MNIST: must be 'mnist' or 'plain'"):
        mnv2_lightning.load(run, prepare="MNIST")


def test_transform_is_that_of_the_run(
    configure: Configure, tmp_path: Path, seven: np.ndarray
) -> None:
    """The crop and size of the run's data; Fashion-MNIST's pictures are taken as they are."""
    ends = ("trainer.max_epochs=1", "trainer.limit_train_batches=1")
    for data in (["data.crop=24", "data.image_size=32"], ["data=fashion_mnist"]):
        train(configure(*SMALL, *ends, *data, run_dir=tmp_path / data[-1]))
    cropped = mnv2_lightning.load(tmp_path / "data.image_size=32")
    whole = mnist_form(seven, cropped)
    expected = F.interpolate((whole[..., 2:26, 2:26] - 0.1307) / 0.3081, (32, 32), mode="bilinear")
    torch.testing.assert_close(cropped.transform(seven), expected)
    plain = mnv2_lightning.load(tmp_path / "data=fashion_mnist")
    assert plain.prepare == "plain"
    assert plain.classes[1] == "Trouser"
    small = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    expected = (torch.tensor(small)[None, None] / 255 - 0.2860) / 0.3530
    torch.testing.assert_close(plain.transform(small), expected)


def mnist_form(picture: np.ndarray, model: TrainedNetwork) -> torch.Tensor:
    """(1, 1, 28, 28) in [0, 1]."""
    return model.picture_classifier().prepare(torch.tensor(picture)[None])[:, None] / 255


def test_needs_neither_lightning_nor_matplotlib(run: Path) -> None:
    """Their imports take seconds and 200 MB."""
    code = (
        f"import sys, mnv2_lightning; mnv2_lightning.load({str(run)!r}); "
        "print([m for m in ('lightning', 'matplotlib', 'torchvision') if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_a_network_of_ones_own(own: Path, configure: Configure) -> None:
    ends = ("trainer.max_epochs=1", "trainer.limit_train_batches=1")
    cfg = configure(*SMALL, *ends, run_dir=own / "run")
    cfg.model = {"_target_": "mine.networks.Net", "width": 8}
    train(cfg)
    with pytest.raises(ConfigError, match=r"add trust=\[mine\]"):
        mnv2_lightning.load(own / "run")
    model = mnv2_lightning.load(own / "run", trust=["mine"])
    assert model.network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        _ = mnv2_lightning.laod
