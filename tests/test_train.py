"""Training: that it learns, what it leaves behind, and that every option runs."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose
from omegaconf import DictConfig
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from mnv2_lightning.callbacks.non_finite_guard import NonFiniteGuard
from mnv2_lightning.classifier import Classifier
from mnv2_lightning.cli.conf_files import config_dir
from mnv2_lightning.evaluate import evaluate
from mnv2_lightning.runs.checkpoint_io import DurableCheckpointIO
from mnv2_lightning.runs.record import EMPTY
from mnv2_lightning.schema.errors import Diverged
from mnv2_lightning.system import hydra_compat, memory
from mnv2_lightning.train import train
from tests.conftest import FULL, SMALL, Call, Configure, load, record, rows


def test_leaves_a_whole_run(run: Path) -> None:
    there = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()}
    assert {p for p in there if not p.startswith(("events", ".lock"))} == {
        "config.yaml",
        "confusion_matrix.png",
        "metrics.csv",
        "most_confidently_wrong.png",
        "result.json",
        "test_predictions.csv",
        "checkpoints/last.ckpt",
        "checkpoints/previous.ckpt",
        "checkpoints/best.ckpt",
    }
    result = record(run)
    assert result.keys() == EMPTY.keys()
    assert {k for k, v in result.items() if v is None} <= {
        *("command", "error", "git_commit", "weights_sha256")
    }
    assert result["status"] == "finished"
    assert result["epochs"] == 2
    assert result["precision"] == "32-true"
    assert 0 <= result["test_accuracy"] <= 1
    assert result["train_seconds"] > 0


def test_checkpoints_hold_plain_data(run: Path) -> None:
    """`weights_only=True` loads them; the hyper-parameters are JSON."""
    for name in ("last", "best"):
        assert json.dumps(load(run, name)["hyper_parameters"])
        assert load(run, name)["hyper_parameters"]["optimizer"]["lr"] > 0


def test_curves(run: Path) -> None:
    """10 steps an epoch; the first and every 2nd are logged; validation at the end of each epoch;
    the test at the end.
    """
    table = rows(run)
    assert [int(r["step"]) for r in table if r["train/loss"]] == [0, *range(1, 20, 2)]
    assert [int(r["step"]) for r in table if r["val/accuracy"]] == [9, 19]
    assert [int(r["step"]) for r in table if r["test/accuracy"]] == [20]
    for tag in ("lr", "images_per_second", "train/accuracy", "val/loss", "test/loss"):
        assert any(r[tag] for r in table), tag
    assert float(table[-1]["test/accuracy"]) == pytest.approx(record(run)["test_accuracy"])


def test_figures_of_the_test(run: Path) -> None:
    for name in ("confusion_matrix", "most_confidently_wrong"):
        assert (run / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_tensorboard(run: Path) -> None:
    assert len(list(run.glob("events*"))) == 1  # of fit and test
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    tags = events.Tags()
    # In TensorBoard's order, which is alphabetical: what is asked for first comes first.
    assert sorted(tags["scalars"]) == [
        *("test/accuracy", "test/loss", "tested/val_accuracy", "train/accuracy", "train/loss"),
        *("trainer/images_per_second", "trainer/lr", "val/accuracy", "val/loss"),
    ]
    assert set(tags["images"]) == {
        "visualization/confusion_matrix",
        "visualization/most_confidently_wrong",
    }
    assert tags["graph"]
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "lr: 0.1" in text
    # HPARAMS shows a metric's last scalar: the real one, and none at a step before it was measured.
    (measured,) = events.Scalars("test/accuracy")
    assert measured.value == pytest.approx(record(run)["test_accuracy"])
    shown = plugin_data_pb2.HParamsPluginData.FromString(
        events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    ).session_start_info.hparams
    assert shown["optimizer.lr"].number_value == pytest.approx(0.1)
    assert shown["model"].string_value == "mobilenet_v2_small"
    assert shown["callbacks.ema.decay"].number_value == pytest.approx(0.99)


def to_evaluate(run: Path, **options: Any) -> DictConfig:
    """As `conf/evaluate.yaml` has it."""
    with hydra_compat.initialize(str(config_dir())):
        cfg = compose("evaluate", [f"run_dir={run}"])
    cfg.merge_with(options)
    return cfg


@pytest.mark.parametrize(("checkpoint", "split"), [("best", "test"), ("best", "val")])
def test_evaluate_equals_what_training_reported(
    run: Path, small_data: Path, checkpoint: str, split: str
) -> None:
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if "evaluation" not in p.parts}
    result = evaluate(to_evaluate(run, checkpoint=checkpoint, split=split))
    assert result["accuracy"] == record(run)[f"{split}_accuracy"]
    if split == "test":
        assert result["loss"] == record(run)["test_loss"]
    recalls = [c["recall"] * c["images"] for c in result["classes"] if c["images"]]
    assert sum(recalls) / result["images"] == pytest.approx(result["accuracy"])
    matrix = np.loadtxt(
        run / "evaluation" / f"{checkpoint}-{split}-confusion.csv",
        delimiter=",",
        skiprows=1,
        usecols=range(1, 11),
    )
    assert matrix.sum() == result["images"] == 100
    assert matrix.trace() / 100 == pytest.approx(result["accuracy"])
    changed = [p for p, t in before.items() if p != run and p.stat().st_mtime_ns != t]
    assert not changed


def test_evaluate_over_views(run: Path, small_data: Path) -> None:
    views = {"degrees": 10, "translate": 0.1}
    over_views = evaluate(to_evaluate(run, test_time_augmentation=views))
    assert over_views["views"] == 7
    assert over_views["loss"] != record(run)["test_loss"]


def test_no_test(configure: Configure) -> None:
    cfg = configure(*SMALL, "trainer.max_epochs=1", "trainer.limit_test_batches=0")
    result = train(cfg)
    assert result["status"] == "finished"
    assert result["test_accuracy"] is None


def test_divergence_is_told(configure: Configure, tmp_path: Path) -> None:
    """With step, epoch and learning rate; what the epoch before left is kept."""
    folder = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        plain_step = Classifier.training_step

        def step(self: Classifier, batch: Any, batch_idx: int) -> Any:
            return plain_step(self, batch, batch_idx) * (1 if self.current_epoch < 1 else math.nan)

        patch.setattr(Classifier, "training_step", step)
        with pytest.raises(
            Diverged, match=r"epoch 2 at step 11, learning rate 0\.05.* \(loss nan\)"
        ):
            train(configure(*SMALL, run_dir=folder))
    assert record(folder)["status"] == "diverged"
    assert record(folder)["test_accuracy"] is None
    assert load(folder, "last")["epoch"] == load(folder, "best")["epoch"] == 0


def test_divergence_of_another_rank_is_told() -> None:
    """The losses are numbers here; the second is none there."""

    def reduce(tensor: torch.Tensor, reduce_op: str) -> torch.Tensor:
        there = {"min": torch.tensor(1), "mean": torch.tensor(math.nan)}[reduce_op]
        return torch.minimum(tensor, there) if reduce_op == "min" else (tensor + there) / 2

    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(reduce=reduce), current_epoch=0)
    guard = NonFiniteGuard()
    guard.losses = [torch.tensor(1.0), torch.tensor(2.0), torch.tensor(3.0)]
    guard.steps = [(1, 0.1), (2, 0.2), (3, 0.3)]
    with pytest.raises(Diverged, match=r"step 2, learning rate 0\.2 \(loss nan\)"):
        guard._check(trainer, guard._non_finite_losses())


def test_weights_that_overflow_reach_no_checkpoint(configure: Configure, tmp_path: Path) -> None:
    """The last loss was a number, the step after it makes the weights infinite."""
    folder = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        plain_step = Classifier.optimizer_step

        def step(self: Classifier, *args: Any, **kwargs: Any) -> None:
            plain_step(self, *args, **kwargs)
            if self.global_step == 19:  # counted after this
                next(self.network.parameters()).data.fill_(math.inf)

        patch.setattr(Classifier, "optimizer_step", step)
        with pytest.raises(Diverged, match="epoch 2 at step 20"):
            train(configure(*SMALL, run_dir=folder))
    assert load(folder, "last")["epoch"] == load(folder, "best")["epoch"] == 0


def test_a_fit_that_steps_end_is_validated_there(configure: Configure, tmp_path: Path) -> None:
    ends = ("trainer.max_epochs=-1", "trainer.max_steps=14")
    train(configure(*SMALL, *ends, run_dir=tmp_path / "run"))
    table = [int(r["step"]) for r in rows(tmp_path / "run") if r["val/accuracy"]]
    assert table == [9, 13]
    assert load(tmp_path / "run")["global_step"] == 14


@pytest.mark.parametrize(("free", "is_warned"), [(10**6, True), (10**11, False), (None, False)])
def test_too_little_memory_is_told_before_training(
    free: int | None,
    is_warned: bool,
    configure: Configure,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    train(configure(*SMALL, "trainer.max_steps=0", "trainer.limit_test_batches=0"))
    assert re.search(r"  memory         about \d\.\d\d GB, training on batches of 50", caplog.text)
    message = r"warning: data\.batch_size=50 needs about 0\.0 GB more, and 0\.0 GB are free"
    assert bool(re.search(message, caplog.text)) == is_warned


def test_free_memory() -> None:
    free = memory.free_bytes(torch.device("cpu"))
    assert free is None or 10**6 < free < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_peak_memory_of_a_job_is_its_own() -> None:
    """Not that of the process that it was forked from."""
    code = """
