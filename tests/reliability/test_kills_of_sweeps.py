"""SIGKILL on a sweep's and a search's command: it goes on, nothing is lost or done twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.reliability.conftest import Reliability

pytestmark = pytest.mark.slow
FEW = (
    "callbacks.test_images=null",
    "data.val_size=1000",
    "model.width_mult=0.25",
    "trainer.limit_train_batches=5",
    "trainer.limit_test_batches=2",
)
SWEEP = (
    "train",
    "-m",
    *FEW,
    "trainer.max_epochs=12",
    "optimizer.lr=0.05,0.1",
    "model.expand_ratio=2,3",
    "sweep=s",
)
SEARCH = (
    "search",
    *FEW[:-1],  # it fixes that of the test set itself
    "trainer.max_epochs=3",
    "search.sampler.n_startup_trials=2",
    "search.pruner.n_startup_trials=2",
    "search.trials=5",
    "search.name=s",
)


def start(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", f"mnv2_lightning.{command[0]}", *command[1:]],
            cwd=folder,
            stdout=log,
            stderr=log,
        )


def checkpoints(folder: Path) -> set[int]:
    return {p.stat().st_mtime_ns for p in folder.glob("outputs/*/s/*/checkpoints/last.ckpt")}


def start_and_kill(folder: Path, *command: str, rng: random.Random) -> None:
    """Up to 0.3 s after one more epoch has been trained."""
    before = checkpoints(folder)
    process = start(folder, *command)
    while checkpoints(folder) <= before:
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.3))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def records(folder: Path) -> dict[Path, dict[str, Any]]:
    """Of the sweep's jobs, but for times."""
    jobs = (folder / "outputs" / "sweeps" / "s").glob("*/result.json")
    times = ("train_seconds", "images_per_second", "peak_rss_bytes")
    read = {path: json.loads(path.read_text()) for path in jobs}
    return {path: {k: v for k, v in r.items() if k not in times} for path, r in read.items()}


def test_kills_of_a_sweep(tmp_path: Path, reliability: Reliability) -> None:
    """Its table is that of a sweep that was not killed, and each job was trained once."""
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    assert start(whole, *SWEEP).wait() == 0
    kills = reliability.rounds(2, 10)
    rng = random.Random(0)
    finished: dict[Path, os.stat_result] = {}
    for _ in range(kills):
        start_and_kill(cut, *SWEEP, rng=rng)
        for path, record in records(cut).items():
            if record["status"] == "finished":
                stat = finished.setdefault(path, os.stat(path))
                assert os.stat(path) == stat, "trained again"
    assert len(finished) < 4
    assert start(cut, *SWEEP).wait() == 0
    assert (cut / "log").read_text().count("resumes after epoch") >= kills // 2
    assert all(os.stat(path) == stat for path, stat in finished.items())
    tables = [{p.parent.name: r for p, r in records(f).items()} for f in (cut, whole)]
    assert tables[0] == tables[1]
    reliability.note("kills_of_a_sweep", kills=kills, runs=len(tables[0]))


def trials(folder: Path) -> list[tuple[Any, ...]]:
    storage = f"sqlite:///{folder / 'outputs' / 'searches' / 's' / 'study.db'}"
    found = optuna.load_study(study_name="s", storage=storage).trials
    return [(t.number, t.state.name, t.value, t.params, t.intermediate_values) for t in found]


def test_kills_of_a_search(tmp_path: Path, reliability: Reliability) -> None:
    """No trial is lost or doubled, and each is what it is without."""
    assert start(tmp_path / "whole", *SEARCH).wait() == 0
    searches = reliability.rounds(1, 5)
    rng = random.Random(0)
    for number in range(searches):
        folder = tmp_path / f"cut-{number}"
        for _ in range(2):
            start_and_kill(folder, *SEARCH, rng=rng)
        assert start(folder, *SEARCH).wait() == 0
        assert trials(folder) == trials(tmp_path / "whole")
    reliability.note("kills_of_a_search", kills=2 * searches, searches=searches, trials=5)
