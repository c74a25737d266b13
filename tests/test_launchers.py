"""Sweeps by Hydra's launchers keep what sweeps promise: resume, recorded failures, a summary."""

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.errors import MissingConfigException

from mnv2_lightning import train
from mnv2_lightning.cli import composing
from mnv2_lightning.reports import collect
from mnv2_lightning.system import accelerators
from tests.conftest import Call, Configure, record, require_launcher

LAUNCHERS = {
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    "submitit_local": ("hydra/launcher=submitit_local",),
    "ray": ("hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"),
}
SWEEP = (
    "-m",
    "model.width_mult=0.25",
    "data.val_size=1000",
    "callbacks.test_images=null",
    "trainer.enable_progress_bar=false",
    "trainer.limit_test_batches=2",
    "optimizer.lr=0.1,1e18",  # the second diverges
    "seed=0,1",
    "sweep=s",
)


def start(cwd: Path, launcher: str, *typed: str) -> subprocess.Popen[str]:
    """Skips the test if the launcher is not installed."""
    chosen = LAUNCHERS[launcher]
    require_launcher(chosen[0])
    return subprocess.Popen(
        [sys.executable, "-m", "mnv2_lightning.train", *SWEEP, *chosen, *typed],
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        | {"OMP_WAIT_POLICY": "PASSIVE"},  # submitit starts all jobs at once
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def statuses(cwd: Path) -> dict[str, str]:
    found = (cwd / "outputs" / "sweeps" / "s").glob("*/result.json")
    return {path.parent.name: json.loads(path.read_text())["status"] for path in found}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_sweep(launcher: str, tmp_path: Path) -> None:
    short = ("trainer.limit_train_batches=5", "trainer.max_epochs=1")
    process = start(tmp_path, launcher, *short)
    out, _ = process.communicate(timeout=180)
    assert process.returncode == 1, out
    assert "2 of 4 runs finished" in out
    assert "GPU available" not in out  # Lightning's own words
    assert statuses(tmp_path) == {
        "lr-0.1_seed-0": "finished",
        "lr-0.1_seed-1": "finished",
        "lr-1e18_seed-0": "diverged",
        "lr-1e18_seed-1": "diverged",
    }
    folder = tmp_path / "outputs" / "sweeps" / "s"
    assert (folder / "report" / "report.html").is_file()
    assert "diverged in epoch 1" in record(folder / "lr-1e18_seed-0")["error"]

    if launcher == "ray":  # which takes longest; what goes on is the same for all
        return
    before = {path: os.stat(path) for path in folder.glob("lr-0.1_*/result.json")}
    process = start(tmp_path, launcher, *short)
    out, _ = process.communicate(timeout=180)
    assert process.returncode == 1, out
    assert all(os.stat(path) == stat for path, stat in before.items())


@pytest.mark.slow
def test_the_sweeps_process_is_killed(tmp_path: Path) -> None:
    """Its workers end with it, and have recorded what was cut; the same command goes on."""
    short = ("trainer.limit_train_batches=20", "trainer.max_epochs=15", "optimizer.lr=0.1")
    process = start(tmp_path, "joblib", *short)
    folder = tmp_path / "outputs" / "sweeps" / "s"
    while len(list(folder.glob("*/checkpoints/last.ckpt"))) < 2:
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)  # until its workers have closed the pipe too
    assert set(statuses(tmp_path).values()) == {"interrupted"}
    for job in folder.glob("*/result.json"):  # the threads are divided
        threads = json.loads(job.read_text())["hardware"]["threads"]
        assert threads == max(1, (os.cpu_count() or 1) // 2)
    process = start(tmp_path, "joblib", *short)
    out, _ = process.communicate(timeout=180)
    assert process.returncode == 0, out
    assert out.count("resumes after epoch") == 2
    assert "2 of 2 runs finished" in out


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")
def test_a_worker_is_killed(tmp_path: Path) -> None:
    """As by the system for its memory: joblib ends the others; their jobs end at their next batch,
    perhaps after the sweep has said where it stands.
    """
    short = ("trainer.limit_train_batches=20", "trainer.max_epochs=15", "optimizer.lr=0.1")
    process = start(tmp_path, "joblib", *short)
    sweep = tmp_path / "outputs" / "sweeps" / "s"
    while len(list(sweep.glob("*/checkpoints/last.ckpt"))) < 2:
        assert process.poll() is None
        time.sleep(0.1)
    of_jobs = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if b"LokyProcess" in path.read_bytes()
        and (path.parent / "cwd").resolve().is_relative_to(tmp_path)
    ]
    os.kill(of_jobs[0], signal.SIGKILL)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "0 of 2 runs finished" in out
    assert re.search(r"seed-0  (interrupted|running)", out)
    assert "TerminatedWorkerError" in out
    ended = time.monotonic()
    while {row["status"] for row in collect.rows([sweep])} != {"interrupted"}:
        assert time.monotonic() - ended < 5
        time.sleep(0.1)


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "submitit_slurm", "ray"])
def test_one_that_is_not_installed(launcher: str) -> None:
    error = MissingConfigException("...", f"hydra/launcher/{launcher}", ["basic"])
    extra = launcher.partition("_")[0]
    message = f'hydra/launcher={launcher}: is not installed; pip install -e ".[{extra}]"'
    assert composing.explain(error, "train") == message


