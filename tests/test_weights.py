"""`model.weights`: training starts from the weights of a trained network."""

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from mnv2_lightning import build, compose
from mnv2_lightning.runs import pretrained
from mnv2_lightning.runs.config import config_hash, plain, reproducibility_config
from mnv2_lightning.train import train
from tests.conftest import SMALL, Call, Configure, load, record
from tests.reliability.test_strangers import Payload

Weights = dict[str, Tensor]
ONE = (*SMALL, "trainer.max_epochs=1", "optimizer.lr=1e-9", "callbacks.test_images=null")


@pytest.fixture
def trained(
    keep: dict[str, Path], configure: Configure, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished run that is better than chance, which that of `run` is not yet."""
    if "trained" not in keep:
        folder = tmp_path_factory.mktemp("trained") / "a"
        cfg = configure(*SMALL, "trainer.max_epochs=6", "optimizer.lr=0.3", run_dir=folder)
        assert train(cfg)["val_accuracy"] > 0.5
        keep["trained"] = folder
    return keep["trained"]


def of_network(checkpoint: dict[str, Any]) -> Weights:
    """Its weights, by the network's names."""
    return {k.removeprefix("network."): v for k, v in checkpoint["state_dict"].items()}


def started(configure: Configure, path: Path, *overrides: str) -> tuple[Weights, Weights, str]:
    """The weights of a network before and after it was loaded from `path`; the message."""
    cfg = configure(*SMALL, f"model.weights={path}", *overrides)
    pretrained.identify(cfg)
    torch.manual_seed(1)
    network = build.build_network(cfg)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    message = pretrained.load(network, cfg)
    assert message is not None
    return before, network.state_dict(), message


def equal(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_of_a_run(run: Path, configure: Configure, tmp_path: Path) -> None:
    """The averaged weights of the best checkpoint, else of the last, as `test` takes them."""
    best, last = load(run, "best"), load(run)
    assert "averaging_state" in last
    assert not equal(of_network(last), {**of_network(last), **of_network(best)})
    before, after, message = started(configure, run)
    assert equal(after, of_network(best))
    assert not equal(before, after)
    count = len(after)
    path = run / "checkpoints" / "best.ckpt"
    assert message == f"model.weights: {count} of {count} tensors from {path}"

    shutil.copytree(run, tmp_path / "copy")
    (tmp_path / "copy" / "checkpoints" / "best.ckpt").unlink()
    assert equal(started(configure, tmp_path / "copy")[1], of_network(last))


FORMS: dict[str, Callable[[Weights], Any]] = {
    "a plain state_dict": lambda weights: weights,
    "of nn.DataParallel": lambda weights: {f"module.{k}": v for k, v in weights.items()},
    "of another LightningModule, compiled": lambda weights: {
        "state_dict": {f"model._orig_mod.{k}": v for k, v in weights.items()}
        | {"loss.weight": torch.ones(3), "model_ema.decay": torch.ones(())},
        "epoch": 3,
    },
    "half precision": lambda weights: {k: v.to(torch.float16) for k, v in weights.items()},
}


@pytest.mark.parametrize("form", FORMS)
def test_of_a_file(form: str, configure: Configure, tmp_path: Path) -> None:
    torch.manual_seed(2)
    weights = build.build_network(configure(*SMALL)).state_dict()
    torch.save(FORMS[form](weights), tmp_path / "x.pt")
    after = started(configure, tmp_path / "x.pt")[1]
    for name, tensor in after.items():
        assert tensor.dtype == weights[name].dtype
        torch.testing.assert_close(tensor, weights[name], rtol=1e-3, atol=1e-6)


def test_another_number_of_classes(run: Path, configure: Configure) -> None:
    """The last layer keeps its initial values."""
    three = ("data.classes=[a,b,c]", "data.dataset=mine")
    before, after, message = started(configure, run, *three)
    new = {"classifier.1.weight", "classifier.1.bias"}
    best = of_network(load(run, "best"))
    assert after["classifier.1.weight"].shape[0] == 3
    for name, tensor in after.items():
        assert torch.equal(tensor, (before if name in new else best)[name]), name
    count = len(after)
    assert message.startswith(f"model.weights: {count - 2} of {count} tensors from ")
    end = "; classifier.1 keeps its initial values, as it has 3 classes, not 10"
    assert message.endswith(end)


def test_fine_tuned(trained: Path, call: Call, tmp_path: Path) -> None:
    """Accurate from the first epoch; on another data set, of the same images here."""
    ended = call("train", *ONE, "data=fashion_mnist", f"model.weights={trained}", "hydra.run.dir=a")
    assert ended.status == 0, ended.err
    assert f"tensors from {trained / 'checkpoints' / 'best.ckpt'}\n" in ended.out
    assert record(tmp_path / "a")["val_accuracy"] == pytest.approx(record(trained)["val_accuracy"])
    call("train", *ONE, "data=fashion_mnist", "hydra.run.dir=b")
    assert record(tmp_path / "b")["val_accuracy"] < 0.3
    config = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    assert config["model"]["weights"] == str(trained / "checkpoints" / "best.ckpt")
    assert record(tmp_path / "a")["weights_sha256"] == config["weights_sha256"]
    assert record(tmp_path / "b")["weights_sha256"] is None


Change = Callable[[dict[str, Any]], object]
BAD: dict[str, tuple[Change, str]] = {
    "missing": (lambda w: w.pop("stem.conv.weight"), "the file has no stem.conv.weight"),
    "more": (lambda w: w.update(x=torch.ones(1)), "the network has no x"),
    "shape": (
        lambda w: w.update({"stem.norm.bias": torch.ones(3)}),
        r"stem.norm.bias has the shape \(3,\), and the network's \(8,\)",
    ),
    "the head's inputs": (
        lambda w: w.update({"classifier.1.weight": torch.ones(7, 3)}),
        r"classifier.1.weight has the shape \(7, 3\), and the network's \(10, 256\)",
    ),
    "the head, and more": (
        lambda w: w.update(
            {"classifier.1.weight": torch.ones(7, 256), "head.norm.bias": torch.ones(7)}
        ),
        r"head.norm.bias has the shape \(7,\), and the network's \(256,\)",
    ),
    "nothing": (lambda w: w.clear(), "the file has no stem.conv.weight"),
    "no tensors": (lambda w: w.update(dict.fromkeys(w, 1)), "the file has no stem.conv.weight"),
    "no dict": (lambda w: w.update(state_dict=[]), "its state_dict is a list"),
    "code": (lambda w: w.update(x=Payload(Path("fired"))), "not a checkpoint"),
}


@pytest.mark.parametrize("kind", BAD)
def test_files_that_do_not_fit(kind: str, configure: Configure, call: Call, tmp_path: Path) -> None:
    """One line, before a folder is made."""
    change, message = BAD[kind]
    weights: dict[str, Any] = dict(build.build_network(configure(*SMALL)).state_dict())
    change(weights)
    torch.save(weights, tmp_path / "x.pt")
    ended = call("train", *ONE, "model.weights=x.pt")
    assert ended.status == 2
    assert re.fullmatch(rf"error: .*{tmp_path / 'x.pt'}: .*{message}.*\n", ended.err), ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


@pytest.mark.parametrize(
    ("value", "status", "message"),
    [
        ("nowhere", 2, "model.weights=nowhere: there is no such file or folder"),
        ("https://a/b", 2, "model.weights=https://a/b: there is no such file or folder"),
        ("", 2, "model.weights is empty; give it a value"),
        ("{a:1}", 2, "model.weights=.*: there is no such file or folder"),
        ("empty", 2, "model.weights=empty: not a run's folder"),
        ("text", 4, "text: damaged"),
    ],
)
def test_not_a_file(value: str, status: int, message: str, call: Call, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("weights")
    ended = call("train", *ONE, f"model.weights={value}")
    assert ended.status == status
    assert re.search(message, ended.err), ended.err
    assert ended.err.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "text"}


def test_the_file_counts_and_not_its_place(run: Path, call: Call, tmp_path: Path) -> None:
    best = run / "checkpoints" / "best.ckpt"
    for name in ("a.ckpt", "b.ckpt"):
        shutil.copy(best, tmp_path / name)
    command = ("train", *ONE, "hydra.run.dir=run")
    assert call(*command, "model.weights=a.ckpt").status == 0
    assert "already finished" in call(*command, "model.weights=b.ckpt").out
    shutil.copy(run / "checkpoints" / "last.ckpt", tmp_path / "a.ckpt")
    for other in ("model.weights=a.ckpt", "model.weights=null"):
        ended = call(*command, other)
        assert ended.status == 2
        assert "run: holds a run with model.weights=" in ended.err
    config = plain(compose("train", ["model.weights=b.ckpt"]))
    assert config_hash(config) != config_hash(plain(compose("train")))
    assert (
        not {"model.weights", "weights_sha256"}
        & reproducibility_config(plain(compose("train"))).keys()
    )  # the hash of a run without it is that of earlier versions


def test_resumed(run: Path, call: Call, tmp_path: Path) -> None:
    """From a checkpoint, without the file; from the beginning, with the same file."""
    path = tmp_path / "a.ckpt"
    shutil.copy(run / "checkpoints" / "best.ckpt", path)
    assert call("train", *ONE, "model.weights=a.ckpt", "hydra.run.dir=run").status == 0
    path.rename(tmp_path / "b.ckpt")
    assert call("train", "resume=run", "trainer.max_epochs=2").status == 0
    assert call("evaluate", "run_dir=run").status == 0

    resume = ("train", "resume=run", "trainer.max_epochs=2")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "result.json").unlink()
    (tmp_path / "run" / "metrics.csv").unlink()
    ended = call(*resume)
    assert ended.status == 2
    assert ended.err.startswith(f"error: model.weights={path}: there is no such file, and the run")
    ended = call(*resume, f"model.weights={run / 'checkpoints' / 'last.ckpt'}")
    assert ended.status == 2
    assert "cannot change when a run is resumed" in ended.err
    shutil.copy(run / "checkpoints" / "last.ckpt", path)
    ended = call(*resume)
    assert ended.status == 2
    assert ended.err.startswith(f"error: {path}: not the file of the run's config")
    ended = call(*resume, "model.weights=b.ckpt")
    assert ended.status == 0, ended.err
    assert "tensors from" in ended.out


def test_a_strangers(
    run: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that the config of a run's folder names is not opened, unless it is the one that the
    run has started from, and is needed.
    """
    secret = tmp_path / "secret"
    torch.save({"x": Payload(tmp_path / "fired")}, secret)
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["model"]["weights"] = str(secret)
    path.write_text(yaml.safe_dump(config))
    for name in ("last", "best"):
        content = load(tmp_path / "run", name)
        content["hyper_parameters"]["model"]["weights"] = str(secret)
        torch.save(content, tmp_path / "run" / "checkpoints" / f"{name}.ckpt")
    secret.rename(tmp_path / "moved")  # it is not even looked for
    assert call("evaluate", "run_dir=run").status == 0
    assert call("train", "resume=run", "trainer.max_epochs=3").status == 0
    (tmp_path / "moved").rename(secret)
    for part in ("checkpoints", "metrics.csv", "result.json"):
        remove = shutil.rmtree if part == "checkpoints" else Path.unlink
        remove(tmp_path / "run" / part)
    ended = call("train", "resume=run")
    assert ended.status == 2
    assert ended.err.startswith(f"error: {secret}: not the file of the run's config")
    assert not (tmp_path / "fired").exists()


NETWORKS = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(784, 10))

class Other(Net):
    def __init__(self, weights: str = "none"):
        super().__init__()
        self.weights = weights
"""


def test_a_network_of_ones_own(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose class has no parameter of that name; where it has one, it is the class's own."""
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("nets", None)
    (tmp_path / "nets.py").write_text(NETWORKS)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    for name in ("Net", "Other"):
        file = tmp_path / "conf" / "model" / f"{name.lower()}.yaml"
        file.write_text(f"_target_: nets.{name}\n")
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).state_dict(), "x.pt")
    short = [o for o in ONE if not o.startswith("model")]
    command = ("train", "--config-dir=conf", *short)
    ended = call(*command, "model=net", "+model.weights=x.pt", "hydra.run.dir=a")
    assert ended.status == 0, ended.err
    assert f"model.weights: 2 of 2 tensors from {tmp_path / 'x.pt'}" in ended.out
    assert call("evaluate", "run_dir=a", "trust=[nets]").status == 0
    ended = call(*command, "model=other", "+model.weights=DEFAULT", "hydra.run.dir=b")
    assert ended.status == 0, ended.err
    assert "model.weights" not in ended.out
    assert record(tmp_path / "b")["weights_sha256"] is None
    sys.modules.pop("nets", None)


@pytest.mark.slow
def test_a_sweep_and_a_search(trained: Path, call: Call, tmp_path: Path) -> None:
    for name in ("best", "last"):
        shutil.copy(trained / "checkpoints" / f"{name}.ckpt", tmp_path)
    ended = call("train", "-m", *ONE, "model.weights=best.ckpt,last.ckpt,null", "sweep=s")
    assert ended.status == 0, ended.err
    jobs = [tmp_path / "outputs" / "sweeps" / "s" / f"weights-{x}" for x in ("best.ckpt", "null")]
    assert [record(job)["val_accuracy"] > 0.5 for job in jobs] == [True, False]
    few = ("~search.space.optimizer", "~search.space.model", "search.trials=1", "search.name=s")
    space = "+search.space.classifier.label_smoothing.choices=[0.0,0.1]"
    search = ("search", *ONE, *few, space)
    ended = call(*search, "model.weights=best.ckpt")
    assert ended.status == 0, ended.err
    shutil.copy(tmp_path / "last.ckpt", tmp_path / "best.ckpt")
    assert "is a search with model.weights=" in call(*search, "model.weights=best.ckpt").err


def test_from_python(trained: Path, configure: Configure, tmp_path: Path) -> None:
    """Also where it is set after the config was composed."""
    cfg = configure(*ONE)
    cfg.model.weights = str(trained)
    result = train(cfg)
    assert result["val_accuracy"] > 0.5
    assert result["weights_sha256"] is not None
    assert cfg.weights_sha256 is None
