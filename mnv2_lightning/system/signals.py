"""Ctrl-C and SIGTERM: a command cleans up and exits with status 130 or 143."""

import atexit
import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from mnv2_lightning.schema.errors import Interrupted, Terminated, UserError

ERRORS: dict[int, type[UserError]] = {signal.SIGINT: Interrupted, signal.SIGTERM: Terminated}


class _Process:
    received: int | None = None  # the first signal
    status: int | None = None  # to exit with


def install() -> None:
    """Raise KeyboardInterrupt on SIGINT and SystemExit(143) on SIGTERM; a second signal ends the
    process at once.

    For the entry point of a command. A signal that is ignored, as SIGINT by what a shell starts in
    the background, stays ignored.
    """
    atexit.register(_exit_fast)  # registered first, it runs last
    for number in ERRORS:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, _raise)


def reinstall() -> None:
    """Undo that Lightning ignores SIGINT after a first one."""
    if _Process.received is not None:
        signal.signal(signal.SIGINT, _raise)


def _raise(number: int, frame: FrameType | None) -> None:
    if _Process.received is not None:
        os._exit(ERRORS[_Process.received].exit_status)
    _Process.received = number
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(Terminated.exit_status)


def is_interrupted() -> bool:
    return _Process.received is not None


def interruption(error: BaseException) -> type[UserError] | None:
    """The signal behind `error`, if any. Libraries raise other errors on the way up: Lightning
    turns KeyboardInterrupt into SystemExit(1).
    """
    if _Process.received is not None:
        return ERRORS[_Process.received]
    if isinstance(error, SystemExit) and error.code == Terminated.exit_status:
        return Terminated
    if isinstance(error, SystemExit):
        error = error.__context__ or error
    return Interrupted if isinstance(error, KeyboardInterrupt) else None


def exit_command(status: int, *, fast: bool = True) -> NoReturn:
    """Run the exit handlers of all libraries, and exit.

    `fast`: skip the seconds in which Python unloads torch. A rank must not unload it: gloo may
    abort (github.com/pytorch/pytorch/pull/179291).
    """
    if fast:
        _Process.status = status
    for number in ERRORS:  # nothing is left to be saved, and what a handler raises would be printed
        if signal.getsignal(number) is _raise:
            signal.signal(number, lambda *_: os._exit(status))
    sys.exit(status)


def _exit_fast() -> None:
    if _Process.status is not None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(_Process.status)
