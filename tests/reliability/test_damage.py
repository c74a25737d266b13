"""Damaged checkpoints: each is named, and the newest whole one is taken."""

import random
import shutil
from pathlib import Path

import pytest

from mnv2_lightning.runs import checkpoint
from mnv2_lightning.schema.errors import StorageError
from mnv2_lightning.train import train
from tests.conftest import SMALL, Call, Configure, load, record
from tests.reliability.conftest import Reliability
from tests.reliability.test_mirrors import DAMAGE
from tests.test_resume import assert_same, comparable, resumed


@pytest.mark.parametrize("has_manifest", [True, False], ids=["manifest", "no manifest"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_every_mutation_is_detected(
    damage: str,
    has_manifest: bool,
    run: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    reliability: Reliability,
) -> None:
    """By SHA-256; without the manifest by the file's own sums, but for a file of another run."""
    if damage == "swapped" and not has_manifest:
        pytest.skip("a whole checkpoint of another run is told by the manifest alone")
    rng = random.Random(damage)
    folder = tmp_path / "checkpoints"
    shutil.copytree(run / "checkpoints", folder)
    raw = (folder / "last.ckpt").read_bytes()
    other = raw.replace(b"mobilenet_v2", b"mobilenet_v1", 1)
    assert other != raw
    if not has_manifest:
        (folder / "manifest.json").write_text("{")
    rounds, detected = reliability.rounds(5, 50), 0
    for _ in range(rounds):
        bad = DAMAGE[damage](raw, other, rng)
        (folder / "last.ckpt").write_bytes(bad)
        caplog.clear()
        if checkpoint.newest(tmp_path) == folder / "previous.ckpt":
            assert "last.ckpt: damaged" in caplog.text
            detected += 1
        else:  # a bit that no one reads
            assert not has_manifest
            assert_same(checkpoint.read(folder / "last.ckpt"), load(run))
            detected += 1
    key = "mutations" if has_manifest else "mutations_without_manifest"
    found = reliability.found.setdefault(key, {"cases": 0, "detected": 0})
    found["cases"] += rounds
    found["detected"] += detected
    assert detected == rounds


def test_goes_on_from_the_newest_whole_one(configure: Configure, tmp_path: Path) -> None:
    """To the same bits; the damaged one is kept by another name."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    still = ("scheduler=constant", "trainer.max_epochs=3")
    train(configure(*SMALL, *still, run_dir=whole))
    train(configure(*SMALL, *still, "trainer.max_epochs=2", run_dir=cut))
    path = cut / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:-1])
    train(resumed(cut, "trainer.max_epochs=3"))
    assert (cut / "checkpoints" / "last.damaged").is_file()
    assert_same(comparable(load(cut)), comparable(load(whole)))
    assert record(cut)["test_loss"] == record(whole)["test_loss"]


def test_none_is_whole(run: Path, call: Call, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("*.ckpt"):
        path.write_bytes(b"")
    ended = call("train", "resume=run", "trainer.max_epochs=9")
    assert ended.status == 4
    assert "no checkpoint is whole (last.ckpt, previous.ckpt, best.ckpt)" in ended.err
    ended = call("evaluate", "run_dir=run")
    assert ended.status == 4
    assert "best.ckpt: damaged" in ended.err


def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read"):
        checkpoint.read(tmp_path / "checkpoints" / "last.ckpt")