import os
from mnv2_lightning.system.memory import peak_rss_bytes
large = bytearray(300_000_000)
del large
if os.fork() == 0:
    print(peak_rss_bytes())
else:
    os.wait()"""
    command = [sys.executable, "-c", code]
    peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(peak) < 200_000_000


def test_without_validation(configure: Configure, tmp_path: Path) -> None:
    """`data.val_size=0`: no best checkpoint, the last one is tested, no validation accuracy."""
    folder = tmp_path / "run"
    result = train(configure(*SMALL, "data.val_size=0", run_dir=folder))
    there = {p.name for p in (folder / "checkpoints").iterdir()}
    assert there == {"last.ckpt", "previous.ckpt"}
    assert result["tested_checkpoint"] == "last"
    assert result["val_accuracy"] is None
    assert result["test_accuracy"] > 0


def test_last_is_last_where_best_is_first(configure: Configure, tmp_path: Path) -> None:
    """Ten epochs, each worse than the one before; no more than three checkpoints at any time."""
    folder = tmp_path / "run"
    held: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        plain_save = DurableCheckpointIO.save_checkpoint

        def save(self: DurableCheckpointIO, *args: Any, **kwargs: Any) -> None:
            plain_save(self, *args, **kwargs)
            held.append(len(list((folder / "checkpoints").iterdir())))

        def worse(self: Classifier, batch: Any, batch_idx: int) -> None:
            self.log("val/accuracy", 1.0 - self.current_epoch / 10)

        patch.setattr(DurableCheckpointIO, "save_checkpoint", save)
        patch.setattr(Classifier, "validation_step", worse)
        few = ("trainer.limit_train_batches=1", "callbacks.test_images=null")
        train(configure(*SMALL, *few, "trainer.max_epochs=10", run_dir=folder))
    assert [load(folder, name)["epoch"] for name in ("best", "previous", "last")] == [0, 8, 9]
    assert max(held) == 3


@pytest.mark.parametrize(
    "overrides",
    [
        ("trainer.fast_dev_run=true",),
        ("trainer.enable_checkpointing=false",),
        ("trainer.limit_val_batches=0",),
        (
            "trainer.enable_progress_bar=false",
            "callbacks.test_images=null",
            "logger.tensorboard=null",
        ),
        ("callbacks=[default,early_stopping]",),
        ("trainer.gradient_clip_val=1.0", "trainer.accumulate_grad_batches=2"),
        ("optimizer=adamw", "scheduler=cosine", "classifier.label_smoothing=0.1"),
        ("optimizer=rmsprop", "scheduler=exponential"),
        ("trainer.precision=64-true",),
        ("trainer.max_epochs=-1", "trainer.max_steps=3"),
        ("data=fashion_mnist",),
        ("trainer.limit_test_batches=1", "trainer.profiler=simple"),
    ],
    ids=lambda overrides: overrides[0],
)
def test_every_option_runs(overrides: tuple[str, ...], configure: Configure) -> None:
    """One epoch each, and a test."""
    trainer = ("trainer.max_epochs=1",)
    result = train(configure(*SMALL, *trainer, *overrides))
    assert result["status"] == "finished"
    assert result["test_accuracy"] is not None


@pytest.mark.skipif(os.name == "nt", reason="Windows has no srun")
def test_no_hint_where_there_is_srun(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning gives one wherever a Trainer is made; here it would be an error."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    ended = call("train", *FULL, "trainer.max_epochs=1", "callbacks=[]", "logger=[]")
    assert (ended.status, ended.err) == (0, "")


def test_accumulated_gradients_are_one_step(configure: Configure) -> None:
    """10 batches by 4 are 3 steps, as the last part of an epoch steps too: each is logged once."""
    overrides = ("trainer.accumulate_grad_batches=4", "trainer.log_every_n_steps=1")
    cfg = configure(*SMALL, *overrides)
    train(cfg)
    table = rows(Path(cfg.run_dir))
    for tag in ("train/loss", "images_per_second", "lr"):
        assert [int(r["step"]) for r in table if r[tag]] == [0, 1, 2, 3, 4, 5], tag


def test_the_first_and_last_steps_of_an_epoch_are_logged(configure: Configure) -> None:
    cfg = configure(*SMALL, "trainer.log_every_n_steps=7", "trainer.max_epochs=1")
    train(cfg)
    table = rows(Path(cfg.run_dir))
    for tag in ("train/loss", "train/accuracy", "images_per_second", "lr"):
        assert [int(r["step"]) for r in table if r[tag]] == [0, 6, 9], tag


def test_recorded_val_accuracy_is_the_tested_checkpoints(configure: Configure) -> None:
    """Also where another metric chose the best epoch."""
    worse = ("callbacks.best.monitor=val/loss", "callbacks.best.mode=max", "trainer.max_epochs=4")
    cfg = configure(*SMALL, *worse)
    result = train(cfg)
    table = [r for r in rows(Path(cfg.run_dir)) if r["val/loss"]]
    chosen = max(table, key=lambda r: float(r["val/loss"]))
    assert chosen is not table[-1]
    assert result["val_accuracy"] == pytest.approx(float(chosen["val/accuracy"]))
    assert result["val_accuracy"] != pytest.approx(float(table[-1]["val/accuracy"]))
    tested = rows(Path(cfg.run_dir))[-1]
    assert result["val_accuracy"] == pytest.approx(float(tested["tested/val_accuracy"]))


def test_epochs_are_counted_where_steps_end_the_fit(configure: Configure) -> None:
    ends = ("trainer.max_epochs=-1", "trainer.max_steps=22", "trainer.log_every_n_steps=11")
    cfg = configure(*SMALL, *ends, "scheduler=exponential", "scheduler.decay=0.5")
    train(cfg)
    rates = {int(r["step"]): float(r["lr"]) for r in rows(Path(cfg.run_dir)) if r["lr"]}
    assert rates == pytest.approx({0: 0.1, 9: 0.1, 10: 0.05, 19: 0.05, 21: 0.025})


def test_learns(configure: Configure) -> None:
    """The made classes are easy: from chance to nearly all right in a few epochs."""
    result = train(configure(*SMALL, "trainer.max_epochs=5"))
    assert result["test_accuracy"] > 0.9
