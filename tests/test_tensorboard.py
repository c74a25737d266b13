"""The TensorBoard logger: the columns of HPARAMS, and modules of a user's own."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from mnv2_lightning.runs.config import override_values, plain
from mnv2_lightning.runs.tensorboard_logger import TensorBoardLogger, compared
from tests.conftest import Configure


def columns(configure: Configure, *overrides: str) -> dict[str, Any]:
    return compared(plain(configure(*overrides)), override_values(overrides))


def test_hparams_of_the_default_run(configure: Configure) -> None:
    """What is on, of what is varied."""
    shown = columns(configure)
    assert {key: shown[key] for key in ("model", "optimizer", "scheduler", "seed")} == {
        "model": "MobileNetV2",
        "optimizer": "SGD",
        "scheduler": "linear",
        "seed": 0,
    }
    assert shown.keys() == {
        *("model", "model.stem_channels", "model.stem_kernel", "model.stages"),
        *("model.head_channels", "model.width_mult", "model.round_nearest", "model.init"),
        *("model.bottleneck_activation", "model.depthwise_activation", "model.shortcut"),
        *("data.dataset", "data.batch_size", "data.val_size", "data.crop", "data.image_size"),
        *("optimizer", "optimizer.lr", "optimizer.momentum", "optimizer.nesterov"),
        *("optimizer.weight_decay", "scheduler", "scheduler.warmup", "seed"),
        *("trainer.max_epochs", "trainer.precision", "trainer.accumulate_grad_batches"),
    }
    assert len(shown) < 30


def test_hparams_of_an_experiment(configure: Configure) -> None:
    """What its file switches on."""
    shown = columns(configure, "experiment=accurate", "callbacks=[default,ema]")
    assert shown["experiment"] == "accurate"
    assert shown["classifier.label_smoothing"] == 0.1
    assert shown["data.augment.degrees"] == 10
    assert shown["callbacks.ema.decay"] == 0.99
    assert "data.val_size" not in shown
    shown = columns(configure, "experiment=fast", "trainer.gradient_clip_val=1")
    assert shown["trainer.max_steps"] == 844
    assert shown["trainer.gradient_clip_val"] == 1
    assert "trainer.max_epochs" not in shown


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("model=tutorial", "tutorial"),
        ("optimizer=adamw", "adamw"),
        ("experiment=fast", "fast"),
        ("model.dropout=0", 0),
        ("model.expand_always=false", "False"),
        ("optimizer.fused=false", "False"),
        ("classifier.channels_last=false", "False"),
        ("trainer.max_epochs=-1", -1),
        ("trainer.limit_train_batches=0.5", 0.5),
        ("trainer.log_every_n_steps=7", 7),
        ("callbacks.test_images.images=4", 4),
        ("callbacks.best.monitor=val/loss", "val/loss"),
        ("+callbacks.ema.decay=0.9", 0.9),
        ("data.seed=3", 3),
    ],
)
def test_an_override_is_a_column(override: str, value: Any, configure: Configure) -> None:
    """Also one that is off, or that a result does not depend on."""
    key = override.partition("=")[0].lstrip("+")
    assert columns(configure, override)[key] == value


def test_no_column_for_null_or_a_path(configure: Configure, tmp_path: Path) -> None:
    overrides = ("model.expand_ratio=null", "callbacks.test_images=null", f"data.dir={tmp_path}")
    shown = columns(configure, *overrides, "logger.csv=null")
    assert shown.keys() == columns(configure).keys()


def test_keys_of_a_group_that_was_overridden(configure: Configure) -> None:
    shown = columns(configure, "data.augment={degrees:0.0,translate:0.1,scale:0.0,shear:0.0}")
    assert shown["data.augment.degrees"] == 0
    assert shown["data.augment.translate"] == 0.1
    assert "data.augment" not in shown


class Own(L.LightningModule):
    """Without `network` and `example_input_array`."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Any:
        return self.last(x)


class OfIntegers(Own):
    def forward(self, x: Tensor) -> Any:
        return self.last.weight[:, x]


class WithoutWeights(L.LightningModule):
    def forward(self, x: Tensor) -> Any:
        return x + 1


class NotTraceable(Own):
    def forward(self, x: Tensor) -> Any:
        return {"names": ["a"], "logits": super().forward(x)}


@pytest.mark.parametrize(
    ("module", "example", "has_graph"),
    [
        (Own(), None, False),
        (Own(), torch.zeros(1, 3), True),
        (Own().double(), torch.zeros(1, 3), True),
        (OfIntegers(), torch.tensor([0, 2]), True),
        (WithoutWeights(), torch.zeros(1), True),
        (NotTraceable(), torch.zeros(1, 3), False),
        (Own(), torch.zeros(1, 4), False),
    ],
)
def test_a_module_of_the_users_own(
    module: L.LightningModule,
    example: Tensor | None,
    has_graph: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its graph if there can be one; a run does not fail for want of it."""
    module.example_input_array = example
    module.trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    capsys.readouterr()
    logger = TensorBoardLogger(run_dir=str(tmp_path))
    logger.log_hyperparams({"hidden": 3, "loss": nn.MSELoss(), "sizes": (1, 2)})
    logger.log_graph(module)
    logger.save()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["graph"] is has_graph
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "hidden: 3" in text
    assert "MSELoss()" in text
    assert capsys.readouterr() == ("", "")
