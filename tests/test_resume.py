"""Resuming a run: bit-exact, in its own folder, with the same config."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import DictConfig, OmegaConf

from mnv2_lightning import build
from mnv2_lightning.reports.collect import rows as report_rows
from mnv2_lightning.runs.checkpoint_io import DurableCheckpointIO
from mnv2_lightning.runs.config import flatten, plain
from mnv2_lightning.runs.stored_config import holds_this_run, read_config, resumed_config
from mnv2_lightning.schema.errors import ConfigError
from mnv2_lightning.train import train
from tests.conftest import AUGMENTED, FULL, SMALL, Configure, load, record, rows


def resumed(run: Path, *overrides: str) -> DictConfig:
    """The config that `resume=RUN` and `overrides` make."""
    logger = {"csv": {"_target_": "mnv2_lightning.runs.csv_logger.CSVLogger", "run_dir": str(run)}}
    return resumed_config(OmegaConf.create({"resume": str(run), "logger": logger}), overrides)


def cut_after_one_epoch(
    configure: Configure, run_dir: Path, *overrides: str, base: tuple[str, ...] = SMALL
) -> None:
    """A run that ends where a crash after its first epoch would have left it, part of the second
    epoch logged."""
    import lightning.pytorch as L

    class Crash(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
            if trainer.global_step == 14:
                raise RuntimeError("power cut")

    plain = build.build_callbacks

    def with_crash(cfg: Any) -> list[Any]:
        return [*plain(cfg), Crash()]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "build_callbacks", with_crash)
        with pytest.raises(RuntimeError, match="power cut"):
            train(configure(*base, *overrides, run_dir=run_dir))


def assert_same(a: Any, b: Any, path: str = "") -> None:
    """Deep equality, to the bit."""
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}.{index}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a.cpu(), b.cpu()), path  # a resumed run's best score is on the CPU
    else:
        assert a == b, path


def comparable(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """All of it but for times, paths, max_epochs and overrides."""
    callbacks = {
        name: {k: v for k, v in state.items() if not re.search("path|best_k_models", k)}
        for name, state in checkpoint["callbacks"].items()
        if not name.startswith("Throughput")
    }
    asked = flatten(checkpoint["hyper_parameters"])
    del asked["trainer.max_epochs"], asked["data.dir"]
    outside = ("dirpath", "run_dir", "overrides")
    kept = {key: value for key, value in asked.items() if not key.endswith(outside)}
    return checkpoint | {"callbacks": callbacks, "hyper_parameters": kept}


def curves(run: Path) -> list[dict[str, str]]:
    """metrics.csv without times."""
    return [{k: v for k, v in r.items() if k != "images_per_second"} for r in rows(run)]


@pytest.mark.parametrize(
    "overrides", [(), ("callbacks=[default,ema]", *AUGMENTED)], ids=["plain", "ema-augmented"]
)
def test_resumed_equals_uninterrupted(
    overrides: tuple[str, ...], configure: Configure, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    base = (*FULL, "callbacks.test_images=null")  # with TensorBoard
    train(configure(*base, *overrides, run_dir=whole))
    cut_after_one_epoch(configure, cut, *overrides, base=base)
    assert record(cut)["status"] == "failed"
    assert "power cut" in record(cut)["error"]
    result = train(resumed(cut))
    assert result["status"] == "finished"
    assert_same(comparable(load(cut)), comparable(load(whole)))
    assert curves(cut) == curves(whole)
    assert [len(list(run.glob("events*"))) for run in (whole, cut)] == [1, 2]
    for key in ("test_accuracy", "test_loss", "val_accuracy", "tested_checkpoint"):
        assert result[key] == record(whole)[key]


def test_killed_after_a_checkpoint(configure: Configure, tmp_path: Path) -> None:
    """All that was logged before it is on the disk, also what is fewer than a log's steps."""
    odd = ("trainer.log_every_n_steps=4",)  # of 10 steps an epoch
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(configure(*SMALL, *odd, run_dir=whole))
    save = DurableCheckpointIO.save_checkpoint
    with pytest.MonkeyPatch.context() as patch:

        def dies(self: DurableCheckpointIO, content: Any, path: Any, **kwargs: Any) -> None:
            save(self, content, path, **kwargs)
            if Path(path).stem == "last":
                patch.setattr("mnv2_lightning.runs.csv_logger.write_text", lambda *args: None)
                raise RuntimeError("killed")

        patch.setattr(DurableCheckpointIO, "save_checkpoint", dies)
        with pytest.raises(RuntimeError, match="killed"):
            train(configure(*SMALL, *odd, run_dir=cut))
    train(resumed(cut))
    assert curves(cut) == curves(whole)


