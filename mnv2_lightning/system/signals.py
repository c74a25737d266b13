"""Ctrl-C and SIGTERM: a command cleans up and exits with status 130 or 143."""

import atexit
import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

from mnv2_lightning.schema.errors import Interrupted, Terminated, UserError

ERRORS: dict[int, type[UserError]] = {signal.SIGINT: Interrupted, signal.SIGTERM: Terminated}


class _Process:
    received: int | None = None  # the first signal
    is_silent: bool | None = None  # None: not installed
    status: int | None = None  # to exit with


def install(*, is_silent: bool) -> None:
    """Exit at once on SIGINT and SIGTERM, until `raise_errors` is called.

    For the entry point of a command: nothing is to be saved yet, and an exception in the midst of
    `import torch` may be lost or abort the process. A signal that is ignored, as SIGINT is in a
    background process of a shell, stays ignored.
    """
    atexit.register(_exit_fast)  # runs after the handlers that libraries register later
    _Process.is_silent = is_silent
    for number in ERRORS:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, _exit_now)


def is_installed() -> bool:
    """Whether this process is a command; False in a worker of a launcher."""
    return _Process.is_silent is not None


def raise_errors() -> None:
    """Raise KeyboardInterrupt on SIGINT, SystemExit(143) on SIGTERM; a second one exits at once."""
    _replace(_exit_now, _raise)


def _replace(old: Any, new: Any) -> None:
    for number in ERRORS:
        if signal.getsignal(number) is old:
            signal.signal(number, new)


def _exit_now(number: int, frame: FrameType | None) -> None:
    if not _Process.is_silent:
        os.write(2, f"error: {ERRORS[number].__name__.lower()}\n".encode())
    os._exit(ERRORS[number].exit_status)


def _raise(number: int, frame: FrameType | None) -> None:
    if _Process.received is not None:
        os._exit(ERRORS[_Process.received].exit_status)
    _Process.received = number
    raise_again()


def raise_again() -> None:
    """Raise the error of a signal that was received; a destructor or C++ may have dropped it."""
    if _Process.received == signal.SIGINT:
        raise KeyboardInterrupt
    if _Process.received == signal.SIGTERM:
        sys.exit(Terminated.exit_status)


def interruption(error: BaseException | None = None) -> type[UserError] | None:
    """The signal that was received or is behind `error`, if any. Libraries raise other errors on
    the way up: Lightning turns KeyboardInterrupt into SystemExit(1).
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
    for handler in (_raise, _exit_now):  # nothing is left to be saved
        _replace(handler, lambda *_: os._exit(status))
    sys.exit(status)


def _exit_fast() -> None:
    if _Process.status is not None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(_Process.status)
