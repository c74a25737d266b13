"""Which of the processes of a run this is, as torchrun or Lightning started it. Without torch."""

import os
import time

from mnv2_lightning.schema.errors import ConfigError, Diverged

PARENT = os.getppid()  # of a rank that Lightning started: the first


def rank() -> int:
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))


def _by_torchrun() -> bool:
    return "RANK" in os.environ


def is_orphan() -> bool:
    return os.getppid() != PARENT


def first_tells(error: BaseException) -> bool:
    """Whether another rank tells of `error`: it ends them all alike, or came of the first's end."""
    if rank() == 0:
        return False
    if _by_torchrun():
        return isinstance(error, ConfigError | Diverged)
    if isinstance(error, Diverged):
        return True
    let_first_end(1)  # its connections close a moment before it is gone
    return is_orphan()


def let_first_end(seconds: float = 5) -> None:
    """Lightning kills the first rank when one that it started has ended before."""
    deadline = time.monotonic() + seconds
    while rank() and not _by_torchrun() and not is_orphan() and time.monotonic() < deadline:
        time.sleep(0.05)
