"""Damaged checkpoints: each is named, and the newest whole one is taken."""

import io
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mnv2_lightning.classifier import Classifier
from mnv2_lightning.runs import checkpoints, folder
from mnv2_lightning.schema.errors import ConfigError, Diverged, StorageError
from mnv2_lightning.train import train
from tests.conftest import SMALL, Call, Configure, load, record
from tests.reliability.conftest import Reliability
from tests.reliability.test_mirrors import DAMAGE
from tests.reliability.test_writer import epoch_ends
from tests.test_resume import assert_same, comparable, resumed


def another_runs(raw: bytes) -> bytes:
    """A whole checkpoint whose run had another learning rate."""
    content = torch.load(io.BytesIO(raw), weights_only=True)
    content["hyper_parameters"]["optimizer"]["lr"] *= 2
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


@pytest.mark.parametrize("damage", DAMAGE)
def test_every_mutation_is_detected(
    damage: str, run: Path, tmp_path: Path, reliability: Reliability
) -> None:
    """By the CRC-32 of the file's members and the config in it, or else the content is the same."""
    rng = random.Random(damage)
    folder = tmp_path / "checkpoints"
    shutil.copytree(run / "checkpoints", folder)
    raw = (folder / "last.ckpt").read_bytes()
    shutil.copy(run / "config.yaml", tmp_path)
    other = another_runs(raw)
    rounds, detected, harmless = reliability.rounds(5, 50), 0, 0
    for _ in range(rounds):
        bad = DAMAGE[damage](raw, other, rng)
        (folder / "last.ckpt").write_bytes(bad)
        if checkpoints.newest(tmp_path) == folder / "previous.ckpt":
            detected += 1
        else:  # of padding, say, which nothing reads
            assert_same(checkpoints.read(folder / "last.ckpt"), load(run))
            harmless += 1
    found = reliability.found.setdefault("mutations", {"cases": 0, "detected": 0, "harmless": 0})
    found["cases"] += rounds
    found["detected"] += detected
    found["harmless"] += harmless
    assert detected + harmless == rounds


def test_goes_on_from_the_newest_whole_one(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """To the same bits; the damaged one is named, and kept by another name."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    still = ("scheduler=constant", "trainer.max_epochs=3")
    train(configure(*SMALL, *still, run_dir=whole))
    train(configure(*SMALL, *still, "trainer.max_epochs=2", run_dir=cut))
    path = cut / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:-1])
    train(resumed(cut, "trainer.max_epochs=3"))
    assert (cut / "checkpoints" / "last.damaged").is_file()
    assert caplog.text.count("last.ckpt: damaged") == 1
    assert_same(comparable(load(cut)), comparable(load(whole)))
    assert record(cut)["test_loss"] == record(whole)["test_loss"]


def test_none_is_whole(run: Path, call: Call, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("*.ckpt"):
        path.write_bytes(b"")
    ended = call("train", "resume=run", "trainer.max_epochs=9")
    assert ended.status == 4
    assert ended.err.count("\n") == 1
    assert "no checkpoint is whole (last.ckpt, previous.ckpt, best.ckpt)" in ended.err
    ended = call("evaluate", "run_dir=run")
    assert ended.status == 4
    assert "best.ckpt: damaged" in ended.err


def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read"):
        checkpoints.read(tmp_path / "checkpoints" / "last.ckpt")


def test_the_newest_of_the_rest_is_taken(tmp_path: Path) -> None:
    """The best may be newer than the one before the last."""
    epoch_ends(0, tmp_path)
    epoch_ends(1, tmp_path)
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"")
    assert checkpoints.newest(tmp_path) == tmp_path / "checkpoints" / "best.ckpt"


@pytest.mark.parametrize("gone", ["checkpoints", "*.ckpt"])
def test_checkpoints_that_are_gone(gone: str, run: Path, call: Call, tmp_path: Path) -> None:
    """The run does not begin again as if it had never been."""
    shutil.copytree(run, tmp_path / "run")
    for path in [*(tmp_path / "run").glob(gone), *(tmp_path / "run" / "checkpoints").glob(gone)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = (tmp_path / "run" / "metrics.csv").read_bytes()
    ended = call("train", "resume=run", "trainer.max_epochs=9")
    assert ended.status == 4
    assert "the run's checkpoints are gone" in ended.err
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_damaged_best(
    is_damaged: bool, configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a metric that falls: an intact best stays the best; a damaged one is named, and replaced
    by the best of the following epochs.
    """

    def falls(self: Classifier, batch: object, batch_idx: int) -> None:
        self.log("val/accuracy", 1.0 - self.current_epoch / 10)

    still = (*SMALL, "scheduler=constant", "trainer.limit_test_batches=0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "validation_step", falls)
        train(configure(*still, "trainer.max_epochs=1", run_dir=tmp_path))
        path = tmp_path / "checkpoints" / "best.ckpt"
        path.write_bytes(path.read_bytes()[: -2 if is_damaged else None])
        train(resumed(tmp_path, "trainer.max_epochs=2"))
    assert ("best.ckpt: damaged" in caplog.text) == is_damaged
    assert record(tmp_path)["tested_checkpoint"] == "best"
    assert load(tmp_path, "best")["epoch"] == is_damaged


def test_divergence_keeps_checkpoints_by_steps_finite(configure: Configure, tmp_path: Path) -> None:
    """They are written between two looks at the losses."""
    plain_step = Classifier.training_step

    def diverges(self: Classifier, batch: Any, batch_idx: int) -> torch.Tensor:
        return plain_step(self, batch, batch_idx) * (float("nan") if self.global_step >= 3 else 1)

    node = "_target_: mnv2_lightning.callbacks.model_checkpoint.Checkpoint, filename: by_steps"
    dirpath = tmp_path / "checkpoints"
    by_steps = (
        f"+callbacks.by_steps={{{node}, dirpath: '{dirpath}', every_n_train_steps: 2}}",
        "trainer.log_every_n_steps=50",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "training_step", diverges)
        with pytest.raises(Diverged, match="at step 4"):
            train(configure(*SMALL, *by_steps, run_dir=tmp_path))
    assert load(tmp_path, "by_steps")["global_step"] == 2


def test_two_processes_do_not_train_in_one_folder(configure: Configure, tmp_path: Path) -> None:
    with (
        folder.locked(tmp_path),
        pytest.raises(ConfigError, match="another process is training there"),
    ):
        train(configure(*SMALL, run_dir=tmp_path))
    assert not (tmp_path / "result.json").exists()
