"""SIGKILL on the user's own command: it goes on, to the bits that no kill would have given."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from mnv2_lightning.cli.conf_files import config_dir
from mnv2_lightning.runs import checkpoints
from mnv2_lightning.schema.errors import StorageError
from tests.conftest import load, record
from tests.reliability.conftest import Reliability
from tests.test_resume import assert_same, comparable, curves

pytestmark = pytest.mark.slow
EPOCHS = 8
FEW = (
    "callbacks=[default,ema]",
    "callbacks.test_images=null",
    "data.augment.degrees=10",
    "data.val_size=100",
    "model.dropout=0.1",
    "model.width_mult=0.25",
    "trainer.limit_test_batches=2",
    "trainer.limit_train_batches=5",
    "trainer.log_every_n_steps=2",
    f"trainer.max_epochs={EPOCHS}",
)
# The shipped experiments, cut down, each ending as it does: by epochs, or by steps within one.
OF_EXPERIMENTS = (
    "callbacks.test_images=null",
    "data.image_size=28",
    "data.batch_size=64",
    "model.width_mult=0.25",
    "trainer.limit_val_batches=2",
    "trainer.limit_test_batches=2",
    "trainer.limit_train_batches=5",
    "trainer.log_every_n_steps=2",
)
EXPERIMENTS = {
    path.stem: (
        f"experiment={path.stem}",
        *OF_EXPERIMENTS,
        "trainer.max_steps=118" if "max_steps" in path.read_text() else "trainer.max_epochs=24",
    )
    for path in sorted((config_dir() / "experiment").glob("*.yaml"))
}


def start(
    run: Path,
    *typed: str,
    command: Sequence[str] = FEW,
    start_new_session: bool = False,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """The user's command, the same each time."""
    # What a shell starts in the background ignores Ctrl-C, and so would the child.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        [sys.executable, "-m", "mnv2_lightning.train", *command, *typed, f"hydra.run.dir={run}"],
        env=os.environ | (environment or {}),
        cwd=run.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=start_new_session,
    )


def epochs_done(run: Path) -> int:
    """By the newest whole checkpoint."""
    try:
        newest = checkpoints.newest(run)
    except StorageError:  # it looks while the run writes its first checkpoint
        return 0
    return checkpoints.read(newest)["epoch"] + 1 if newest else 0


def epochs_told(run: Path) -> int:
    """By the log: epochs whose validation was reported."""
    log = run / "train.log"
    told = re.findall(r"epoch (\d+)/\d+  validation", log.read_text()) if log.exists() else []
    return max(map(int, told), default=0)


def finish(run: Path, command: Sequence[str] = FEW) -> None:
    process = start(run, command=command)
    _, err = process.communicate()
    assert process.returncode == 0, err.decode()


def assert_equal(run: Path, whole: Path) -> None:
    """The last checkpoint, and all that was logged but for times."""
    assert_same(comparable(load(run)), comparable(load(whole)))
    assert curves(run) == curves(whole)


def kill_and_go_on(
    folder: Path, whole: Path, kills: int, wait: Callable[[Path, float], None], wall: float
) -> dict[str, int]:
    """Kill, look, type the same command again; a run that ends is compared and a new one begun."""
    rng = random.Random(0)
    number, lost_most, equal, done = 0, 0, 0, 0
    for kill in range(kills):
        run = folder / f"run-{number}"
        elsewhere = {"TMPDIR": "/dev/shm"} if kill % 2 and os.path.isdir("/dev/shm") else {}
        process = start(run, environment=elsewhere)
        wait(run, rng.uniform(0, wall))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        now = epochs_done(run)
        assert now >= done, "progress went back"
        lost_most = max(lost_most, epochs_told(run) - now)
        done = now
        if done == EPOCHS:
            finish(run)
            assert_equal(run, whole)
            equal, number, done = equal + 1, number + 1, 0
    finish(folder / f"run-{number}")
    assert_equal(folder / f"run-{number}", whole)
    return {"kills": kills, "most_epochs_lost": lost_most, "runs_equal_to_the_bit": equal + 1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """An uninterrupted run, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    started = time.monotonic()
    finish(folder)
    return folder, time.monotonic() - started


def test_random_kills(whole: tuple[Path, float], tmp_path: Path, reliability: Reliability) -> None:
    def wait(run: Path, seconds: float) -> None:
        time.sleep(seconds)

    kills = reliability.rounds(3, 50)
    found = kill_and_go_on(tmp_path, whole[0], kills, wait, whole[1])
    reliability.note("random_kills", **found)
    assert found["most_epochs_lost"] <= 1


def test_kills_while_a_checkpoint_is_written(
    whole: tuple[Path, float], tmp_path: Path, reliability: Reliability
) -> None:
    """Up to 20 ms after the writer's temporary file is seen."""

    def wait(run: Path, seconds: float) -> None:
        deadline = time.monotonic() + 120
        folder = run / "checkpoints"
        before = {p.name for p in folder.glob(".*")}
        while time.monotonic() < deadline:
            if folder.is_dir() and {p.name for p in folder.glob(".*")} - before:
                time.sleep(seconds)
                return
            time.sleep(0.0002)
            if (run / "result.json").exists() and epochs_done_fast(run):
                return

    def epochs_done_fast(run: Path) -> bool:
        return '"status": "finished"' in (run / "result.json").read_text()

    kills = reliability.rounds(3, 20)
    found = kill_and_go_on(tmp_path, whole[0], kills, wait, 0.02)
    reliability.note("kills_in_the_save_window", **found)
    assert found["most_epochs_lost"] <= 1


# The shortest way to an end within an epoch is tried at every commit, the others by test-crash.
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_kills_of_shipped_experiments(name: str, tmp_path: Path, reliability: Reliability) -> None:
    """Two in a row, each up to 0.3 s after another epoch was trained."""
    if name != "fast" and not reliability.path:
        pytest.skip("make test-crash")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(whole, EXPERIMENTS[name])
    rng = random.Random(0)
    for _ in range(2):
        before = epochs_done(cut)
        process = start(cut, command=EXPERIMENTS[name])
        while epochs_done(cut) <= before:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish(cut, EXPERIMENTS[name])
    assert_equal(cut, whole)
    results = [record(run) for run in (cut, whole)]
    for key in ("epochs", "test_accuracy", "test_loss", "val_accuracy"):
        assert results[0][key] == results[1][key], key
    reliability.note(f"kills_of_experiment_{name}", kills=2, resumed_equal=True)


DDP = ("trainer.accelerator=cpu", "trainer.strategy=ddp", "trainer.devices=2")


@pytest.mark.parametrize("ends", ["trainer.max_epochs=4", "trainer.max_steps=18"])
def test_two_processes_go_on_to_the_same_bits(
    ends: str, tmp_path: Path, reliability: Reliability
) -> None:
    """DDP on a CPU (gloo): killed after an epoch and resumed, it equals the uninterrupted run."""
    if "max_steps" in ends and not reliability.path:
        pytest.skip("make test-crash")
    short = (*DDP, ends)
    for name in ("whole", "cut"):
        process = start(tmp_path / name, *short)
        if name == "cut":
            while epochs_done(tmp_path / name) < 2:
                assert process.poll() is None
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
            process.communicate()  # until its ranks have ended too
            process = start(tmp_path / name, *short)
        _, err = process.communicate()
        assert process.returncode == 0, err.decode()
    assert_equal(tmp_path / "cut", tmp_path / "whole")
