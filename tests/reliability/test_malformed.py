"""What is no checkpoint, record or config of a run, though it can be read: one line says so."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.conftest import Call, record


def without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda content: {k: v for k, v in content.items() if k != key}


def with_weights(weights: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content | {"state_dict": weights}


CHECKPOINTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda content: [content],
    "no epoch": without("epoch"),
    "no step": without("global_step"),
    "no weights": without("state_dict"),
    "a text for an epoch": lambda content: content | {"epoch": "1"},
    "a list of weights": with_weights([]),
    "other weights": with_weights({"x": torch.zeros(1)}),
    "weights without names": with_weights({1: torch.zeros(1)}),
    "weights that are none": with_weights({"network.stem.0.weight": "x"}),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_checkpoints_that_are_none(kind: str, run: Path, call: Call, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    for name in ("last", "best"):
        path = tmp_path / "run" / "checkpoints" / f"{name}.ckpt"
        torch.save(CHECKPOINTS[kind](torch.load(path, weights_only=True)), path)
    ended = call("evaluate", "run_dir=run")
    assert (ended.status, ended.err.count("\n")) == (2, 1), ended.err
    assert "best.ckpt: " in ended.err
    if kind in list(CHECKPOINTS)[:6]:  # the Trainer loads the weights
        ended = call("train", "resume=run", "trainer.max_epochs=3")
        assert (ended.status, ended.err.count("\n")) == (2, 1), ended.err
        assert "last.ckpt: " in ended.err


@pytest.mark.parametrize("content", ["{", "[1]", "1", '"finished"', "", "\xff"])
def test_a_record_that_is_none(content: str, run: Path, call: Call, tmp_path: Path) -> None:
    """The run goes on as one that has not ended."""
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "result.json").write_bytes(content.encode("latin-1"))
    ended = call("train", "resume=run")
    assert ended.status == 0, ended.err
    assert record(tmp_path / "run")["status"] == "finished"


PLAIN: dict[str, str] = {
    "a circle": "x: &x {y: *x}",
    "a date": "x: 2020-01-01",
    "bytes": "x: !!binary aGk=",
    "a set": "x: !!set {a}",
    "a list": "- 1",
    "a deep list": "x: " + "[" * 5000,
    "an interpolation": 'seed: "\\x24{data.seed}"',
    "null for a key": "x: {null: 1}",
    "empty": "",
}


@pytest.mark.parametrize("kind", PLAIN)
def test_configs_that_are_none(kind: str, run: Path, call: Call, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    kept = "" if kind in ("a list", "empty") else path.read_text()
    path.write_text(kept + PLAIN[kind] + "\n")
    for args in (("evaluate", "run_dir=run"), ("train", "resume=run")):
        ended = call(*args)
        assert (ended.status, ended.err.count("\n")) == (2, 1), ended.err
        assert "config.yaml: " in ended.err


PARTS: dict[str, dict[str, Any]] = {
    "no class": {"model": {}},
    "a list for a class": {"model": {"_target_": []}},
    "a list for a class within": {"optimizer.x": {"_target_": []}},
    "a class of another part": {"trainer": {"_target_": "torch.optim.SGD"}},
    "nothing of what data have": {"data": {"_target_": "mnv2_lightning.data.affine.RandomAffine"}},
    "a callback without a class": {"callbacks.x": {"monitor": "val/loss"}},
    "a strategy without a class": {"trainer.strategy": {}},
    "a network that cannot be made": {
        "model": {
            "_target_": "mnv2_lightning.networks.blocks.conv_norm",
            "in_channels": 1,
            "out_channels": 0.5,
        }
    },
    "a plugin that is none": {
        "trainer.plugins": {
            "_target_": "mnv2_lightning.networks.blocks.make_divisible",
            "channels": 1,
            "divisor": 1,
        }
    },
}


@pytest.mark.parametrize("kind", PARTS)
def test_configs_with_a_part_that_is_none(kind: str, run: Path, call: Call, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    for part, node in PARTS[kind].items():
        within, _, key = part.rpartition(".")
        (config[within] if within else config)[key] = node
    path.write_text(yaml.safe_dump(config))
    for args in (("evaluate", "run_dir=run"), ("train", "resume=run", "trainer.max_epochs=9")):
        ended = call(*args)
        assert (ended.status, ended.err.count("\n")) == (2, 1), ended.err
