"""Weights & Biases, offline, and MLflow, in a database: what a run leaves there, and its end."""

import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mnv2_lightning.callbacks.process_guard import ProcessGuard
from tests.conftest import SMALL, Call

ROOT = Path(__file__).resolve().parents[1]
FEW = (*SMALL, "callbacks.test_images=null", "logger.tensorboard=null")


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of this machine do not hold."""
    for name in ("WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_missing(
    name: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, before a folder is made, also for a sweep."""
    monkeypatch.setitem(sys.modules, name, None)
    for typed in ((), ("-m", "seed=0,1")):
        ended = call("train", *typed, *FEW, f"logger=[default,{name}]")
        assert ended.status == 2
        assert re.fullmatch(
            rf"error: logger\.{name}\._target_=.*: there is no package {name}; "
            rf'pip install -e "\.\[{name}\]"( \(job seed-0\))?\n',
            ended.err,
        )
        assert list(tmp_path.iterdir()) == []


def interrupt(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Raise `error` at the start of the second epoch."""

    def begin(self: Any, trainer: Any, *args: Any) -> None:
        if trainer.current_epoch == 1 and trainer.training:
            raise error

    monkeypatch.setattr(ProcessGuard, "on_train_batch_start", begin)


# Errors, their exit statuses and MLflow's.
ENDINGS: dict[str, tuple[BaseException, int, str]] = {
    "error": (RuntimeError("broken"), 1, "FAILED"),
    "Ctrl-C": (KeyboardInterrupt(), 130, "KILLED"),
}


# Weights & Biases


def records(run: Path) -> Iterator[list[Any]]:
    """The records of each time that wandb logged the run: protocol buffers in LevelDB's format."""
    pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    for path in sorted(run.glob("wandb/*/*.wandb")):
        found, content, at, part = [], path.read_bytes(), 7, b""
        while at < len(content):
            length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
            part += content[at + 7 : at + 7 + length]
            at += 7 + length
            if (left := -at % 2**15) < 7:  # blocks are padded
                at += left
            if kind in (1, 4):  # a whole record, or the last part of one
                found.append(pb.Record.FromString(part))
                part = b""
        yield found


def of_kind(found: list[Any], kind: str) -> list[Any]:
    return [getattr(r, kind) for r in found if r.WhichOneof("record_type") == kind]


def logged(found: list[Any]) -> dict[str, float]:
    """The last value of each metric."""
    values: dict[str, float] = {}
    for history in of_kind(found, "history"):
        values |= {(x.key or x.nested_key[0]): float(x.value_json) for x in history.item}
    return values


def test_wandb(call: Call, tmp_path: Path) -> None:
    """One wandb run, however often it is resumed; no trust is needed."""
    pytest.importorskip("wandb")
    ended = call("train", *FEW, "logger=[default,wandb]", "hydra.run.dir=runs/a")
    assert ended.status == 0, ended.err
    # A stranger's folder may hold one; wandb reads that of the current folder only.
    (tmp_path / "runs" / "a" / "wandb" / "settings").write_text("[default]\nentity = evil\n")
    ended = call("train", "resume=runs/a", "trainer.max_epochs=3")
    assert ended.status == 0, ended.err
    assert "resumes after epoch 2" in ended.out
    first, second = records(tmp_path / "runs" / "a")
    for found, epochs in ((first, 2), (second, 3)):
        run = of_kind(found, "run")[0]
        assert (run.project, run.display_name, run.run_group) == ("mnv2_lightning", "runs/a", "")
        assert run.entity == ""
        assert run.run_id == (tmp_path / "runs" / "a" / "wandb_run_id.txt").read_text()
        assert of_kind(found, "exit")[0].exit_code == 0
        assert {"train/loss", "val/accuracy", "test/accuracy"} <= set(logged(found))
        assert logged(found)["epoch"] == epochs
    config = {x.key: x.value_json for x in of_kind(first, "config")[0].update}
    assert yaml.safe_load(config["optimizer"])["lr"] == 0.1
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink()]
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "cache"}
    assert call("evaluate", "run_dir=runs/a").status == 0
    assert len(list(records(tmp_path / "runs" / "a"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
def test_wandb_of_a_run_that_fails(
    ending: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    error, status, _ = ENDINGS[ending]
    interrupt(monkeypatch, error)
    assert call("train", *FEW, "logger=[default,wandb]", "hydra.run.dir=a").status == status
    (found,) = records(tmp_path / "a")
    assert of_kind(found, "exit")[0].exit_code == 1
    assert "test/loss" not in logged(found)


# MLflow


def mlflow_runs(folder: Path) -> list[dict[str, Any]]:
    """The runs in the database, the newest first."""
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{folder}/outputs/mlflow.db")
    experiment = client.get_experiment_by_name("mnv2_lightning")
    found = client.search_runs([experiment.experiment_id])
    return [
        {"name": x.info.run_name, "status": x.info.status, **x.data.params, **x.data.metrics}
        for x in found
    ]


def test_mlflow(call: Call, tmp_path: Path) -> None:
    """One MLflow run, however often it is resumed; no trust is needed."""
    pytest.importorskip("mlflow")
    ended = call("train", *FEW, "logger=[default,mlflow]", "hydra.run.dir=runs/a")
    assert ended.status == 0, ended.err
    (first,) = mlflow_runs(tmp_path)
    assert (first["name"], first["status"], first["epoch"]) == ("runs/a", "FINISHED", 2)
    assert first["optimizer.lr"] == "0.1"
    assert {"train/loss", "val/accuracy", "test/accuracy"} <= set(first)
    ended = call("train", "resume=runs/a", "trainer.max_epochs=3")
    assert ended.status == 0, ended.err
    (second,) = mlflow_runs(tmp_path)
    assert (second["name"], second["status"], second["epoch"]) == ("runs/a", "FINISHED", 3)
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "outputs"}


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
def test_mlflow_of_a_run_that_fails(ending: str, call: Call, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    error, status, listed = ENDINGS[ending]
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, error)
        assert call("train", *FEW, "logger=[default,mlflow]", "hydra.run.dir=a").status == status
    (run,) = mlflow_runs(tmp_path)
    assert run["status"] == listed
    assert "test/loss" not in run
    assert call("train", "resume=a").status == 0
    assert [run["status"] for run in mlflow_runs(tmp_path)] == ["FINISHED"]


@pytest.mark.slow
def test_mlflow_without_the_run(call: Call, tmp_path: Path) -> None:
    """In another store: a new run there."""
    pytest.importorskip("mlflow")
    command = ("train", *FEW, "logger=[default,mlflow]", "hydra.run.dir=a")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
        assert call(*command).status == 0
    ended = call(*command, "trainer.max_epochs=3")
    assert ended.status == 0, ended.err
    assert re.search(r"MLflow has no run \w+, which .*mlflow_run_id.txt names", ended.out)
    assert [run["epoch"] for run in mlflow_runs(tmp_path)] == [3]


# Both


@pytest.mark.slow
def test_the_jobs_of_a_sweep(tmp_path: Path) -> None:
    """A run each, in a group of wandb's; each job is a process of its own."""
    for name in ("wandb", "mlflow"):
        pytest.importorskip(name)
    few = [f"trainer.limit_{split}_batches=2" for split in ("train", "val", "test")]
    ended = subprocess.run(
        [sys.executable, "-m", "mnv2_lightning.train", "-m", *few, "trainer.max_epochs=1",
         "logger=[wandb,mlflow]", "sweep=s", "seed=0,1"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    ids = set()
    for seed in (0, 1):
        (found,) = records(tmp_path / "outputs" / "sweeps" / "s" / f"seed-{seed}")
        run = of_kind(found, "run")[0]
        assert (run.display_name, run.run_group) == (f"s/seed-{seed}", "s")
        assert of_kind(found, "exit")[0].exit_code == 0
        ids.add(run.run_id)
    assert len(ids) == 2
    seen = {(run["name"], run["seed"], run["status"]) for run in mlflow_runs(tmp_path)}
    assert seen == {("s/seed-0", "0", "FINISHED"), ("s/seed-1", "1", "FINISHED")}
