"""What the loggers of a run share: its name elsewhere, its ID there, and how it ended."""

from abc import abstractmethod
from pathlib import Path

from lightning.pytorch.loggers import Logger


class RunLogger(Logger):
    """A logger that `train` tells how a run ended; Lightning's `finalize` follows every fit and
    test.
    """

    @abstractmethod
    def end(self, status: str) -> None:
        """`status`: that of result.json."""


def run_name(run_dir: Path) -> str:
    """`fast/20261127-120000-1a2b3c`, and of a job of a sweep `SWEEP/lr-0.1_seed-1`."""
    return "/".join(run_dir.absolute().parts[-2:])
