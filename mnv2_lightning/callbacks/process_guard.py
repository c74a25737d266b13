"""Ends processes that have lost their command, or a signal."""

import signal
from typing import Any

from lightning.pytorch.callbacks import Callback

from mnv2_lightning.system import processes, signals


class ProcessGuard(Callback):
    """Check the parent process and signals before each batch. A second Ctrl-C ends the process."""

    def setup(self, *args: Any, **kwargs: Any) -> None:
        self.handler = signal.getsignal(signal.SIGINT)

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        processes.exit_if_orphan()
        signals.raise_again()

    on_validation_batch_start = on_train_batch_start
    on_test_batch_start = on_train_batch_start

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Undo that Lightning ignores Ctrl-C after a first one."""
        if isinstance(exception, KeyboardInterrupt):
            signal.signal(signal.SIGINT, self.handler)
