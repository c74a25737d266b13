"""Lightning's TensorBoard logger, with the run's folder as log directory and correct HPARAMS."""

import copy
import json
import logging
import threading
import warnings
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch import loggers
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard.summary import hparams

from mnv2_lightning.runs.config import flatten, override_values, reproducibility_config, to_yaml
from mnv2_lightning.runs.run_logger import RunLogger
from mnv2_lightning.schema.errors import one_line

log = logging.getLogger(__name__)

# Of the Trainer's arguments, those in HPARAMS.
TRAINER = ("max_epochs", "max_steps", "precision", "accumulate_grad_batches", "gradient_clip_val")
# Keys that follow from others or matter for speed alone; not in HPARAMS unless overridden.
LEFT_OUT = (
    *("callbacks.best", "classifier.channels_last", "classifier.compile", "optimizer.fused"),
    *("data.mean", "data.std", "data.seed", "model.in_channels", "model.num_classes"),
)

# Tags that would come before those of losses and accuracies, and what they are in TensorBoard.
RENAMED = {"lr": "trainer/lr", "images_per_second": "trainer/images_per_second"}


def compared(config: dict[str, Any], overrides: dict[str, Any]) -> dict[str, int | float | str]:
    """The values in which runs are compared, for HPARAMS.

    The class of the network, optimizer and scheduler, or the choice of the command line, such as
    model=tutorial; the options that are on; all overrides.
    """
    flat, shown = flatten(config), {}
    for part in ("model", "optimizer", "scheduler"):
        if target := flat.get(f"{part}._target_"):
            shown[part] = target.rpartition(".")[2]
    shown |= {k: v for k, v in reproducibility_config(config).items() if _is_shown(k, v)}
    shown |= {k: flat.get(k, v) for k, v in flatten(overrides).items()}
    return {
        key: value if type(value) in (int, float) else str(value)
        for key, value in shown.items()
        if value is not None
    }


def _is_shown(key: str, value: Any) -> bool:
    """Whether HPARAMS shows a key that was not overridden."""
    part, _, name = key.partition(".")
    if key.startswith(LEFT_OUT) or "._" in key or (part == "trainer" and name not in TRAINER):
        return False
    return key == "seed" or value not in (None, False, 0, -1)  # those are off, or no limit


class TensorBoardLogger(loggers.TensorBoardLogger, RunLogger):
    """Writes event files into `run_dir`, so that TensorBoard shows the folder's name as the run's.

    HPARAMS lists no metrics: TensorBoard takes them from the curves, once they are measured, in
    alphabetical order.
    `overrides`: always shown in HPARAMS. `purge_step`: the step that the run resumes from;
    TensorBoard hides earlier events from this step on.
    """

    def __init__(
        self, *, run_dir: str, overrides: Sequence[str] = (), purge_step: int | None = None
    ) -> None:
        super().__init__(
            run_dir, name="", version="", default_hp_metric=False, purge_step=purge_step
        )
        threading.excepthook = _ignore_writer
        self._described = False
        self._overrides = override_values(overrides)
        self._end: Summary | None = None  # ends HPARAMS' session

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log without `epoch`, which TensorBoard would show first."""
        named = {RENAMED.get(k, k): v for k, v in metrics.items() if k != "epoch"}
        super().log_metrics(named, step)

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Log the resolved config as text, and what runs are compared in to HPARAMS."""
        if self._described or not isinstance(params, dict):
            return
        config = json.loads(json.dumps(params, default=str))
        text = to_yaml(config)
        self.experiment.add_text("config", "\n".join(f"    {x}" for x in text.splitlines()))
        _, start, self._end = hparams(compared(config, self._overrides), {})
        self.experiment.file_writer.add_summary(start)

    @rank_zero_only
    def end(self, status: str) -> None:
        """Record success in HPARAMS, which else shows the status as unknown."""
        if status == "finished" and self._end is not None:
            self.experiment.file_writer.add_summary(self._end)
            self.experiment.close()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Keep the file open after a fit, since a test follows."""
        if status == "success":
            self.experiment.flush()
        else:
            super().finalize(status)

    @rank_zero_only
    def log_graph(self, model: L.LightningModule, input_array: Tensor | None = None) -> None:  # type: ignore[override]
        """Log the graph of `model.network`, or of `model` if it has none, once.

        No graph without `example_input_array`, nor of a network that cannot be traced.
        """
        if self._described:
            return
        self._described = True
        image = model.example_input_array if input_array is None else input_array
        if not isinstance(image, Tensor):
            return
        # TensorBoard traces with torch.jit, which is deprecated; there is no replacement yet. It
        # prints its errors.
        with warnings.catch_warnings(), redirect_stdout(StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            try:
                network = copy.deepcopy(getattr(model, "network", model)).eval()  # not compiled
                if isinstance(network, L.LightningModule):  # tracing reads all attributes
                    network.trainer = model.trainer
                weight = next(network.parameters(), image)
                dtype = weight.dtype if image.is_floating_point() else image.dtype
                self.experiment.add_graph(network, image.to(weight.device, dtype))
            except Exception as error:
                log.info("TensorBoard shows no graph: %s", one_line(error))

    @rank_zero_only
    def save(self) -> None:
        """Flush. Lightning's also writes hparams.yaml, which config.yaml replaces."""
        self.experiment.flush()


_excepthook = threading.excepthook


def _ignore_writer(failed: Any) -> None:
    """TensorBoard raises an error of its thread, such as of a full disk, in the main thread too."""
    if type(failed.thread).__name__ != "_AsyncWriterThread":
        _excepthook(failed)
