"""A search: every trial recorded once, whatever ends its process; pruning; the best as a file."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import yaml
from hydra import compose
from omegaconf import DictConfig
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from mnv2_lightning.classifier import Classifier
from mnv2_lightning.cli.conf_files import config_dir
from mnv2_lightning.runs.config import flatten, plain
from mnv2_lightning.runs.stored_config import read_config
from mnv2_lightning.sweeps import studies
from mnv2_lightning.system import hydra_compat
from tests.conftest import SMALL, Call, record

PLAIN_STEP = Classifier.training_step
FEW = tuple(o for o in SMALL if not o.startswith("optimizer.lr"))
SEARCH = ("search", *FEW, "search.name=s", "search.trials=3")


def folder_of(tmp_path: Path) -> Path:
    return tmp_path / "outputs" / "searches" / "s"


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="s", storage=f"sqlite:///{folder / 'study.db'}").trials


def test_a_search(call: Call, tmp_path: Path) -> None:
    """Trials are runs; the test set is not read; the best is an experiment that composes to the
    trial's config; more trials may be asked for.
    """
    overrides = (*SEARCH, "model.depthwise_activation=none", "optimizer=adamw", "seed=1")
    ended = call(*overrides)
    assert ended.status == 0, ended.err
    folder = folder_of(tmp_path)
    found = json.loads((folder / "search.json").read_text())
    assert (found["trials"], found["finished"], found["failed"]) == (3, 3, 0)
    for number, trial in enumerate(trials(folder)):
        run = folder / f"{number:04d}"
        assert record(run)["status"] == "finished"
        assert record(run)["val_accuracy"] == trial.value
        assert record(run)["test_accuracy"] is None
        config = read_config(run)
        assert config.optimizer.lr == trial.params["optimizer.lr"]
        assert config.model.expand_ratio == trial.params["model.expand_ratio"]
    best = found["best"]
    assert best["value"] == max(trial.value or 0 for trial in trials(folder))
    assert call("report", f"run_dir={folder}").status == 0  # again, of the records
    for name in ("history", "importances"):
        assert (folder / "report" / f"{name}.png").stat().st_size > 5000
    assert (folder / "report" / "report.html").is_file()

    with hydra_compat.initialize(str(config_dir())):
        place = f"hydra.searchpath=[{folder}]"
        again = compose("train", [place, "experiment=s"], return_hydra_config=False)
    again.run_dir = str(folder / f"{best['number']:04d}")
    again.data.dir = None
    trial_config = flatten(plain(read_config(Path(again.run_dir))))
    composed = flatten(plain(again))
    outside = (
        "overrides",
        "resume",
        "trainer.limit_test_batches",
        "command",
        "data.dir",
        "sweep",
        "traceback",
        "run_dir",
        "trainer.devices",
    )
    for key in trial_config.keys() | composed.keys():
        if not key.endswith(outside) and not key.startswith("callbacks.test_images"):
            assert composed[key] == trial_config[key], key
    assert composed["callbacks.test_images"] is None

    written = yaml.safe_load((folder / "experiment" / "s.yaml").read_text())
    assert written["seed"] == 1
    assert "seed" not in written.get("data", {})  # which follows it
    ended = call("train", "--config-dir", str(folder), "experiment=s", "hydra.run.dir=best")
    assert ended.status == 0, ended.err
    assert record(tmp_path / "best")["val_accuracy"] == best["value"]

    before = [(run, os.stat(run)) for run in folder.glob("*/result.json")]
    ended = call(*overrides, "search.trials=4")
    assert ended.status == 0, ended.err
    assert len(trials(folder)) == 4
    assert all(os.stat(run) == stat for run, stat in before)


def test_another_search_of_that_name(call: Call) -> None:
    assert call(*SEARCH, "search.trials=1").status == 0
    before = set(Path().rglob("*"))
    ended = call(*SEARCH, "model.dropout=0.5")
    assert ended.status == 2
    assert set(Path().rglob("*")) == before
    told = "search.name=s: is a search with model.dropout=0.0, not 0.5; take another name"
    assert ended.err == f"error: {told}\n"
    ended = call(*SEARCH, "search.space.optimizer.lr.high=3")
    assert "search.space.optimizer.lr.high=2.0, not 3; take another name" in ended.err


def test_no_importances_of_equal_values() -> None:
    study = optuna.create_study()
    for number in range(3):
        params: dict[str, Any] = {"x": number}
        study.add_trial(
            optuna.create_trial(
                value=1.0,
                params=params,
                distributions={"x": optuna.distributions.IntDistribution(0, 9)},
            )
        )
    assert studies.summary(study, "s")["importances"] is None


def test_trials_that_fail(call: Call, tmp_path: Path) -> None:
    """Each is recorded, with its traceback; the search continues."""
    errors = {
        0: ValueError("broken"),
        1: MemoryError("no memory left"),
        2: SystemExit(0),
    }
    steps = iter(range(1000))

    def step(self: Classifier, batch: Any, batch_idx: int) -> torch.Tensor:
        number = next(steps)
        if number in errors:
            raise errors[number]
        return PLAIN_STEP(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "training_step", step)
        ended = call(*SEARCH, "search.trials=4")
    assert ended.status == 0, ended.err
    folder = folder_of(tmp_path)
    for number, error in errors.items():
        trial = trials(folder)[number]
        assert trial.state.name == "FAIL"
        assert (str(error) if number < 2 else "sys.exit(0)") in trial.user_attrs["error"]
        assert (folder / f"{number:04d}" / "error.txt").is_file()
    assert trials(folder)[3].state.name == "COMPLETE"
    assert "4 trials: 1 finished, 0 pruned, 3 failed" in ended.out


@pytest.mark.slow
def test_pruned_trials_stop_early(call: Call, tmp_path: Path) -> None:
    """Where the others do better; what they had left is told as saved."""
    space = ("~search.space.optimizer.lr", "+search.space.optimizer.lr.choices=[0.1,1e-9]")
    few = ("search.pruner.n_startup_trials=1", "search.trials=6", "trainer.max_epochs=4")
    ended = call(*SEARCH, *few, *space)
    assert ended.status == 0, ended.err
    folder = folder_of(tmp_path)
    states = [trial.state.name for trial in trials(folder)]
    assert "PRUNED" in states
    for number, trial in enumerate(trials(folder)):
        run = record(folder / f"{number:04d}")
        is_pruned = trial.state.name == "PRUNED"
        assert run["status"] == ("pruned" if is_pruned else "finished")
        assert (run["epochs"] < 4) == is_pruned
        assert list(trial.intermediate_values)[-1] == (25 if is_pruned else 100)
    found = json.loads((folder / "search.json").read_text())
    assert found["steps_saved"] == pytest.approx(0.75 * states.count("PRUNED") / 6)


def test_interrupted(call: Call, tmp_path: Path) -> None:
    """Ctrl-C ends the search; the same command resumes the trial."""
    steps = iter(range(1000))

    def step(self: Classifier, batch: Any, batch_idx: int) -> torch.Tensor:
        if next(steps) == 15:  # in the second epoch
            raise KeyboardInterrupt
        return PLAIN_STEP(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "training_step", step)
        assert call(*SEARCH).status == 130
    folder = folder_of(tmp_path)
    assert [trial.state.name for trial in trials(folder)] == ["RUNNING"]
    ended = call(*SEARCH)
    assert ended.status == 0, ended.err
    assert "resumes after epoch 1" in ended.out
    assert [trial.state.name for trial in trials(folder)] == ["COMPLETE"] * 3
    assert [trial.user_attrs["attempts"] for trial in trials(folder)] == [1, 1, 1]


@pytest.mark.slow
def test_killed_before_parameters_are_drawn(call: Call, tmp_path: Path) -> None:
    """The same command takes the trial."""

    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studies, "_trial", killed)
        assert call(*SEARCH).status == 130
    (begun,) = trials(folder_of(tmp_path))
    assert (begun.state.name, begun.params) == ("RUNNING", {})
    assert call(*SEARCH).status == 0
    assert [trial.state.name for trial in trials(folder_of(tmp_path))] == ["COMPLETE"] * 3


@pytest.mark.slow
def test_two_machines_on_one_database(call: Call, tmp_path: Path) -> None:
    """Each resumes its own trials alone, and has a folder of its own."""
    shared = (*SEARCH, f"search.storage=sqlite:///{tmp_path / 'shared.db'}")

    def on(machine: str) -> int:
        return call(*shared, f"hydra.run.dir={tmp_path / machine}").status

    def interrupted(self: Classifier, batch: Any, batch_idx: int) -> torch.Tensor:
        raise KeyboardInterrupt

    def states() -> list[str]:
        storage = f"sqlite:///{tmp_path / 'shared.db'}"
        return [t.state.name for t in optuna.load_study(study_name="s", storage=storage).trials]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "training_step", interrupted)
        assert on("a") == 130
    assert on("b") == 0
    assert states() == ["RUNNING", "COMPLETE", "COMPLETE"]
    assert on("a") == 0
    assert states() == ["COMPLETE"] * 3
    assert [p.parent.name for p in (tmp_path / "a").glob("*/result.json")] == ["0000"]
    assert sorted(p.parent.name for p in (tmp_path / "b").glob("*/result.json")) == ["0001", "0002"]
    for machine in "ab":
        found = json.loads((tmp_path / machine / "search.json").read_text())
        assert (found["trials"], found["best"] is not None) == (3, True)


@pytest.mark.slow
def test_what_would_end_every_trial_ends_the_search(call: Call, tmp_path: Path) -> None:
    """With its status; the trial is not lost."""

    def step(self: Classifier, batch: Any, batch_idx: int) -> torch.Tensor:
        raise OSError(errno.ENOSPC, "No space left on device", "x")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "training_step", step)
        ended = call(*SEARCH)
    assert ended.status == 4
    assert ended.err == "error: x: No space left on device\n"
    assert call(*SEARCH).status == 0
    assert [trial.state.name for trial in trials(folder_of(tmp_path))] == ["COMPLETE"] * 3


@pytest.mark.slow
def test_a_trial_that_ends_its_process_each_time(call: Call, tmp_path: Path) -> None:
    """Has failed, in the end: a search is not to begin with it for ever. An interruption is not
    the trial's fault.
    """

    def cut(by: BaseException, status: int) -> None:
        def step(self: Classifier, batch: Any, batch_idx: int) -> torch.Tensor:
            raise by

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Classifier, "training_step", step)
            for _ in range(studies.ATTEMPTS):
                assert call(*SEARCH).status == status

    cut(KeyboardInterrupt(), 130)
    cut(OSError(errno.ENOSPC, "No space left on device", "x"), 4)
    assert call(*SEARCH).status == 0
    states = [trial.state.name for trial in trials(folder_of(tmp_path))]
    assert states == ["FAIL", "COMPLETE", "COMPLETE"]


BAD = {
    "search.trials=0": "search.trials=0: must be greater than or equal to 1",
    "search.space.optimizer.lr.low=3": "error: search.space.optimizer.lr: low must be below high",
    "search.space.optimizer.lr.low=0": "log must have low above 0",
    "search.space.optimizer.lr.low=-1 search.space.optimizer.lr.log=false": "optimizer.lr=-1",
    "+search.space.optimizer.lr.lo=3": "error: search.space.optimizer.lr.lo: extra inputs are",
    "search.space.model.expand_ratio.choices=[3]": "must be a list of two values or more",
    "search.space.model.expand_ratio.choices=[3,0]": "model.expand_ratio=0: must be greater than",
    "+search.space.model.depth={low:1,high:2}": "model.depth: unknown key",
    "~search.space.optimizer +search.space.optimizer.choices=[sgd,adam]": "optimizer=adam: there",
    "~search.space.optimizer ~search.space.model": "must hold a parameter",
    "optimizer.lr=0.1": "optimizer.lr: is set by an override, and searched in search.space",
    "data.val_size=0": "data.val_size=0: a search chooses by held-out images",
    "trainer.limit_val_batches=0": "trainer.limit_val_batches=0: a search chooses by",
    "trainer.enable_checkpointing=false": "trainer.enable_checkpointing=False: a search",
    "callbacks=[]": "callbacks={}: a search chooses by",
    "search.name=fast": "search.name=fast: is an experiment of conf/; take another name",
    "search.sampler._target_=optuna.pruners.NopPruner": "search.sampler.n_startup_trials: unknown",
    "search.sampler.n_startup=1": "did you mean search.sampler.n_startup_trials?",
    "search.pruner.n_startup_trials=-1": "search.pruner: Number of startup trials cannot be",
    "search.storage=nothing://x search.name=s": "search.storage=nothing: not the URL of a",
    "search.storage=sqlite:////no/x.db search.name=s": "search.storage: cannot be used (",
    "search.storage=sqlite://h:a/x search.name=s": "search.storage=sqlite: not the URL of a",
    "search.storage=postgresql://x search.name=s": "postgresql://...: its driver is not installed",
    "search.storage=sqlite:///x.db": "search.name: a study in search.storage needs a name",
    "fail_fast=true": "fail_fast=true: is for sweeps of train",
    "sweep=s": "sweep=s: is an option of train",
    "study=shortcut": "study=shortcut: is an option of train",
    "trainer.devices=2 trainer.strategy=ddp trainer.accelerator=cpu": "a trial is one process",
    "search/sampler=foo": "search/sampler=foo: there is none such",
}


@pytest.mark.parametrize("overrides", BAD)
def test_bad_searches(call: Call, tmp_path: Path, overrides: str) -> None:
    ended = call("search", "data.val_size=100", *overrides.split())
    assert ended.status == 2
    assert BAD[overrides] in ended.err
    assert ended.err.count("\n") == 1
    if "search.storage: " not in BAD[overrides]:
        assert list(tmp_path.iterdir()) == []


def test_without_an_accuracy_a_trial_fails(call: Call, tmp_path: Path) -> None:
    """Not the search: no validation falls into these epochs."""
    ended = call(*SEARCH, "trainer.check_val_every_n_epoch=5", "search.trials=2")
    assert "the run ended without a validation accuracy" in ended.err
    assert "no trial has finished" in ended.err
    assert ended.status == 1
    assert [t.state.name for t in trials(folder_of(tmp_path))] == ["FAIL", "FAIL"]


def test_the_check_before_training_reports_nothing(call: Call, tmp_path: Path) -> None:
    call(*SEARCH, "trainer.num_sanity_val_steps=1", "search.trials=1")
    (trial,) = trials(folder_of(tmp_path))
    assert 0 not in trial.intermediate_values


def test_a_trial_takes_a_gpu_of_its_own(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a job of a launcher does: other processes search beside this one."""
    taken: list[DictConfig] = []
    monkeypatch.setattr("mnv2_lightning.train.take_a_gpu", taken.append)
    assert call(*SEARCH, "search.trials=2").status == 0
    assert [Path(cfg.run_dir).name for cfg in taken] == ["0000", "0001"]
    assert {cfg.trainer.devices for cfg in taken} == {1}


def test_kinds_of_parameters() -> None:
    space = {
        "a": {"b": {"low": 1, "high": 4}, "c": {"low": 1, "high": 4.0, "step": 0.5}},
        "d": {"choices": ["x", None]},
    }
    assert studies.distributions(space) == {
        "a.b": IntDistribution(1, 4),
        "a.c": FloatDistribution(1, 4, step=0.5),
        "d": CategoricalDistribution(["x", None]),
    }


@pytest.mark.slow
def test_two_processes_on_one_study(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "mnv2_lightning.search",
        "callbacks.test_images=null",
        "model.width_mult=0.25",
        "data.val_size=1000",
        "trainer.limit_train_batches=5",
        "trainer.max_epochs=3",
        "search.trials=5",
        "search.name=s",
    ]
    one_core = os.environ | {"OMP_NUM_THREADS": "1"}  # each: two with two hinder each other
    processes = [subprocess.Popen(command, cwd=tmp_path, env=one_core) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    found = trials(folder_of(tmp_path))
    assert [trial.number for trial in found] == list(range(5))
    assert all(trial.state.is_finished() for trial in found)
    assert all(trial.user_attrs["attempts"] == 1 for trial in found)
