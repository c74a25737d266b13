"""Training: that it learns, what it leaves behind, and that going on with it is exact."""

import csv
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from torch.nn import functional as F

from mnv2_lightning import build
from mnv2_lightning.callbacks.predictions import Collector
from mnv2_lightning.classifier import Classifier
from mnv2_lightning.evaluate import evaluate
from mnv2_lightning.runs.config import plain
from mnv2_lightning.runs.folder import read_config, resumed_config
from mnv2_lightning.runs.record import EMPTY
from mnv2_lightning.schema.errors import ConfigError, Diverged
from mnv2_lightning.train import train
from tests.conftest import SMALL, Configure

AUGMENTED = ("data.augment.degrees=10", "data.augment.translate=0.05", "model.dropout=0.2")


@pytest.fixture(scope="module")
def keep() -> dict[str, Path]:
    """Runs that several tests look at and none changes."""
    return {}


@pytest.fixture
def run(
    keep: dict[str, Path], configure: Configure, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished run with EMA, augmentation and dropout."""
    if "run" not in keep:
        folder = tmp_path_factory.mktemp("run") / "a"
        train(configure(*SMALL, *AUGMENTED, "callbacks=[default,ema]", run_dir=folder))
        keep["run"] = folder
    return keep["run"]


def record(run: Path) -> dict[str, Any]:
    return json.loads((run / "result.json").read_text())


def load(run: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def resumed(run: Path, *overrides: str) -> DictConfig:
    """The config that `resume=RUN` and `overrides` make."""
    logger = {"csv": {"_target_": "mnv2_lightning.runs.csv_logger.CSVLogger", "run_dir": str(run)}}
    return resumed_config(OmegaConf.create({"resume": str(run), "logger": logger}), overrides)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_leaves_a_whole_run(run: Path) -> None:
    there = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()}
    assert {p for p in there if not p.startswith("events")} == {
        "config.yaml",
        "metrics.csv",
        "result.json",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
    }
    result = record(run)
    assert result.keys() == EMPTY.keys()
    assert {k for k, v in result.items() if v is None} <= {"error", "git_commit"}
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
    """10 steps an epoch, logged every 2nd; validation at the end of each; the test at the end."""
    table = rows(run)
    assert [int(r["step"]) for r in table if r["train/loss"]] == [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]
    assert [int(r["step"]) for r in table if r["val/accuracy"]] == [9, 19]
    assert [int(r["step"]) for r in table if r["test/accuracy"]] == [20]
    for tag in ("lr", "images_per_second", "train/accuracy", "val/loss", "test/loss"):
        assert any(r[tag] for r in table), tag
    assert float(table[-1]["test/accuracy"]) == pytest.approx(record(run)["test_accuracy"])


def test_tensorboard(run: Path) -> None:
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    tags = events.Tags()
    assert {"train/loss", "val/accuracy", "lr", "images_per_second"} <= set(tags["scalars"])
    assert set(tags["images"]) == {"test/confusion_matrix", "test/most_confidently_wrong"}
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
    assert shown["callbacks.ema.decay"].number_value == pytest.approx(0.99)


@pytest.mark.parametrize(("checkpoint", "split"), [("best", "test"), ("best", "val")])
def test_evaluate_equals_what_training_reported(
    run: Path, small_data: Path, checkpoint: str, split: str
) -> None:
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if "evaluation" not in p.parts}
    cfg = {"run_dir": str(run), "checkpoint": checkpoint, "split": split, "accelerator": "auto"}
    result = evaluate(OmegaConf.create(cfg | {"data": {"dir": None}}))
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


def cut_after_one_epoch(configure: Configure, run_dir: Path, *overrides: str) -> None:
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
            train(configure(*SMALL, *overrides, run_dir=run_dir))


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
        assert torch.equal(a, b), path
    else:
        assert a == b, path


def comparable(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """All that makes the rest of the run: weights, averages, optimizer, schedule, counts."""
    keys = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step")
    averages = ("current_model_state", "averaging_state")
    return {k: checkpoint[k] for k in (*keys, *averages) if k in checkpoint}


@pytest.mark.parametrize(
    "overrides", [(), ("callbacks=[default,ema]", *AUGMENTED)], ids=["plain", "ema-augmented"]
)
def test_resumed_equals_uninterrupted(
    overrides: tuple[str, ...], configure: Configure, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(configure(*SMALL, *overrides, run_dir=whole))
    cut_after_one_epoch(configure, cut, *overrides)
    assert record(cut)["status"] == "failed"
    assert "power cut" in record(cut)["error"]
    result = train(resumed(cut))
    assert result["status"] == "finished"
    assert_same(comparable(load(cut)), comparable(load(whole)))

    def curves(run: Path) -> list[dict[str, str]]:
        return [{k: v for k, v in r.items() if k != "images_per_second"} for r in rows(run)]

    assert curves(cut) == curves(whole)
    for key in ("test_accuracy", "test_loss", "val_accuracy", "tested_checkpoint"):
        assert result[key] == record(whole)[key]


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
        torch.save(content, path)
    result = train(resumed(tmp_path / "b", "trainer.max_epochs=2"))
    assert result["tested_checkpoint"] == "best"
    assert load(tmp_path / "b", "best")["epoch"] == 0
    assert result["val_accuracy"] == 1.0


def test_no_test(configure: Configure) -> None:
    cfg = configure(*SMALL, "trainer.max_epochs=1", "trainer.limit_test_batches=0")
    result = train(cfg)
    assert result["status"] == "finished"
    assert result["test_accuracy"] is None


def test_divergence_is_told(configure: Configure, tmp_path: Path) -> None:
    """Also where an epoch before was good, and is what was tested."""
    folder = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        plain_step = Classifier.training_step

        def step(self: Classifier, batch: Any, batch_idx: int) -> Any:
            return plain_step(self, batch, batch_idx) * (1 if self.current_epoch < 1 else math.nan)

        patch.setattr(Classifier, "training_step", step)
        with pytest.raises(Diverged, match="a smaller optimizer"):
            train(configure(*SMALL, run_dir=folder))
    assert record(folder)["status"] == "diverged"
    assert record(folder)["test_accuracy"] > 0


def test_peak_memory_of_a_job_is_its_own() -> None:
    code = """
from mnv2_lightning.runs.memory import peak_rss_bytes, reset_peak_rss
large = bytearray(300_000_000)
before = peak_rss_bytes()
del large
reset_peak_rss()
print(before - peak_rss_bytes())
"""
    command = [sys.executable, "-c", code]
    freed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(freed) > 200_000_000


def test_without_validation(configure: Configure, tmp_path: Path) -> None:
    """`data.val_size=0`: no best checkpoint, the last one is tested, no validation accuracy."""
    folder = tmp_path / "run"
    result = train(configure(*SMALL, "data.val_size=0", run_dir=folder))
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["last.ckpt"]
    assert result["tested_checkpoint"] == "last"
    assert result["val_accuracy"] is None
    assert result["test_accuracy"] > 0


def test_last_is_last_where_best_is_first(configure: Configure, tmp_path: Path) -> None:
    """`last` is of the last epoch also where validation got worse."""
    folder = tmp_path / "run"
    overrides = ("optimizer.lr=1e-9", "scheduler=constant", "trainer.max_epochs=3")
    train(configure(*SMALL, *overrides, run_dir=folder))
    assert load(folder, "last")["epoch"] == 2
    assert load(folder, "best")["epoch"] <= 2
    assert len(list((folder / "checkpoints").iterdir())) == 2


@pytest.mark.parametrize(
    "overrides",
    [
        ("trainer.fast_dev_run=true",),
        ("trainer.enable_checkpointing=false",),
        ("trainer.limit_val_batches=0",),
        ("trainer.enable_progress_bar=false", "callbacks.pictures=null", "logger.tensorboard=null"),
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


def test_accumulated_gradients_are_one_step(configure: Configure) -> None:
    """10 batches by 4 are 3 steps, as the last part of an epoch steps too: each is logged once."""
    overrides = ("trainer.accumulate_grad_batches=4", "trainer.log_every_n_steps=1")
    cfg = configure(*SMALL, *overrides)
    train(cfg)
    table = rows(Path(cfg.run_dir))
    for tag in ("train/loss", "images_per_second", "lr"):
        assert [int(r["step"]) for r in table if r[tag]] == [0, 1, 2, 3, 4, 5], tag


def test_the_last_steps_of_an_epoch_are_logged(configure: Configure) -> None:
    cfg = configure(*SMALL, "trainer.log_every_n_steps=7", "trainer.max_epochs=1")
    train(cfg)
    table = rows(Path(cfg.run_dir))
    for tag in ("train/loss", "train/accuracy", "images_per_second", "lr"):
        assert [int(r["step"]) for r in table if r[tag]] == [6, 9], tag


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


def test_epochs_are_counted_where_steps_end_the_fit(configure: Configure) -> None:
    ends = ("trainer.max_epochs=-1", "trainer.max_steps=22", "trainer.log_every_n_steps=11")
    cfg = configure(*SMALL, *ends, "scheduler=exponential", "scheduler.decay=0.5")
    train(cfg)
    rates = {int(r["step"]): float(r["lr"]) for r in rows(Path(cfg.run_dir)) if r["lr"]}
    assert rates == pytest.approx({9: 0.1, 10: 0.05, 19: 0.05, 21: 0.025})


def test_learns(configure: Configure) -> None:
    """The made classes are easy: from chance to nearly all right in a few epochs."""
    result = train(configure(*SMALL, "trainer.max_epochs=5", "callbacks.pictures=null"))
    assert result["test_accuracy"] > 0.9


def test_one_batch_can_be_overfitted(configure: Configure) -> None:
    torch.manual_seed(0)
    cfg = configure(*SMALL)
    network = build.build_network(cfg).train()
    images, labels = torch.randn(10, 1, 28, 28), torch.arange(10)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(40):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
    assert loss < 0.01


def test_a_step_reads_nothing_back_from_its_device(configure: Configure) -> None:
    """On the meta device, whose tensors have no values, whatever would wait for a GPU fails: the
    order of batches, gather, augmentation, forward pass, loss and the sums that are logged.
    """
    cfg = configure(*SMALL, *AUGMENTED)
    data = build.build_datamodule(cfg)
    data.setup()
    assert data.train_set is not None
    images = data.train_set.to(torch.device("meta"))
    with torch.device("meta"):
        classifier = build.build_classifier(cfg, build.build_network(cfg))
    loader = data._loader(images, torch.arange(500, device="meta"), shuffle=True)
    trainer = SimpleNamespace(
        log_every_n_steps=10**9,
        accumulate_grad_batches=1,
        num_training_batches=10,
        global_step=0,
        optimizers=[SimpleNamespace(param_groups=[{"lr": 0.1}])],
    )
    classifier._trainer = trainer  # type: ignore[assignment]
    for number, (batch, labels, indices) in zip(range(2), loader, strict=False):
        x = data.prepare(batch, indices, epoch=0)
        loss = classifier.training_step((x, labels, indices), number)
        loss.backward()
        assert loss.is_meta
        assert classifier.window is not None
        assert classifier.window.is_meta


def test_weight_decay_leaves_out_biases_and_norms(configure: Configure) -> None:
    cfg = configure(*SMALL)
    classifier = build.build_classifier(cfg, build.build_network(cfg))
    groups = classifier.make_optimizer(
        [
            {"params": [torch.nn.Parameter(torch.zeros(1, 1))]},
            {"params": [torch.nn.Parameter(torch.zeros(1))], "weight_decay": 0.0},
        ]
    ).param_groups
    assert [g["weight_decay"] for g in groups] == [0.0005, 0.0]


def test_collector_puts_ranks_in_order() -> None:
    collector = Collector()
    for indices in ([2, 0], [3, 1]):
        logits = F.one_hot(torch.tensor(indices), 4).float() * 9
        collector.add(logits, (None, torch.tensor(indices), torch.tensor(indices)))
    said = collector.gather(1)
    assert said.indices.tolist() == said.labels.tolist() == [0, 1, 2, 3]
    assert said.probabilities.argmax(1).tolist() == [0, 1, 2, 3]
