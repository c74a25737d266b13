"""How a command ends: one line on standard error, an exit status, a traceback where it helps."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mnv2_lightning.schema.errors import (
    ConfigError,
    Diverged,
    Interrupted,
    RankError,
    SearchError,
    StorageError,
    Terminated,
    UserError,
    is_of_storage,
)
from mnv2_lightning.system import ranks, signals
from mnv2_lightning.system.durable_files import write_text

INTERRUPTIONS = (Interrupted.exit_status, Terminated.exit_status)


class Told:
    status = 0  # of the command; 0: nothing was raised
    line: str | None = None  # that was told


@contextmanager
def told(shows_traceback: bool, folder: Path | None = None) -> Iterator["Told"]:
    """Turns what the block raises into one line on standard error and a status.

    `folder`: the run's, which gets the traceback too.
    """
    ended = Told()
    try:
        yield ended
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if isinstance(error, SystemExit) and not signals.is_ending():
            raise  # Hydra's or our own
        is_others = bool(ranks.rank())
        if isinstance(error, ConfigError | Diverged):  # all ranks end by it
            if is_others and not ranks.is_launched():
                signals.leave(error.exit_status)
            is_others = False
        ended.status, ended.line = _tell(error, folder)
        if shows_traceback:
            traceback.print_exc()
        by = f"rank {ranks.rank()}: " if is_others else ""
        line = f"{by}{ended.line}{_traceback(error, folder, ended.status)}"
        if not ranks.tell(line):
            print(f"error: {line}", file=sys.stderr, flush=True)


def _tell(error: BaseException, folder: Path | None) -> tuple[int, str]:
    """The exit status and the line for an error."""
    kind = signals.ended_by(error)
    if isinstance(error, UserError) and (kind is None or isinstance(error, kind)):
        return error.exit_status, str(error)
    if kind is not None:
        return kind.exit_status, kind.__name__.lower()
    if isinstance(error, OSError) and is_of_storage(error):
        where = error.filename or folder
        return StorageError.exit_status, f"{where}: {error.strerror}" if where else one_line(error)
    return 1, f"{type(error).__name__}: {one_line(error)}"


def _traceback(error: BaseException, folder: Path | None, status: int) -> str:
    """Leave it in the run's folder; where it is, for an unforeseen error's line."""
    if isinstance(error, RankError | SearchError):  # which have left their own
        return ""
    if folder is not None and status not in INTERRUPTIONS:
        where = folder / (f"error-{ranks.rank()}.txt" if ranks.rank() else "error.txt")
        with suppress(StorageError):
            write_text(where, "".join(traceback.format_exception(error)))
            return f" (where: {where})" if status == 1 else ""
    return " (traceback=true shows where)" if status == 1 else ""


def one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] if lines else type(error).__name__
