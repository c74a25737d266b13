"""Errors end a command with one line on standard error and an exit status."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mnv2_lightning.runs.folder import resume_hint
from mnv2_lightning.schema.errors import (
    ConfigError,
    Diverged,
    ExportError,
    RankError,
    SearchError,
    StorageError,
    UserError,
    is_of_storage,
    one_line,
)
from mnv2_lightning.system import processes, ranks, signals
from mnv2_lightning.system.durable_files import write_text


@dataclass
class Outcome:
    folder: Path | None  # of a run or a sweep, for the traceback
    status: int = 0  # exit status; 0: no error
    message: str | None = None


class Reported(SystemExit):
    """Ends the command after an error that `report_error` has printed."""


@contextmanager
def report_error(shows_traceback: bool = False, folder: Path | None = None) -> Iterator[Outcome]:
    """Print an error of the block as one line. SystemExit passes, unless a signal raised it."""
    outcome = Outcome(folder)
    try:
        yield outcome
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        signal = signals.interruption(error)
        if signal is None and isinstance(error, SystemExit):
            raise
        outcome.status, outcome.message = _describe(signal or error, outcome.folder)
        if shows_traceback or "traceback=true" in map(str.lower, sys.argv):
            traceback.print_exc()
        where = "" if signal is not None else _save_traceback(error, outcome)
        _print(error, f"{outcome.message}{where}", is_signal=signal is not None)


def _print(error: BaseException, message: str, *, is_signal: bool) -> None:
    rank = ranks.rank()
    is_shared = isinstance(error, ConfigError | Diverged)  # all ranks raise it; the first reports
    is_left = is_waited_for() if is_signal else is_shared and rank > 0 and not ranks.is_launched()
    if is_left:
        return
    if rank and not is_shared:
        message = f"rank {rank}: {message}"
    if not ranks.report(message):
        print(f"error: {message}", file=sys.stderr, flush=True)


def is_waited_for() -> bool:
    """Whether another process of the command waits for this one and reports signals."""
    return ranks.is_launched() or ranks.rank() > 0 or processes.is_child()


def _describe(error: BaseException | type[UserError], folder: Path | None) -> tuple[int, str]:
    """Exit status and message of an error, or of the class that stands for a signal."""
    if isinstance(error, type):
        return error.exit_status, f"{error.__name__.lower()}{resume_hint(folder)}"
    if isinstance(error, UserError):
        return error.exit_status, str(error)
    if isinstance(error, OSError) and is_of_storage(error):
        where = error.filename or folder
        return StorageError.exit_status, f"{where}: {error.strerror}" if where else one_line(error)
    return 1, f"{type(error).__name__}: {one_line(error)}"


def _save_traceback(error: BaseException, outcome: Outcome) -> str:
    """Write the traceback into the folder; return where it is, if the error is unexpected."""
    # Ranks and trials have saved their own; that of a comparison says no more than its message.
    if isinstance(error, RankError | SearchError | ExportError):
        return ""
    where = "traceback=true shows where"
    if outcome.folder is not None:
        path = outcome.folder / (f"error-{ranks.rank()}.txt" if ranks.rank() else "error.txt")
        with suppress(StorageError):
            write_text(path, "".join(traceback.format_exception(error)))
            where = f"where: {path}"
    return f" ({where})" if outcome.status == 1 else ""
