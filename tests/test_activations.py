"""Positive channels and bottlenecks of a network, and the command that shows them."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from mnv2_lightning import trained
from mnv2_lightning.activations import initial_network
from mnv2_lightning.networks import bottlenecks
from mnv2_lightning.networks.mobilenet_v2 import MobileNetV2
from mnv2_lightning.train import train
from tests.conftest import FULL, Call, Configure


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    stages = [[1, 8, 1, 1], [3, 12, 2, 2]]
    return MobileNetV2(stages=stages, head_channels=16, stem_channels=8).train().eval()


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(5, 1, 16, 16), torch.arange(5)) for _ in range(2)]


def test_positive_shares(network: Any, batches: list[tuple[Tensor, Tensor]]) -> None:
    """As counted at every position by hand; a block with t = 1 has no expansion."""
    inputs = [x for x, _ in batches]
    found = bottlenecks.positive_shares(network, inputs)
    assert [share.block for share in found] == ["stages.1.0", "stages.1.1"]
    with torch.no_grad():
        before = torch.cat([network.stages[0](network.stem(x)) for x in inputs])
        block = network.stages[1][0]
        x = block.expand.norm(block.expand.conv(before))
    shares = (x > 0).float().mean(1)
    first = found[0]
    assert (first.in_channels, first.channels, first.threshold) == (8, 24, pytest.approx(1 / 3))
    assert first.mean == pytest.approx(float(shares.mean()), abs=1e-6)
    assert first.deviation == pytest.approx(float(shares.std(unbiased=False)), abs=1e-6)
    assert (first.least, first.most) == pytest.approx((float(shares.min()), float(shares.max())))
    assert first.below == pytest.approx(float((shares < 1 / 3 - 1e-6).float().mean()), abs=1e-6)


def test_bottleneck(network: Any, batches: list[tuple[Tensor, Tensor]]) -> None:
    found = bottlenecks.losses(network, [x for x, _ in batches])[-1]
    with bottlenecks.relu6_after(["stages.1.1"], network):
        accuracy = bottlenecks.accuracy(network, batches)
    features = bottlenecks.features(network, "stages.1.1", [x for x, _ in batches], side=2)
    with torch.no_grad():
        block = network.stages[1][1]
        before = torch.cat(
            [network.stages[1][0](network.stages[0](network.stem(x))) for x, _ in batches]
        )
        y = block.project(block.depthwise(block.expand(before)))
        rest = network.head(before + y.clamp(0, 6))
        logits = network.classifier(network.pool(rest).flatten(1))
    labels = torch.cat([labels for _, labels in batches])
    assert found.channels == 16
    assert found.negative == pytest.approx(float((y < 0).float().mean()))
    assert found.above_6 == pytest.approx(float((y > 6).float().mean()))
    lost = (y - y.clamp(0, 6)).square().sum() / y.square().sum()
    assert found.lost == pytest.approx(float(lost), rel=1e-5)
    assert accuracy == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    for pooled, of in zip(features, (y, y.clamp(0, 6)), strict=True):
        assert torch.allclose(pooled, F.adaptive_avg_pool2d(of, 2).flatten(1), atol=1e-6)


def test_a_measurement_leaves_the_network_alone(
    network: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> None:
    x, labels = batches[0]
    before = network(x)
    wrong = [x[:, :, :0]]
    for measure in (
        lambda: bottlenecks.losses(network, wrong),
        lambda: bottlenecks.positive_shares(network, wrong),
        lambda: bottlenecks.features(network, "stages.0.0", wrong),
    ):
        with pytest.raises(RuntimeError):
            measure()
    with pytest.raises(RuntimeError), bottlenecks.relu6_after(["stages.0.0"], network):
        bottlenecks.accuracy(network, [(wrong[0], labels)])
    assert torch.equal(network(x), before)


class Initial(Callback):
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        network: Any = pl_module.network
        self.weights = {name: w.clone() for name, w in network.state_dict().items()}


def test_initial_weights_are_the_runs(configure: Configure, tmp_path: Path) -> None:
    train(configure(*FULL, "seed=3", "trainer.max_steps=1"), [initial := Initial()])
    again = initial_network(trained.load(tmp_path / "run", fold=False)).state_dict()
    assert initial.weights.keys() == again.keys()
    assert all(torch.equal(again[name], weight) for name, weight in initial.weights.items())


def test_the_command(call: Call, copied: Path) -> None:
    ended = call("activations", f"run_dir={copied}")
    assert ended.status == 0, ended.err
    folder = copied / "activations"
    found = json.loads((folder / "activations.json").read_text())
    assert (folder / "activations.png").stat().st_size > 20_000
    assert len(found["bottlenecks"]) == 6
    assert len(found["positive"]["initial"]) == len(found["positive"]["trained"]) == 5
    record = json.loads((copied / "result.json").read_text())
    assert found["accuracy"] == pytest.approx(record["test_accuracy"])


def test_initial_weights_may_be_trained_ones(
    configure: Configure, run: Path, tmp_path: Path
) -> None:
    """Those of `model.weights`."""
    train(configure(*FULL, f"model.weights={run}", "trainer.max_steps=1", "model.dropout=0.1"))
    again = initial_network(trained.load(tmp_path / "run", fold=False)).state_dict()
    source = trained.load(run, fold=False).network.state_dict()
    assert all(torch.equal(again[name], source[name]) for name in source)


def test_few_images_in_whole_batches(call: Call, copied: Path, tmp_path: Path) -> None:
    ended = call("activations", f"run_dir={copied}", "images=51", f"out={tmp_path / 'a'}")
    assert ended.status == 0, ended.err
    assert json.loads((tmp_path / "a" / "activations.json").read_text())["images"] == 51


def test_blocks_without_expansion(call: Call, tmp_path: Path) -> None:
    short = (*FULL, "model.expand_ratio=1", "trainer.max_steps=1", "hydra.run.dir=flat")
    assert call("train", *short).status == 0
    ended = call("activations", "run_dir=flat")
    assert ended.status == 0, ended.err
    assert json.loads((tmp_path / "flat/activations/activations.json").read_text())["positive"] == {
        "initial": [],
        "trained": [],
    }


def test_only_of_inverted_residuals(call: Call, tmp_path: Path) -> None:
    short = ("data.batch_size=50", "data.val_size=100", "trainer.max_steps=1")
    assert call("train", "model=mobilenet_v1_small", *short, "hydra.run.dir=v1").status == 0
    ended = call("activations", "run_dir=v1")
    assert (ended.status, ended.err) == (
        2,
        "error: run_dir=v1: its network has no inverted residuals\n",
    )
