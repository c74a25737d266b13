"""Lightning's TensorBoard logger, with the run's folder as log directory and correct HPARAMS."""

import copy
import threading
import warnings
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch import loggers
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor, nn
from torch.utils.tensorboard.summary import hparams

from mnv2_lightning.runs.config import override_values, reproducibility_config, to_yaml


class TensorBoardLogger(loggers.TensorBoardLogger):
    """Writes event files into `run_dir`, so that TensorBoard shows the folder's name as the run's.

    HPARAMS lists no metrics: TensorBoard takes them from the curves, once they are measured.
    `overrides`: shown in HPARAMS with the config. `purge_step`: the step that the run resumes from;
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
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Log the resolved config as text, and the values that are not null in HPARAMS."""
        if self._described or not isinstance(params, dict):
            return
        text = to_yaml(dict(params))
        self.experiment.add_text("config", "\n".join(f"    {x}" for x in text.splitlines()))
        shown = {
            key: value if type(value) in (int, float, str) else str(value)
            for key, value in reproducibility_config(dict(params)).items()
            if value is not None and "._" not in key and not key.startswith("callbacks.best.")
        }
        shown |= {  # choices of config groups, such as model=tutorial
            key: str(value)
            for key, value in self._overrides.items()
            if key not in shown and value is not None
        }
        _, start, self._end = hparams(shown, {})
        self.experiment.file_writer.add_summary(start)

    @rank_zero_only
    def succeed(self) -> None:
        """Record success in HPARAMS, which else shows the status as unknown."""
        if self._end is not None:
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
        """Log the graph of the network, once."""
        if self._described:
            return
        self._described = True
        image = model.example_input_array if input_array is None else input_array
        network = model.network
        if not isinstance(image, Tensor) or not isinstance(network, nn.Module):
            return
        weight = next(network.parameters())
        network = copy.deepcopy(network).eval()  # the copy is not compiled, so it can be traced
        with warnings.catch_warnings(), torch.no_grad():
            # TensorBoard traces with torch.jit, which is deprecated; there is no replacement yet.
            warnings.simplefilter("ignore")
            self.experiment.add_graph(network, image.to(weight.device, weight.dtype))

    @rank_zero_only
    def save(self) -> None:
        """Flush. Lightning's also writes hparams.yaml, which config.yaml replaces."""
        self.experiment.flush()


_excepthook = threading.excepthook


def _ignore_writer(failed: Any) -> None:
    """TensorBoard raises an error of its thread, such as of a full disk, in the main thread too."""
    if type(failed.thread).__name__ != "_AsyncWriterThread":
        _excepthook(failed)
