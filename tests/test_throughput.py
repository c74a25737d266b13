"""Images a second: what is counted, and that a device's pending work is waited for."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mnv2_lightning.callbacks import throughput
from mnv2_lightning.callbacks.throughput import Throughput
from mnv2_lightning.train import train
from tests.conftest import SMALL, Configure, record, rows


class Device:
    """A clock in seconds, and a device whose work takes time only when it is waited for."""

    def __init__(self) -> None:
        self.now, self.pending = 100.0, 0.0

    def perf_counter(self) -> float:
        return self.now

    def synchronize(self, device: torch.device) -> None:
        self.now, self.pending = self.now + self.pending, 0.0


@pytest.mark.parametrize("warmup_steps", [0, 1, 3])
def test_pending_work_is_counted(warmup_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 10 images, 2 s on the device each: 5 images a second, whatever is left out."""
    device, logged = Device(), []
    monkeypatch.setattr(throughput, "time", device)
    monkeypatch.setattr("torch.accelerator.synchronize", device.synchronize)
    monkeypatch.setattr(throughput, "log_now", lambda _, values, step: logged.append(values))
    trainer: Any = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device("cuda")),
        log_every_n_steps=2,
        accumulate_grad_batches=1,
        num_training_batches=7,
        max_steps=-1,
        world_size=1,
        global_step=0,
    )
    callback, module, batch = Throughput(warmup_steps=warmup_steps), object(), (None, range(10))
    callback.setup(trainer, module, "fit")  # type: ignore[arg-type]
    callback.on_train_epoch_start(trainer, module)  # type: ignore[arg-type]
    for index in range(7):
        trainer.global_step += 1
        device.pending += 2.0
        callback.on_train_batch_end(trainer, module, None, batch, index)  # type: ignore[arg-type]
        if index == 4:  # a validation within a window takes 9 s, which are not counted
            callback.on_validation_start(trainer, module)  # type: ignore[arg-type]
            device.pending += 9.0
            callback.on_validation_end(trainer, module)  # type: ignore[arg-type]
    callback.teardown(trainer, module, "fit")  # type: ignore[arg-type]
    assert callback.images_per_second == pytest.approx(5)
    logged_at = [1, 2, 4, 6, 7]  # steps
    assert [x["images_per_second"] for x in logged] == pytest.approx([5] * len(logged_at))
    assert callback.fit_seconds == pytest.approx(7 * 2 + 9)


def test_of_a_run(configure: Configure, tmp_path: Path) -> None:
    """Of two epochs of 500 images, without the first 10 steps of 20; the first and every second are
    logged.
    """
    train(configure(*SMALL, run_dir=tmp_path))
    found = record(tmp_path)
    assert 0 < 500 / found["images_per_second"] < found["train_seconds"]
    assert sum(bool(row["images_per_second"]) for row in rows(tmp_path)) == 11
