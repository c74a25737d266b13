"""Resuming is bit-exact however a run ends and validates, with several interruptions in a row."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
from omegaconf import DictConfig

from mnv2_lightning.train import train
from tests.conftest import AUGMENTED, SMALL, Configure, load
from tests.reliability.conftest import Reliability
from tests.test_resume import assert_same, comparable, curves, resumed

# The made data set has 10 batches an epoch.
NO_VALIDATION = "data.val_size=0"
BY_STEPS = "trainer.max_epochs=-1"
WAYS = {
    "max_epochs": ("trainer.max_epochs=4",),
    "max_epochs, no validation": ("trainer.max_epochs=4", NO_VALIDATION),
    "max_steps within an epoch": (BY_STEPS, "trainer.max_steps=37"),
    "max_steps within an epoch, no validation": (BY_STEPS, "trainer.max_steps=37", NO_VALIDATION),
    "max_steps at the end of an epoch": (BY_STEPS, "trainer.max_steps=40"),
    "max_epochs before max_steps": ("trainer.max_epochs=4", "trainer.max_steps=55"),
    "max_steps before max_epochs": ("trainer.max_epochs=6", "trainer.max_steps=37"),
    "max_time": (BY_STEPS, "trainer.max_time={seconds: 37}", "scheduler=constant"),
    "max_time before max_epochs": ("trainer.max_epochs=6", "trainer.max_time={seconds: 37}"),
    "early stopping": (
        "trainer.max_epochs=9",
        "callbacks=[default,early_stopping]",
        "callbacks.early_stopping.min_delta=10",
    ),
    "early stopping within an epoch": (
        "trainer.max_epochs=9",
        "callbacks=[default,early_stopping]",
        "callbacks.early_stopping.min_delta=10",
        "callbacks.early_stopping.patience=7",
        "trainer.val_check_interval=0.5",
    ),
    "early stopping and max_steps": (
        BY_STEPS,
        "trainer.max_steps=95",
        "callbacks=[default,early_stopping]",
        "callbacks.early_stopping.min_delta=10",
    ),
    "val_check_interval": ("trainer.max_epochs=4", "trainer.val_check_interval=0.3"),
    "val_check_interval and max_steps": (
        BY_STEPS,
        "trainer.max_steps=37",
        "trainer.val_check_interval=0.3",
    ),
    "val_check_interval over epochs": (
        "trainer.max_epochs=4",
        "trainer.val_check_interval=7",
        "trainer.check_val_every_n_epoch=null",
    ),
    "check_val_every_n_epoch": ("trainer.max_epochs=4", "trainer.check_val_every_n_epoch=2"),
    "check_val_every_n_epoch and max_steps": (
        BY_STEPS,
        "trainer.max_steps=37",
        "trainer.check_val_every_n_epoch=2",
    ),
    "accumulation": ("trainer.max_epochs=4", "trainer.accumulate_grad_batches=3"),
    "accumulation and max_steps": (
        BY_STEPS,
        "trainer.max_steps=14",
        "trainer.accumulate_grad_batches=3",
    ),
    "ema": ("trainer.max_epochs=4", "callbacks=[default,ema]"),
    "ema and max_steps": (BY_STEPS, "trainer.max_steps=37", "callbacks=[default,ema]"),
}


class PowerCut(Exception):
    pass


class Cut(L.Callback):
    """Ends the run as a crash would: after so many batches, between the first `best` and the first
    `last`, or as its test starts.
    """

    def __init__(self, at: int | str) -> None:
        self.at = at

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.at:
            raise PowerCut

    def on_save_checkpoint(self, trainer: L.Trainer, *args: Any) -> None:
        epoch: Any = trainer.fit_loop.epoch_progress.current
        if self.at == "before last" and epoch.processed == epoch.ready:
            raise PowerCut

    def on_test_start(self, *args: Any) -> None:
        if self.at == "test":
            raise PowerCut


class Clock:
    """A second for each batch that is trained, in place of time."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


class Tick(L.Callback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_start(self, *args: Any) -> None:
        self.clock.now += 1


CUTS = (7, "before last", 14, 26, "test")


def cut_and_resumed(cfg: DictConfig, tick: Tick) -> dict[str, Any]:
    run = Path(cfg.run_dir)
    for at in CUTS:
        with pytest.raises(PowerCut):
            train(cfg, [Cut(at), tick])
        cfg = resumed(run)
    return train(cfg, [tick])


AT_EACH_COMMIT = (  # one of each kind; `make test-crash` tries all
    "max_epochs",
    "max_steps within an epoch, no validation",
    "max_epochs before max_steps",
    "max_time",
    "early stopping",
    "val_check_interval and max_steps",
    "accumulation and max_steps",
    "ema and max_steps",
)


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_was_cut(
    way: str,
    configure: Configure,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reliability: Reliability,
) -> None:
    if way not in AT_EACH_COMMIT and not reliability.path:
        pytest.skip("make test-crash")
    tick = Tick(Clock())
    monkeypatch.setattr("lightning.pytorch.callbacks.timer.time", tick.clock)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    overrides = (*SMALL, *AUGMENTED, *WAYS[way])
    expected = train(configure(*overrides, run_dir=whole), [tick])
    result = cut_and_resumed(configure(*overrides, run_dir=cut), tick)
    measured = ("status", "epochs", "test_accuracy", "test_loss", "val_accuracy")
    assert {k: result[k] for k in measured} == {k: expected[k] for k in measured}
    for name in ("last",) if NO_VALIDATION in overrides else ("last", "best"):
        assert_same(comparable(load(cut, name)), comparable(load(whole, name)))
    assert curves(cut) == curves(whole)
    reliability.note(f"ways_to_end, {way}", cuts=len(CUTS), resumed_equal=True)
