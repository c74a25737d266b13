"""Multiruns as Hydra has them: what is swept, and that each job is a command of its own."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mnv2_lightning.reports import collect
from mnv2_lightning.runs import config
from tests.conftest import SMALL, Call, load, record
from tests.test_resume import assert_same, comparable

BAD = "optimizer.lr=-1"  # the first job is refused, and named


@pytest.mark.parametrize(
    ("args", "job"),
    [
        (("-m", "experiment=glob(*)"), "experiment-accurate"),
        (("-m", "experiment=glob(tutorial*)"), "experiment-tutorial"),
        (("-m", "seed=range(3,5)"), "seed-3"),
        (("hydra.mode=MULTIRUN", "seed=3,4"), "seed-3"),
        (("-m", "callbacks=[default],[default,ema]"), "callbacks--default"),
        (("-m", "study=shortcut"), "shortcut-identity_seed-0"),
        (("-m", "study=v1_v2", "seed=7"), "model-mobilenet_v1_small"),
    ],
    ids=str,
)
def test_what_is_swept(args: tuple[str, ...], job: str, call: Call, tmp_path: Path) -> None:
    ended = call("train", *args, BAD)
    assert ended.status == 2
    assert ended.err == f"error: {BAD}: must be greater than 0 (job {job})\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("optimizer.lr=interval(0,1)", "optimizer.lr=interval(0,1): "),
        ("model=mobilenet_v2,mobilenet_v1", "expand_ratio: unknown key"),
        ("model=mobilenet_v2,mobilenet_v1", "(job model-mobilenet_v1)"),
    ],
)
def test_what_cannot_be_swept(sweep: str, message: str, call: Call, tmp_path: Path) -> None:
    ended = call("train", "-m", sweep, "model.expand_ratio=2")
    assert ended.status == 2
    assert message in ended.err
    assert ended.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_experiment_that_sweeps(call: Call, tmp_path: Path) -> None:
    """`hydra.sweeper.params` in a file are as if typed after -m."""
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "grid.yaml").write_text(
        "# @package _global_\nhydra: {sweeper: {params: {seed: '1,2', optimizer.lr: 0.1}}}\n"
    )
    short = (*SMALL[:1], *SMALL[2:], "trainer.max_epochs=1", "callbacks.test_images=null")
    place = ("--config-dir", str(tmp_path / "mine"), "experiment=grid", "sweep=s")
    ended = call("train", "-m", *place, *short)
    assert ended.status == 0, ended.err
    folder = tmp_path / "outputs" / "sweeps" / "s"
    assert sorted(path.parent.name for path in folder.glob("*/result.json")) == ["seed-1", "seed-2"]
    assert "--config-dir" in record(folder / "seed-1")["command"]
    assert "optimizer.lr=0.1" in record(folder / "seed-1")["command"]


def test_a_study_names_its_sweep_and_its_jobs_are_commands(call: Call, tmp_path: Path) -> None:
    short = [o for o in (*SMALL, "trainer.max_steps=2") if "width_mult" not in o]
    name, arms = "expand_ratio_equal_macs", "model.expand_ratio=2,6"
    ended = call("train", "-m", f"study={name}", arms, "seed=3,4", *short)
    assert ended.status == 0, ended.err
    folder = tmp_path / "outputs" / "sweeps" / name
    runs = [folder / f"expand_ratio-{ratio}_seed-3" for ratio in (2, 6)]
    widths = [config.read(run / "config.yaml")["model"]["width_mult"] for run in runs]
    assert widths == [1.188, 0.715]
    assert f"model.expand_ratio=2 seed=3 study={name}" in record(runs[0])["command"]
    # The width follows from the ratio, so that runs that differ in both are compared.
    assert call("compare", f"run_dir={folder}").status == 0


def test_a_multirun_that_is_refused_ends_without_a_sweep(call: Call, tmp_path: Path) -> None:
    """Hydra 1.4 calls `on_multirun_end` nonetheless."""
    ended = call("train", "-m", "seed=0,1", "sweep=s", "data.dir=nowhere")
    assert ended.status == 2
    assert ended.out == ""
    assert list(tmp_path.iterdir()) == []


def test_jobs_of_another_command(call: Call, run: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(run, tmp_path / name)
    ended = call("evaluate", "-m", "run_dir=a,b")
    assert ended.status == 0, ended.err
    for name in ("a", "b"):
        assert (tmp_path / name / "evaluation" / "best-test.json").is_file()


FEW = (
    "trainer.accelerator=cpu",
    "model.width_mult=0.25",
    "trainer.limit_train_batches=20",
    "trainer.limit_test_batches=2",
    "trainer.enable_progress_bar=false",
    "callbacks.test_images=null",
    "data.val_size=1000",
)


def start(cwd: Path, *args: str) -> subprocess.Popen[bytes]:
    with (cwd / "out.txt").open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "mnv2_lightning.train", *args],
            cwd=cwd,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=out,
            stderr=out,
        )


@pytest.mark.slow
def test_a_job_is_repeated_by_its_command(tmp_path: Path) -> None:
    """Typed alone it gives the same bits."""
    own = ("hydra.job.name=mine", "trainer.max_epochs=2", "seed=1,2", "sweep=s")
    assert start(tmp_path, "-m", *FEW, *own).wait(timeout=180) == 0
    for seed in (1, 2):
        job = tmp_path / "outputs" / "sweeps" / "s" / f"seed-{seed}"
        program, _, module, *args = shlex.split(record(job)["command"])
        assert (program, module) == ("python", "mnv2_lightning.train")
        assert {f"seed={seed}", "trainer.devices=1", "hydra.job.name=mine"} <= set(args)
        assert not any(arg.startswith("sweep=") for arg in args)
        again = tmp_path / f"again-{seed}"
        assert start(tmp_path, *args, f"hydra.run.dir={again}").wait(timeout=120) == 0
        assert_same(comparable(load(again)), comparable(load(job)))
        for key in ("test_loss", "val_accuracy", "config_hash", "command"):
            assert record(again)[key] == record(job)[key]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")
def test_a_killed_sweep_leaves_no_process(tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "sweeps" / "s"
    process = start(tmp_path, "-m", *FEW, "trainer.max_epochs=500", "seed=1,2", "sweep=s")
    while not (folder / "seed-1" / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)
    killed = time.monotonic()
    while in_folder := [
        path
        for path in Path("/proc").glob("[0-9]*/cwd")
        if os.path.realpath(path).startswith(str(tmp_path))
    ]:
        assert time.monotonic() - killed < 4, in_folder
        time.sleep(0.05)
    first, second = collect.rows([folder])
    assert (first["status"], second["status"]) == ("interrupted", "not started")
    assert json.loads((folder / "seed-1" / "result.json").read_text())["status"] == "interrupted"


def test_checks_cannot_be_left_out(call: Call) -> None:
    """Hydra turns errors of a callback into warnings; the command does not go on unchecked."""
    ended = call("train", "~hydra.callbacks.checks", "seed=1")
    assert ended.status == 2
    assert ended.err == "error: hydra.callbacks.checks: cannot be left out\n"
    ended = call("train", "traceback=${nope}", "optimizer.lr=-1")
    assert ended.status == 2
    assert ended.err.count("\n") == 1
