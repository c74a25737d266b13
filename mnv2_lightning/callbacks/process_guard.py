"""Ends a job of a sweep, or a rank, whose command has ended."""

from typing import Any

from lightning.pytorch.callbacks import Callback

from mnv2_lightning.system import processes, signals


class ProcessGuard(Callback):
    """Check the parent process before each batch, and let a second Ctrl-C end the process."""

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        processes.exit_if_orphan()

    on_validation_batch_start = on_train_batch_start
    on_test_batch_start = on_train_batch_start

    def on_exception(self, *args: Any, **kwargs: Any) -> None:
        signals.reinstall()
