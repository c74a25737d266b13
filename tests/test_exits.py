"""Each exit status, reached as a user would reach it; at most three lines, no traceback."""

import errno
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mnv2_lightning.runs.checkpoint_io import DurableCheckpointIO
from mnv2_lightning.schema.errors import Diverged
from tests.conftest import SMALL, Call, load, record


def no_space(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def nothing(patch: pytest.MonkeyPatch) -> None:
    pass


def diverge(patch: pytest.MonkeyPatch) -> None:
    """No patch: a learning rate that is too large does it."""


def full_at_start(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tempfile, "TemporaryFile", no_space)


def full_in_mid_run(patch: pytest.MonkeyPatch) -> None:
    """While the checkpoint of the second epoch is written."""
    plain_save = DurableCheckpointIO.save_checkpoint

    def save(self: DurableCheckpointIO, content: Any, *args: Any, **kwargs: Any) -> None:
        if content["epoch"] == 1:
            patch.setattr(os, "fsync", no_space)
        plain_save(self, content, *args, **kwargs)

    patch.setattr(DurableCheckpointIO, "save_checkpoint", save)


def full_from(error: BaseException) -> Callable[[pytest.MonkeyPatch], None]:
    """The disk is full when the run fails by something else."""

    def arrange(patch: pytest.MonkeyPatch) -> None:
        def fail(*args: object, **kwargs: object) -> None:
            patch.setattr(os, "fsync", no_space)
            raise error

        patch.setattr("mnv2_lightning.classifier.Classifier.validation_step", fail)

    return arrange


def raises(error: BaseException) -> Callable[[pytest.MonkeyPatch], None]:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    return lambda patch: patch.setattr("mnv2_lightning.classifier.Classifier.training_step", fail)


EXITS: dict[str, tuple[int, tuple[str, ...], Callable[[pytest.MonkeyPatch], None], str]] = {
    "finished": (0, (), nothing, ""),
    "bad config": (2, ("optimizer.lr=-1",), nothing, "optimizer.lr=-1: must be greater than 0"),
    "nothing to resume": (0, ("resume=null",), nothing, ""),
    "diverged": (3, ("optimizer.lr=1e30",), diverge, "diverged in epoch 1 at step"),
    "full at the start": (4, (), full_at_start, "cannot be written to (No space left"),
    "full in mid-run": (4, (), full_in_mid_run, ".ckpt: cannot be written (No space left"),
    "diverged, then full": (3, (), full_from(Diverged("diverged")), "error: diverged\n"),
    "Ctrl-C, then full": (130, (), full_from(KeyboardInterrupt()), "interrupted; "),
    "unforeseen, then full": (1, (), full_from(RuntimeError("x")), "RuntimeError: x (traceback="),
    "no data": (5, ("data.dir=.",), nothing, "put the four files"),
    "Ctrl-C": (130, (), raises(KeyboardInterrupt()), "interrupted; "),
    "SIGTERM": (143, (), raises(SystemExit(143)), "terminated; "),
    "unforeseen": (1, (), raises(RuntimeError("broken")), "RuntimeError: broken (where: "),
}


@pytest.mark.parametrize("kind", EXITS)
def test_exit_status(
    kind: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, typed, arrange, told = EXITS[kind]
    arrange(monkeypatch)
    ended = call("train", *SMALL, *typed, "hydra.run.dir=a")
    assert ended.status == status, ended.err
    assert told in ended.err
    lines = [x for x in ended.err.splitlines() if x]
    assert len(lines) <= 3
    assert "Traceback" not in ended.err
    if kind in ("bad config", "full at the start"):
        assert list(tmp_path.iterdir()) == []
    if kind == "full in mid-run":
        assert load(tmp_path / "a")["epoch"] == 0
        assert record(tmp_path / "a")["test_accuracy"] is None
    if kind == "diverged":
        assert record(tmp_path / "a")["status"] == "diverged"


def test_a_command_runs_exit_handlers_before_it_ends() -> None:
    """Such as a logger's, which sends what it still has; those of the standard library follow."""
    code = """
import atexit
from mnv2_lightning.system import signals
signals.install(is_silent=False)
signals.raise_errors()
atexit.register(print, "sent")
signals.exit_command(3)
"""
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "sent\n", "")


# The arguments: a folder for the disk; where the run is copied to; the command. The disk is filled
# when there is a checkpoint.
ON_A_SMALL_DISK = """
disk="$1"; out="$2"; shift 2; mount -t tmpfs -o size=8m tmpfs "$disk"
"$@" & process=$!
while [ ! -e "$disk/run/checkpoints/last.ckpt" ] && kill -0 $process; do sleep 0.1; done
cat /dev/zero > "$disk/fill" 2> /dev/null
wait $process; status=$?; cp -r "$disk/run" "$out"; exit $status
"""


@pytest.mark.slow
def test_full_disk(tmp_path: Path) -> None:
    """A real one: what is told is what could not be written first, not what told of that."""
    (disk := tmp_path / "disk").mkdir()
    alone = ("unshare", "-rm", "sh", "-c")
    try:
        tried = subprocess.run([*alone, f"mount -t tmpfs tmpfs {disk}"], check=False)
    except FileNotFoundError:
        pytest.skip("needs Linux's unshare")
    if tried.returncode:
        pytest.skip("needs the right to mount in a namespace of one's own")
    few = ("trainer.limit_train_batches=2", "trainer.limit_val_batches=1", "trainer.max_epochs=999")
    train = (sys.executable, "-m", "mnv2_lightning.train", "callbacks.test_images=null", *few)
    run = tmp_path / "run"
    ended = subprocess.run(
        [*alone, ON_A_SMALL_DISK, "sh", disk, run, *train, f"hydra.run.dir={disk / 'run'}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 4, ended.stderr
    assert ended.stderr.startswith(f"error: {disk / 'run'}")
    assert "No space left on device" in ended.stderr
    assert "result.json" not in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert load(run)["epoch"] >= 0


def test_read_only_folder(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(**kwargs: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    ended = call("train", *SMALL, "hydra.run.dir=a")
    assert ended.status == 4
    assert ended.err == "error: a: cannot be written to (Read-only file system)\n"
    assert list(tmp_path.iterdir()) == []


def test_error_text_follows_no_link(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine.txt").write_text("mine")
    (tmp_path / "a" / "error.txt").symlink_to(tmp_path / "a" / "mine.txt")
    raises(RuntimeError("broken"))(monkeypatch)
    ended = call("train", *SMALL, "hydra.run.dir=a")
    assert ended.status == 1
    assert (tmp_path / "a" / "mine.txt").read_text() == "mine"
    assert "broken" in (tmp_path / "a" / "error.txt").read_text()


def test_the_same_command_goes_on(call: Call, tmp_path: Path) -> None:
    """Where it was killed before an epoch was done it starts again; finished, it does nothing."""
    typed = ("train", *SMALL, "hydra.run.dir=a")
    with pytest.MonkeyPatch.context() as patch:
        raises(KeyboardInterrupt())(patch)
        assert "it has no checkpoint" in call(*typed).err
    ended = call(*typed, "resume=null")  # as without it
    assert ended.status == 0, ended.err
    assert "from the beginning" in ended.out
    steps = [line.split(",")[0] for line in (tmp_path / "a" / "metrics.csv").read_text().split()]
    assert len(steps) == len(set(steps))
    before = (tmp_path / "a" / "result.json").read_text()
    assert json.loads(before)["status"] == "finished"
    assert "already finished" in call(*typed).out
    assert "already finished" in call(*typed, "resume=null").out
    assert (tmp_path / "a" / "result.json").read_text() == before
    ended = call(*typed, "optimizer.lr=0.2")
    assert ended.status == 2
    assert "a: holds a run with optimizer.lr=0.1 already; take another folder" in ended.err
    ended = call(*typed, "trainer.max_epochs=3")
    assert ended.status == 0
    assert "resumes after epoch" in ended.out
    assert record(tmp_path / "a")["epochs"] == 3
