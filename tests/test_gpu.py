"""On an NVIDIA GPU: training, precisions, resuming; no step waits for the device."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

import mnv2_lightning
from mnv2_lightning.train import train
from tests.conftest import AUGMENTED, FULL, SMALL, Call, Configure, load, record
from tests.test_resume import assert_same, comparable, cut_after_one_epoch, resumed

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

GPU = "trainer.accelerator=gpu"


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_train_and_evaluate(precision: str, call: Call, tmp_path: Path) -> None:
    """A run of a GPU is evaluated there, and on the CPU with the same result."""
    enough = ("model.width_mult=0.5", "trainer.max_epochs=8", "hydra.run.dir=a")
    ended = call("train", *FULL, *enough, GPU, f"trainer.precision={precision}")
    assert ended.status == 0, ended.err
    found = record(tmp_path / "a")
    assert found["hardware"]["gpus"]
    assert found["precision"] == precision
    assert found["test_accuracy"] > 0.9
    for accelerator in ("gpu", "cpu"):
        ended = call("evaluate", "run_dir=a", f"accelerator={accelerator}")
        assert ended.status == 0, ended.err
        evaluated = json.loads((tmp_path / "a" / "evaluation" / "best-test.json").read_text())
        assert abs(evaluated["accuracy"] - found["test_accuracy"]) <= 0.01  # of 100 images


def test_resuming_is_exact_with_deterministic_algorithms(
    configure: Configure, tmp_path: Path
) -> None:
    deterministic = (*AUGMENTED, GPU, "trainer.deterministic=true")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(configure(*SMALL, *deterministic, run_dir=whole))
    cut_after_one_epoch(configure, cut, *deterministic)
    train(resumed(cut))
    assert_same(comparable(load(cut)), comparable(load(whole)))


class NoSynchronization(Callback):
    """Between the third batch and the eighth, an operation that waits for the GPU is an error."""

    checked = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 2:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.checked += torch.cuda.get_sync_debug_mode() == 2
        if batch_idx == 7:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("more", [(), ("trainer.precision=bf16-mixed",), ("data.image_size=32",)])
def test_no_step_waits_for_the_gpu(more: tuple[str, ...], configure: Configure) -> None:
    """Batch, augmentation, forward and backward pass, update, average, schedule, callbacks."""
    guard = NoSynchronization()
    overrides = (*SMALL, *AUGMENTED, *more, GPU, "callbacks=[default,ema]")
    cfg = configure(*overrides, "callbacks.test_images=null", "trainer.log_every_n_steps=1000")
    try:
        train(cfg, [guard])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert guard.checked == 2 * 5  # in each of two epochs


def test_a_trained_network_is_loaded_onto_the_cpu(call: Call, tmp_path: Path) -> None:
    assert call("train", *SMALL, GPU, "hydra.run.dir=a").status == 0
    network = mnv2_lightning.load(tmp_path / "a").network
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"cpu"}
