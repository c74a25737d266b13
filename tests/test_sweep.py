"""A sweep finishes, whatever befalls its jobs, and goes on where it was."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mnv2_lightning.classifier import Classifier
from tests.conftest import SMALL, Call, record, require_launcher

SWEEP = ("train", "-m", *SMALL, "trainer.max_epochs=1", "sweep=s")


def raises(error: BaseException) -> Callable[..., torch.Tensor]:
    def step(*args: Any) -> torch.Tensor:
        raise error

    return step


def diverges(self: Classifier, batch: Any, batch_idx: int) -> torch.Tensor:
    return PLAIN_STEP(self, batch, batch_idx) * float("nan")


PLAIN_STEP = Classifier.training_step
# What befalls the job of each seed: its step, the status and the reason in its record.
DEATHS: dict[int, tuple[Callable[..., torch.Tensor], str, str]] = {
    1: (PLAIN_STEP, "finished", ""),
    2: (raises(ValueError("broken")), "failed", "ValueError: broken"),
    3: (diverges, "diverged", "diverged in epoch 1 at step 1"),
    4: (raises(MemoryError("no memory left")), "failed", "MemoryError: no memory left"),
    5: (raises(SystemExit(0)), "failed", "sys.exit(0) was called"),
    6: (PLAIN_STEP, "finished", ""),
}


@pytest.mark.slow
def test_jobs_that_die(call: Call, tmp_path: Path) -> None:
    """Each is recorded with its traceback in its own folder; the others run. The same command
    again trains those alone that have not finished.
    """

    def step(self: Classifier, batch: Any, batch_idx: int) -> torch.Tensor:
        return DEATHS[self.hparams["seed"]][0](self, batch, batch_idx)

    typed = (*SWEEP, f"seed={','.join(map(str, DEATHS))}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "training_step", step)
        ended = call(*typed)
    assert ended.status == 1
    folder = tmp_path / "outputs" / "sweeps" / "s"
    for seed, (_, status, reason) in DEATHS.items():
        job = folder / f"seed-{seed}"
        assert record(job)["status"] == status
        assert reason in (record(job)["error"] or "")
        if status != "finished":
            traceback = (job / "error.txt").read_text()
            assert traceback.startswith("Traceback")
            assert reason.partition(": ")[2] in traceback
            assert f"seed-{seed}" in ended.out
    assert "\n2 of 6 runs finished" in ended.out
    assert "MemoryError: no memory left" in (folder / "report" / "report.html").read_text()

    before = {seed: (folder / f"seed-{seed}" / "result.json").stat() for seed in (1, 6)}
    ended = call(*typed)
    assert ended.status == 0, ended.err
    assert "6 of 6 runs finished" in ended.out
    assert not list(folder.glob("*/error.txt"))
    for seed, stat in before.items():
        assert (folder / f"seed-{seed}" / "result.json").stat() == stat


def test_fail_fast(call: Call, tmp_path: Path) -> None:
    """The first failure ends the sweep; the same command without it goes on."""
    typed = (*SWEEP, "seed=1,2,3", "trainer.limit_train_batches=1", "trainer.limit_test_batches=0")
    folder = tmp_path / "outputs" / "sweeps" / "s"

    def step(self: Classifier, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.hparams["seed"] == 2:
            raise ValueError("broken")
        return PLAIN_STEP(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "training_step", step)
        ended = call(*typed, "fail_fast=true")
    assert ended.status == 1
    assert "\n1 of 3 runs finished" in ended.out
    assert "\n  seed-2  failed: ValueError: broken\n  seed-3  not started: -\n" in ended.out
    assert "seed-3" in (folder / "report" / "report.md").read_text()
    assert ended.err.count("\n") == 1
    assert not (folder / "seed-3").exists()
    for name in ("config.yaml", "result.json"):
        assert "fail_fast" not in (folder / "seed-1" / name).read_text()
    ended = call(*typed)
    assert ended.status == 0, ended.err
    assert "3 of 3 runs finished" in ended.out
    assert ended.out.count("already finished") == 1


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("fail_fast=true",), "fail_fast=true: is for a sweep, which -m starts"),
        (("-m", "seed=1,2", "fail_fast=true,false"), "fail_fast: one value, not several"),
        (
            ("-m", "seed=1,2", "fail_fast=true", "hydra/launcher=joblib"),
            "fail_fast=true: hydra/launcher=joblib starts jobs before others have ended; leave out "
            "one of the two",
        ),
    ],
)
def test_where_fail_fast_cannot_hold(
    typed: tuple[str, ...], message: str, call: Call, tmp_path: Path
) -> None:
    if typed[-1].startswith("hydra/launcher"):
        require_launcher(typed[-1])
    ended = call("train", *SMALL, *typed)
    assert ended.status == 2
    assert ended.err == f"error: {message}\n"
    assert list(tmp_path.iterdir()) == []


def test_another_base_is_refused(call: Call, tmp_path: Path) -> None:
    """More values may be added to those of the keys that were swept."""
    folder = tmp_path / "outputs" / "sweeps" / "s"
    few = ("trainer.limit_train_batches=1", "trainer.limit_test_batches=0")
    assert call(*SWEEP, *few, "optimizer.lr=0.1,0.2").status == 0
    ended = call(*SWEEP, *few, "optimizer.lr=0.1,0.2", "optimizer.momentum=0.5")
    assert ended.status == 2
    told = f"{folder / 'lr-0.1'}: holds a run with optimizer.momentum=0.9 already"
    assert ended.err == f"error: {told}; take another name for the sweep (job lr-0.1)\n"
    ended = call(*SWEEP, *few, "optimizer.lr=0.3,0.4", "trainer.max_epochs=2")
    assert ended.status == 2
    told = "holds a sweep with trainer.max_epochs=1, not 2; take another name"
    assert ended.err == f"error: {folder.relative_to(tmp_path)}: {told}\n"
    ended = call(*SWEEP, *few, "optimizer.lr=0.3,0.4", "callbacks=[default,ema]")
    assert ended.status == 2
    assert "holds a sweep with callbacks.ema._target_=None, not mnv2" in ended.err
    ended = call(*SWEEP, *few, "seed=1,2")
    assert ended.status == 2
    assert "holds a sweep over optimizer.lr, not seed; take another name" in ended.err
    ended = call(*SWEEP, *few, "optimizer.lr=0.3")
    told = "holds a sweep over optimizer.lr, not nothing; give two values or more of each, or take"
    assert told in ended.err
    assert not (folder / "seed-1").exists()
    ended = call(*SWEEP, *few, "optimizer.lr=0.2,0.3")
    assert ended.status == 0
    assert "3 of 3 runs finished" in ended.out
    assert ended.out.count("already finished") == 1
    ended = call("train", *SMALL, "optimizer.lr=0.1,0.2")
    assert ended.err == "error: optimizer.lr=0.1,0.2: several values need -m, for a sweep\n"
    ended = call("export", "run_dir=outputs/sweeps/s")
    assert "not a run's folder (it holds runs, such as lr-0.1)" in ended.err
    for verb in ("evaluate", "report"):  # a job's folder, under its name, is a run's
        ended = call(verb, f"run_dir={folder / 'lr-0.1'}")
        assert ended.status == 0, ended.err


def test_a_name_is_for_a_sweep(call: Call, tmp_path: Path) -> None:
    ended = call("train", *SMALL, "sweep=s")
    assert ended.status == 2
    assert ended.err == "error: sweep=s: names a sweep, which -m starts\n"
    ended = call("train", "-m", *SMALL, "sweep=a,b")
    assert ended.status == 2
    assert ended.err == "error: sweep: one name, not several\n"
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_of_one(call: Call, tmp_path: Path) -> None:
    """Nothing is swept: its name is all that was typed, as Hydra writes it."""
    few = (
        "data.val_size=100",
        "trainer.limit_train_batches=1",
        "trainer.enable_progress_bar=false",
    )
    typed = ("train", "-m", *few, "data.batch_size=50", "trainer.max_epochs=1", "sweep=s")
    ended = call(*typed)
    assert ended.status == 0, ended.err
    assert ended.out.startswith("-m: one job, as nothing is swept; ")
    (job,) = (tmp_path / "outputs" / "sweeps" / "s").glob("*/result.json")
    name = "val_size-100_limit_train_batches-1_enable_progress_bar-False_batch_size-50_max_epochs-1"
    assert job.parent.name == name

    shutil.rmtree(job.parent / "checkpoints")  # to save space: a finished job needs none
    ended = call(*typed)
    assert ended.status == 0, ended.err
    assert "already finished" in ended.out


def test_a_link_out_of_the_folder(call: Call, tmp_path: Path) -> None:
    """Hydra would write its multirun.yaml through it."""
    (tmp_path / "victim").write_text("mine\n")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "multirun.yaml").symlink_to(tmp_path / "victim")
    ended = call("train", "-m", *SMALL, "seed=1,2", "hydra.sweep.dir=s")
    assert ended.status == 2
    assert "leads out of the run's folder" in ended.err
    assert (tmp_path / "victim").read_text() == "mine\n"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory cannot be limited so")
def test_a_job_that_gets_no_memory(tmp_path: Path) -> None:
    """A real allocation that fails: 8 GB, where the process may have as much in all."""
    limit = 8_000_000_000
    code = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit})); "
    code += "from mnv2_lightning.train import main; main()"
    typed = (
        "-m",
        "data.batch_size=2000",
        "data.image_size=1024,28",
        "trainer.limit_train_batches=1",
        "trainer.limit_val_batches=1",
        "trainer.limit_test_batches=0",
        "trainer.max_epochs=1",
        "callbacks.test_images=null",
        "sweep=s",
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *typed],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    assert "1 of 2 runs finished" in ended.stdout
    folder = tmp_path / "outputs" / "sweeps" / "s"
    assert "allocate" in record(folder / "image_size-1024")["error"]
    assert record(folder / "image_size-28")["status"] == "finished"


FEW = (
    "-m",
    "callbacks.test_images=null",
    "data.val_size=1000",
    "model.width_mult=0.25",
    "trainer.limit_train_batches=5",
    "trainer.limit_test_batches=2",
    "trainer.max_epochs=12",
)


def start_a_sweep(
    folder: Path, name: str = "sweep=s", *, environment: dict[str, str] | None = None
) -> tuple[subprocess.Popen[str], Path]:
    """Once its second job of three has trained an epoch; and that job's folder."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mnv2_lightning.train", *FEW, "seed=1,2,3", name],
        cwd=folder,
        env=os.environ | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (found := list(folder.glob("outputs/sweeps/*/seed-2/checkpoints/last.ckpt"))):
        assert process.poll() is None
        time.sleep(0.05)
    return process, found[0].parents[1]


