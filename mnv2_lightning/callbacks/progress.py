"""Progress: a bar on a terminal or in a notebook, plain lines in a log."""

import logging
import math
import sys
import time
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from rich import get_console
from rich.live import Live
from rich.progress_bar import ProgressBar as RichBar
from rich.table import Table
from rich.text import Text

from mnv2_lightning.classifier import should_log

log = logging.getLogger(__name__)

STEP = ("train/loss", "train/accuracy", "lr", "images_per_second")
EPOCH = ("train/loss", "train/accuracy")
VALIDATION = ("train/loss", "val/loss", "val/accuracy")
BAR = ("train/loss", "val/accuracy")
REFRESH_SECONDS = 0.25
BAR_WIDTHS = 5, 30  # columns
MARGIN = 3  # columns; the terminal echoes ^C at the end of the bar


def progress() -> ProgressBar:
    """A progress bar for a terminal or a notebook, or lines for any other standard output."""
    console = get_console()
    if console.is_jupyter:
        return NotebookProgress(refresh_rate=10)
    is_drawn = sys.stdout.isatty() and not console.is_dumb_terminal
    return TerminalProgress() if is_drawn else PlainProgress()


def position(trainer: Trainer, batches: int) -> tuple[str, int, float]:
    """Unit of progress, number done, and total: optimizer steps if `max_steps` ends the fit, else
    batches of the epoch, of which `batches` are done.
    """
    if trainer.max_steps == trainer.estimated_stepping_batches:
        return "step", trainer.global_step, trainer.max_steps
    return f"{_epoch(trainer)} batch", batches, trainer.num_training_batches


def _epoch(trainer: Trainer) -> str:
    """The epoch, counted from 1: "epoch 2/3"."""
    total = "" if trainer.max_epochs in (None, -1) else f"/{trainer.max_epochs}"
    return f"epoch {trainer.current_epoch + 1}{total}"


class LineProgress(ProgressBar):
    """Log a line after each validation, and after each epoch without one."""

    is_disabled = False
    logged_step = -1

    def disable(self) -> None:
        """Lightning calls this on every rank but the first."""
        self.is_disabled = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._log(trainer, trainer.fit_loop.batch_idx + 1, VALIDATION)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.logged_step != trainer.global_step:
            self._log(trainer, trainer.fit_loop.batch_idx + 1, EPOCH)

    def _log(self, trainer: Trainer, batches: int, names: tuple[str, ...]) -> None:
        self.logged_step = trainer.global_step
        if not self.is_disabled:
            unit, done, total = position(trainer, batches)
            is_epoch = unit != "step" and done == total
            where = _epoch(trainer) if is_epoch else f"{unit} {done}/{total}"
            metrics = trainer.callback_metrics
            shown = [f"{name} {float(metrics[name]):.4g}" for name in names if name in metrics]
            log.info("%s", "  ".join([where, *shown]))


class PlainProgress(LineProgress):
    """Also log a line after the first step and every `trainer.log_every_n_steps` steps."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        is_last = batch_idx + 1 == trainer.num_training_batches  # `on_train_epoch_end` logs it
        if should_log(trainer, batch_idx, trainer.global_step) and not is_last:
            self._log(trainer, batch_idx + 1, STEP)


class TerminalProgress(LineProgress):
    """Also draw a bar in the terminal's last line; a line of the log takes its place."""

    def __init__(self) -> None:
        super().__init__()
        self._live: Live | None = None
        self._metrics: list[str] = []
        self._starts: dict[str, tuple[float, int]] = {}  # unit -> time and number done
        self._drawn = -math.inf

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(*position(trainer, 0))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if should_log(trainer, batch_idx, trainer.global_step):
            self._metrics = bar_metrics(trainer)
        self._draw(*position(trainer, batch_idx + 1))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._starts.pop("validation batch", None)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._draw("validation batch", batch_idx + 1, sum(trainer.num_val_batches))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        self._metrics = bar_metrics(trainer)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._draw("test batch", batch_idx + 1, sum(trainer.num_test_batches))

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        self._erase()

    on_exception = teardown

    def _log(self, trainer: Trainer, batches: int, names: tuple[str, ...]) -> None:
        self._erase()
        super()._log(trainer, batches, names)

    def _erase(self) -> None:
        if self._live is not None:
            self._live.stop()
        self._live, self._drawn = None, -math.inf

    def _draw(self, unit: str, done: int, total: float) -> None:
        now = time.monotonic()
        started, before = self._starts.setdefault(unit, (now, done))
        if self.is_disabled or now - self._drawn < REFRESH_SECONDS:
            return
        self._drawn = now
        if self._live is None:
            self._live = Live(console=get_console(), auto_refresh=False, transient=True)
            self._live.start()
        seconds = now - started
        times = _clock(seconds)
        if done > before and total < math.inf:
            times += f" < {_clock(seconds / (done - before) * (total - done))}"
        metrics = [] if unit == "test batch" else self._metrics
        line = bar(unit, done, total, [times, *metrics], self._live.console.width - MARGIN)
        self._live.update(line, refresh=True)


def bar(unit: str, done: int, total: float, notes: list[str], width: int) -> Table:
    """A line of at most `width` columns; of `notes` those that fit beside the bar."""
    where, (shortest, longest) = f"{unit} {done}/{total}", BAR_WIDTHS
    notes = list(notes)
    while (left := width - len(" ".join([where, "", *notes]))) < shortest and notes:
        notes.pop()
    line = Table.grid(padding=(0, 1))
    drawn = RichBar(None if total == math.inf else total, done, width=max(1, min(left, longest)))
    line.add_row(Text(where, no_wrap=True, overflow="crop"), drawn, *map(Text, notes))
    return line


def bar_metrics(trainer: Trainer) -> list[str]:
    """BAR, and what the module logs with `prog_bar=True`."""
    shown: dict[str, Any] = {k: v for k, v in trainer.callback_metrics.items() if k in BAR}
    shown |= trainer.progress_bar_metrics
    return [f"{name} {float(value):.3g}" for name, value in shown.items()]


def _clock(seconds: float) -> str:
    """0:35, or 1:02:35."""
    return str(timedelta(seconds=int(seconds))).removeprefix("0:").removeprefix("0")


class NotebookProgress(TQDMProgressBar):
    """Lightning's bar for notebooks, with epochs counted from 1."""

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(_epoch(trainer))

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        shown = (text.partition(" ") for text in bar_metrics(trainer))
        return {name: value for name, _, value in shown}