def test_a_run_that_stopped_early_stays_stopped(configure: Configure, tmp_path: Path) -> None:
    """Killed in its test it tests, and trains no more."""
    early = (
        "callbacks=[default,early_stopping]",
        "callbacks.early_stopping.patience=1",
        "callbacks.early_stopping.min_delta=10",
        "trainer.max_epochs=9",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning.pytorch.Trainer.test", raise_killed)
        with pytest.raises(RuntimeError, match="killed"):
            train(configure(*SMALL, *early, run_dir=tmp_path))
    assert load(tmp_path)["epoch"] == 1
    assert train(resumed(tmp_path))["status"] == "finished"
    assert load(tmp_path)["epoch"] == 1


def raise_killed(*args: Any, **kwargs: Any) -> None:
    raise RuntimeError("killed")


def test_killed_while_a_finished_run_is_extended(configure: Configure, tmp_path: Path) -> None:
    """Before it trains: the same command again does not take it for finished."""
    short = (*SMALL, "scheduler=constant")
    train(configure(*short, "trainer.max_epochs=1", run_dir=tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mnv2_lightning.runs.checkpoints.tidy", raise_killed)
        with pytest.raises(RuntimeError, match="killed"):
            train(resumed(tmp_path, "trainer.max_epochs=2"))
    train(resumed(tmp_path, "trainer.max_epochs=2"))
    assert load(tmp_path)["epoch"] == 1


def test_killed_at_its_very_start(configure: Configure, tmp_path: Path) -> None:
    """With a record and no config yet: the same command starts it again."""
    cfg = configure(*SMALL, run_dir=tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mnv2_lightning.runs.config.save", raise_killed)
        with pytest.raises(RuntimeError, match="killed"):
            train(cfg)
    assert (tmp_path / "result.json").exists()
    assert not holds_this_run(tmp_path, cfg)


def test_resume_of_a_finished_run_does_nothing(
    run: Path, caplog: pytest.LogCaptureFixture, configure: Configure
) -> None:
    caplog.set_level("INFO")
    before = (run / "checkpoints" / "last.ckpt").read_bytes()
    assert train(resumed(run))["status"] == "finished"
    assert "already finished" in caplog.text
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == before


def test_other_devices_do_not_train_a_finished_run_again(run: Path) -> None:
    before = (run / "result.json").read_bytes()
    train(resumed(run, "trainer.accelerator=cpu", "trainer.devices=1"))
    assert (run / "result.json").read_bytes() == before


def test_a_cut_resume_shows_no_old_result(configure: Configure, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(configure(*SMALL, "trainer.max_epochs=1", run_dir=folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mnv2_lightning.classifier.Classifier.training_step", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(resumed(folder, "trainer.max_epochs=2"))
    assert record(folder)["status"] == "failed"
    assert record(folder)["test_accuracy"] is None


def test_more_epochs_go_on_with_a_finished_run(configure: Configure, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(configure(*SMALL, "scheduler=constant", "trainer.max_epochs=1", run_dir=folder))
    seconds = record(folder)["train_seconds"]
    train(resumed(folder, "trainer.max_epochs=2"))
    assert record(folder)["epochs"] == 2
    assert load(folder)["global_step"] == 20
    assert record(folder)["train_seconds"] > seconds
    assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["max_epochs"] == 2
    assert record(folder)["overrides"]["trainer.max_epochs"] == 2
    assert record(folder)["overrides"]["scheduler"] == "constant"
    (row,) = report_rows([folder])
    assert row["overrides"]["trainer.max_epochs"] == row["epochs"] == 2


STEPS = ("trainer.max_epochs=-1", "trainer.max_steps=14")


def test_more_steps_go_on_with_a_finished_run(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """14 steps end within the second epoch of 10; the third follows, by the new schedule."""
    caplog.set_level("INFO")
    train(configure(*SMALL, *STEPS, run_dir=tmp_path))
    result = train(resumed(tmp_path, "trainer.max_steps=25"))
    assert "resumes after epoch 2, step 14: " in caplog.text
    assert (
        "trainer.max_steps=25 instead of 14: the learning rate follows the schedule of the new "
        "length from here on, and the rest of epoch 2 is left out; the result differs from that "
        "of an uninterrupted run"
    ) in caplog.text
    assert result["status"] == "finished"
    assert result["epochs"] == 4
    assert result["overrides"]["trainer.max_steps"] == 25
    assert load(tmp_path)["global_step"] == 25
    table = rows(tmp_path)
    steps = {int(r["step"]): r for r in table if r["train/loss"]}
    assert list(steps) == [0, *range(1, 25, 2), 24]
    assert [int(r["step"]) for r in table if r["val/loss"]] == [9, 13, 23, 24]
    assert [steps[step]["epoch"] for step in (13, 15, 23, 24)] == ["1", "2", "2", "3"]
    assert float(steps[15]["lr"]) > float(steps[13]["lr"])
    before = (tmp_path / "checkpoints" / "last.ckpt").read_bytes()
    train(resumed(tmp_path))
    assert (tmp_path / "checkpoints" / "last.ckpt").read_bytes() == before


@pytest.mark.parametrize(
    ("scheduler", "differs"), [("linear", True), ("cosine", True), ("constant", False)]
)
def test_more_epochs_are_told_to_change_the_schedule(
    scheduler: str,
    differs: bool,
    configure: Configure,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    few = (*SMALL, f"scheduler={scheduler}", "trainer.max_epochs=1", "trainer.limit_test_batches=0")
    train(configure(*few, run_dir=tmp_path))
    train(resumed(tmp_path, "trainer.max_epochs=2"))
    message = "trainer.max_epochs=2 instead of 1: the learning rate follows the schedule of the new"
    assert (message in caplog.text) == differs


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr=0.2", r"optimizer\.lr=0\.2: cannot change .* \(it is 0\.1\)"),
        ("data.batch_size=10", "cannot change"),
        ("seed=5", "seed=5: cannot change"),
        ("trainer.max_time={hours: 1}", r"trainer\.max_time\.hours=1: cannot change"),
        ("callbacks.best=null", "cannot change"),
        ("model=tutorial", "a group cannot change"),
        ("optimizer.momentun=1", "did you mean optimizer.momentum"),
    ],
)
def test_resume_refuses_what_changes_the_run(run: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resumed(run, override)


@pytest.mark.parametrize(
    "override",
    [
        "trainer.max_epochs=9",
        "trainer.max_steps=99",
        "trainer.enable_progress_bar=false",
        "callbacks.progress=null",
        "logger=csv",
        "optimizer.lr=0.1",
    ],
)
def test_resume_takes_what_does_not(run: Path, override: str) -> None:
    resumed(run, override)


def test_config_holds_no_path_of_the_runs_own(run: Path) -> None:
    text = (run / "config.yaml").read_text()
    assert "$" not in text
    assert str(run.parent) not in text
    assert plain(read_config(run))["callbacks"]["last"]["dirpath"] == str(run / "checkpoints")


def test_a_moved_run_goes_on_and_keeps_its_best(configure: Configure, tmp_path: Path) -> None:
    """The first epoch stays the best where later ones are no better."""
    still = ("optimizer.lr=1e-9", "scheduler=constant", "trainer.max_epochs=1")
    train(configure(*SMALL, *still, run_dir=tmp_path / "a"))
    (tmp_path / "a").rename(tmp_path / "b")
    before = load(tmp_path / "b", "best")["validation"]
    monkey = before | {"val/accuracy": 1.0}
    for name in ("last", "best"):  # as if it had been perfect
        path = tmp_path / "b" / "checkpoints" / f"{name}.ckpt"
        content = torch.load(path, weights_only=True) | {"validation": monkey}
        for state in content["callbacks"].values():
            if "best_model_score" in state and state["monitor"]:
                state["best_model_score"] = torch.tensor(1.0)
                state["best_k_models"] = dict.fromkeys(state["best_k_models"], torch.tensor(1.0))
        DurableCheckpointIO().save_checkpoint(content, path)
    result = train(resumed(tmp_path / "b", "trainer.max_epochs=2"))
    assert result["tested_checkpoint"] == "best"
    assert load(tmp_path / "b", "best")["epoch"] == 0
    assert result["val_accuracy"] == 1.0
