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
    "callbacks.pictures=null",
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
    *FEW[:-1],  # a search's own
    "data.val_size=1000",
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


def kill(process: subprocess.Popen[bytes]) -> None:
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

    def checkpoints() -> set[int]:
        found = (cut / "outputs" / "sweeps" / "s").glob("*/checkpoints/last.ckpt")
        return {path.stat().st_mtime_ns for path in found}

    assert start(whole, *SWEEP).wait() == 0
    kills = reliability.rounds(3, 10)
    rng = random.Random(0)
    finished: dict[Path, os.stat_result] = {}
    for _ in range(kills):
        before = checkpoints()
        process = start(cut, *SWEEP)
        while checkpoints() <= before:  # until a job has trained an epoch
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        kill(process)
        for path, record in records(cut).items():
            if record["status"] == "finished":
                stat = finished.setdefault(path, os.stat(path))
                assert os.stat(path) == stat, "trained again"
    assert len(finished) < 4
    assert start(cut, *SWEEP).wait() == 0
    assert (cut / "log").read_text().count("goes on: after epoch") >= kills // 2
    assert all(os.stat(path) == stat for path, stat in finished.items())
    tables = [{p.parent.name: r for p, r in records(f).items()} for f in (cut, whole)]
    assert tables[0] == tables[1]
    reliability.note("kills_of_a_sweep", kills=kills, runs=len(tables[0]))


def trials(folder: Path) -> list[tuple[Any, ...]]:
    storage = f"sqlite:///{folder / 'outputs' / 'searches' / 's' / 'study.db'}"
    found = optuna.load_study(study_name="s", storage=storage).trials
    return [(t.number, t.state.name, t.value, t.params, t.intermediate_values) for t in found]


def test_kills_of_a_search(tmp_path: Path, reliability: Reliability) -> None:
    """No trial is lost or doubled, and each is what it is without; a new search after each."""
    begun = time.monotonic()
    assert start(tmp_path / "whole", *SEARCH).wait() == 0
    wall = time.monotonic() - begun
    kills, searches = reliability.rounds(2, 10), 0
    rng = random.Random(0)
    for number in range(kills):
        folder = tmp_path / f"cut-{searches}"
        process = start(folder, *SEARCH)
        time.sleep(rng.uniform(0.3, 0.8) * wall)
        kill(process)
        if number % 2:
            assert start(folder, *SEARCH).wait() == 0
            assert trials(folder) == trials(tmp_path / "whole")
            searches += 1
    reliability.note("kills_of_a_search", kills=kills, searches=searches, trials=5)