def children(process: int) -> list[int]:
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(number) for number in path.read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")
def test_a_job_that_the_system_kills(tmp_path: Path) -> None:
    """As where memory runs out: it is recorded, the others run, in the same folder; the same
    command goes on, here with the name of the folder, as the sweep had none.
    """
    process, job = start_a_sweep(tmp_path, "sweep=null")
    (trained,) = (grandchild for child in children(process.pid) for grandchild in children(child))
    os.kill(trained, signal.SIGKILL)
    out, err = process.communicate()
    assert process.returncode == 1
    killed = "killed by SIGKILL, as the system does where memory runs out"
    assert err == f"error: {job}: {killed}\n"
    assert "2 of 3 runs finished" in out
    assert record(job)["status"] == "failed"
    assert record(job)["error"] == killed
    assert len(list(tmp_path.glob("outputs/sweeps/*"))) == 1
    process, _ = start_a_sweep(tmp_path, f"sweep={job.parent.name}")
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "resumes after epoch" in out
    assert record(job)["status"] == "finished"


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize(
    ("sent", "status", "to_all"), [(signal.SIGINT, 130, True), (signal.SIGTERM, 143, False)]
)
def test_signals_to_a_sweep(
    sent: signal.Signals, status: int, to_all: bool, tmp_path: Path
) -> None:
    """As a terminal sends them, and as `kill` does: one line, nothing is left behind."""
    process, job = start_a_sweep(tmp_path)
    if to_all:
        os.killpg(process.pid, sent)
    else:
        process.send_signal(sent)
    _, err = process.communicate(timeout=10)  # ends when both have closed it
    assert process.returncode == status
    assert re.fullmatch(r"error: (interrupted|terminated); the same command resumes it .*\n", err)
    assert record(job)["status"] == "interrupted"
    assert not job.with_name("seed-3").exists()
