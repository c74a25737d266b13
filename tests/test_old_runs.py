"""Runs of earlier versions, whose configs name classes and callbacks as they were called then."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mnv2_lightning.runs import config
from mnv2_lightning.schema.models import BY_TARGET
from tests.conftest import Call, load, record

# Present -> earlier, as text of a config.
CALLBACKS = "mnv2_lightning.callbacks"
EARLIER = [
    {
        f"{CALLBACKS}.non_finite_guard.NonFiniteGuard": f"{CALLBACKS}.divergence.Divergence",
        f"{CALLBACKS}.test_images.TestImages": f"{CALLBACKS}.pictures.Pictures",
        f"{CALLBACKS}.model_checkpoint.Checkpoint": f"{CALLBACKS}.checkpoint.Checkpoint",
        "non_finite_guard": "divergence",
        "test_images": "pictures",
    },
    {
        "NonFiniteGuard": "Divergence",
        f"{CALLBACKS}.test_images.TestImages": f"{CALLBACKS}.pictures.Pictures",
        "test_images": "pictures",
    },
]


def test_new_names_are_those_of_classes() -> None:
    assert set(config.RENAMED_TARGETS.values()) <= BY_TARGET.keys()
    assert not set(config.RENAMED_TARGETS) & BY_TARGET.keys()


@pytest.mark.parametrize("names", EARLIER)
def test_it_is_evaluated_and_resumed(
    names: dict[str, str], run: Path, call: Call, tmp_path: Path
) -> None:
    def rename(text: str) -> str:
        for name, earlier in names.items():
            text = text.replace(name, earlier)
        return text

    old = tmp_path / "old"
    shutil.copytree(run, old)
    (old / "config.yaml").write_text(rename((old / "config.yaml").read_text()))
    for name in ("best", "last", "previous"):
        content: dict[str, Any] = load(old, name)
        content["hyper_parameters"] = json.loads(rename(json.dumps(content["hyper_parameters"])))
        torch.save(content, old / "checkpoints" / f"{name}.ckpt")
    (old / "checkpoints" / "manifest.json").write_text("{}")  # of checksums; ignored

    assert call("evaluate", "run_dir=old").status == 0
    accuracy = json.loads((old / "evaluation" / "best-test.json").read_text())["accuracy"]
    assert accuracy == record(run)["test_accuracy"]
    ended = call("train", "resume=old", "trainer.max_epochs=3")
    assert ended.status == 0, ended.err
    assert "resumes after epoch 2" in ended.out
    assert record(old)["epochs"] == 3
    assert "callbacks.non_finite_guard.NonFiniteGuard" in (old / "config.yaml").read_text()
