"""A job of a sweep, and a rank, end where the command that started them has ended."""

import sys
from typing import Any

from lightning.pytorch.callbacks import Callback

from mnv2_lightning.schema.errors import Terminated
from mnv2_lightning.system import processes, signals


class ProcessGuard(Callback):
    """Asks before each batch, and lets a second Ctrl-C end the process at once."""

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        if processes.is_orphan():
            sys.exit(Terminated.exit_status)

    on_validation_batch_start = on_train_batch_start
    on_test_batch_start = on_train_batch_start

    def on_exception(self, *args: Any, **kwargs: Any) -> None:
        signals.reinstall()
