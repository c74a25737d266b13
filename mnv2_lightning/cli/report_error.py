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
    Interrupted,
    RankError,
    SearchError,
    StorageError,
    Terminated,
    UserError,
    is_of_storage,
)
from mnv2_lightning.system import processes, ranks, signals
from mnv2_lightning.system.durable_files import write_text

INTERRUPTIONS = (Interrupted.exit_status, Terminated.exit_status)


@dataclass
class Outcome:
    folder: Path | None  # of a run or a sweep; gets the traceback
    status: int = 0  # exit status; 0: no error
    message: str | None = None


@contextmanager
def report_error(shows_traceback: bool, folder: Path | None = None) -> Iterator[Outcome]:
    """Print what the block raises as one line, and set the outcome.

    SystemExit passes, unless a signal raised it.
    """
    outcome = Outcome(folder)
    try:
        yield outcome
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        signal = signals.interruption(error)
        if signal is None and isinstance(error, SystemExit):
            raise
        outcome.status, outcome.message = _describe(error, signal, outcome.folder)
        if shows_traceback:
            traceback.print_exc()
        where = _save_traceback(error, outcome.folder, outcome.status)
        _print(error, f"{outcome.message}{where}")


def _print(error: BaseException, message: str) -> None:
    rank = ranks.rank()
    is_shared = isinstance(error, ConfigError | Diverged)  # all ranks raise it; the first reports
    if signals.interruption(error) is not None:
        if rank or processes.is_child():  # the command that waits reports it
            return
    elif rank and is_shared and not ranks.is_launched():
        return
    elif rank and not is_shared:
        message = f"rank {rank}: {message}"
    if not ranks.report(message):
        print(f"error: {message}", file=sys.stderr, flush=True)


def _describe(
    error: BaseException, signal: type[UserError] | None, folder: Path | None
) -> tuple[int, str]:
    """Exit status and message."""
    if signal is not None:
        return signal.exit_status, f"{signal.__name__.lower()}{resume_hint(folder)}"
    if isinstance(error, UserError):
        return error.exit_status, str(error)
    if isinstance(error, OSError) and is_of_storage(error):
        where = error.filename or folder
        return StorageError.exit_status, f"{where}: {error.strerror}" if where else one_line(error)
    return 1, f"{type(error).__name__}: {one_line(error)}"


def _save_traceback(error: BaseException, folder: Path | None, status: int) -> str:
    """Returns where it is, for the message of an unforeseen error."""
    if isinstance(error, RankError | SearchError):  # ranks and trials have saved their own
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