def test_a_worker_imports_the_command(tmp_path: Path) -> None:
    (tmp_path / "command").write_bytes(pickle.dumps(train.COMMAND))
    code = """if True:
        import pathlib, pickle
        command = pickle.loads(pathlib.Path("command").read_bytes())
        from mnv2_lightning import train
        assert command is train.COMMAND"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_a_gpu_for_each(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two that are taken; a third process shares one."""
    see_gpus(monkeypatch, "A", "B")
    monkeypatch.setattr(accelerators, "user_cache_path", lambda *_, **__: tmp_path)
    taken = []
    for _ in range(3):  # processes
        accelerators.own_gpu.cache_clear()
        taken.append(accelerators.own_gpu())
        assert accelerators.own_gpu() == taken[-1]
    assert [index for index, _ in taken[:2]] == [0, 1]
    assert taken[2][1] is None
    for _, lock in taken[:2]:
        assert lock is not None
        lock.release()
    accelerators.own_gpu.cache_clear()


def see_gpus(monkeypatch: pytest.MonkeyPatch, *uuids: str) -> None:
    """As under a CUDA_VISIBLE_DEVICES."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(uuids))
    properties = [SimpleNamespace(uuid=uuid) for uuid in uuids]
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: properties[index])
    accelerators.own_gpu.cache_clear()


def test_a_gpu_is_one_gpu_under_any_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sweeps that see other GPUs do not wait for each other; two that see the same one do."""
    monkeypatch.setattr(accelerators, "user_cache_path", lambda *_, **__: tmp_path)
    held = []
    for seen, taken in ((("A",), 0), (("B",), 0), (("B", "C"), 1), (("C", "A"), None)):
        see_gpus(monkeypatch, *seen)
        index, lock = accelerators.own_gpu()
        assert (index if lock else None) == taken
        held.append(lock)
    for lock in held:
        if lock is not None:
            lock.release()
    accelerators.own_gpu.cache_clear()


@pytest.mark.parametrize(
    ("typed", "taken"),
    [
        (("trainer.devices=1", "trainer.accelerator=gpu"), [1]),
        (("trainer.devices=1", "trainer.accelerator=auto"), [1]),
        (("trainer.devices=2", "trainer.accelerator=gpu"), 2),
        (("trainer.devices=1", "trainer.accelerator=cpu"), 1),
    ],
)
def test_a_job_takes_a_gpu_where_it_asks_for_one(
    typed: tuple[str, ...], taken: Any, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(accelerators, "own_gpu", lambda: (1, None))
    cfg = configure(*typed)
    train.take_a_gpu(cfg)
    assert cfg.trainer.devices == taken


def test_for_sweeps_of_train_only(call: Call, tmp_path: Path) -> None:
    require_launcher("hydra/launcher=joblib")
    ended = call("evaluate", "-m", "run_dir=a,b", "hydra/launcher=joblib")
    assert ended.status == 2
    why = "hydra/launcher=joblib: is for sweeps of train"
    assert ended.err == f"error: {why}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(shutil.which("srun") is not None, reason="SLURM is here")
def test_no_slurm(call: Call, tmp_path: Path) -> None:
    require_launcher("hydra/launcher=submitit_slurm")
    ended = call("train", "-m", "hydra/launcher=submitit_slurm", "seed=0,1")
    assert ended.status == 2
    assert "no srun here" in ended.err
    assert list(tmp_path.iterdir()) == []
