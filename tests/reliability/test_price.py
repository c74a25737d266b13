"""What the promises cost, beside the work that they guard."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from lightning.fabric.plugins import TorchCheckpointIO
from torch import nn

from mnv2_lightning import build
from mnv2_lightning.callbacks.non_finite_guard import NonFiniteGuard
from mnv2_lightning.data.affine import uniform
from mnv2_lightning.data.batches import Batches
from mnv2_lightning.runs.checkpoint_io import DurableCheckpointIO
from mnv2_lightning.runs.csv_logger import SECONDS, CSVLogger
from tests.conftest import Configure
from tests.reliability.conftest import Reliability

TRAINED_ON, BATCH = 55_000, 128
STEPS = -(-TRAINED_ON // BATCH)


def milliseconds(function: Callable[[], Any], times: int) -> float:
    """The median; the first call is left out."""
    seconds = []
    for _ in range(times + 1):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return 1000 * median(seconds[1:])


def test_price(configure: Configure, tmp_path: Path, reliability: Reliability) -> None:
    """Of the default network: a step, and beside it each guard as a share of an epoch of steps."""
    times = reliability.rounds(3, 30)
    network = build.build_network(configure())
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
    images = torch.rand(BATCH, 1, 28, 28).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (BATCH,))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()

    spent = {"step": milliseconds(step, times)}
    content = {
        "epoch": 0,
        "global_step": 0,
        "state_dict": network.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
    }
    for name, writer in (("ours", DurableCheckpointIO()), ("lightnings", TorchCheckpointIO())):
        save = partial(writer.save_checkpoint, content, tmp_path / name / "last.ckpt")
        spent[f"save_{name}"] = milliseconds(save, times)

    indices = torch.arange(TRAINED_ON)
    batches = Batches(indices, BATCH, shuffle=True)
    spent["order_ours"] = milliseconds(lambda: list(batches), times)
    spent["order_torchs"] = milliseconds(lambda: torch.randperm(TRAINED_ON).split(BATCH), times)
    some = indices[:BATCH]
    spent["draws_ours"] = milliseconds(lambda: uniform(some, 0, 0, 5), 10 * times)
    spent["draws_torchs"] = milliseconds(lambda: torch.rand(BATCH, 5), 10 * times)
    spent["reseed"] = milliseconds(lambda: torch.manual_seed(1), times)
    spent["divergence_epoch"] = milliseconds(lambda: watch(network), times)

    epoch = STEPS * spent["step"]
    exact = (
        spent["order_ours"]
        - spent["order_torchs"]
        + STEPS * (spent["draws_ours"] - spent["draws_torchs"])
        + spent["reseed"]
    )
    logger = CSVLogger(run_dir=str(tmp_path))
    for row in range(300):
        logger.log_metrics({"train/loss": 0.1, "train/accuracy": 0.9, "lr": 0.1}, row)

    def write_metrics() -> None:
        logger.is_written = False
        logger.save()

    spent["metrics"] = milliseconds(write_metrics, times)
    seconds = epoch / 1000
    shares = {
        # The best and the last, where a validation improves; metrics.csv before them and between.
        "save": 100 * 2 * spent["save_ours"] / epoch,
        "metrics": 100 * (1 + seconds / SECONDS) * spent["metrics"] / epoch,
        "exactness": 100 * exact / epoch,
        "divergence": 100 * spent["divergence_epoch"] / epoch,
    }
    reliability.note("price", milliseconds=spent, per_cent_of_an_epoch=shares)
    # Three rounds beside other tests are no measurement.
    assert max(shares.values()) < reliability.rounds(10, 1)


def watch(network: nn.Module) -> None:
    """An epoch of the callback's work."""
    strategy = SimpleNamespace(reduce=lambda tensor, reduce_op: tensor)
    trainer: Any = SimpleNamespace(
        strategy=strategy,
        log_every_n_steps=50,
        accumulate_grad_batches=1,
        num_training_batches=STEPS,
        global_step=1,
        current_epoch=0,
        optimizers=[SimpleNamespace(param_groups=[{"lr": 0.1}])],
    )
    module: Any = SimpleNamespace(state_dict=network.state_dict)
    callback, outputs = NonFiniteGuard(), {"loss": torch.tensor(1.0)}
    for batch in range(STEPS):
        callback.on_train_batch_start(trainer, module, None, batch)
        callback.on_train_batch_end(trainer, module, outputs, None, batch)
    callback.on_train_epoch_end(trainer, module)
