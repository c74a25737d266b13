"""Ctrl-C and SIGTERM. Imports nothing that takes time: a command begins with `end_at_once`."""

import atexit
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from mnv2_lightning.schema.errors import Interrupted, Terminated, UserError
from mnv2_lightning.system import ranks

ENDINGS: dict[int, type[UserError]] = {signal.SIGINT: Interrupted, signal.SIGTERM: Terminated}
PATIENCE = 3.5  # seconds in which a job may end by itself; the command is to end within five
OF_A_RANK = 3.0  # the same for the rank that a command of ours waits for: it is to end before that
AGAIN = 2.0  # seconds after which what was raised seems to be lost
AT_ONCE = 0.1  # seconds: a terminal sends Ctrl-C to a sweep's two processes, one passes it on
SEVERAL = {"sweep.json": "sweep", ".locks": "search.name"}  # what a folder of runs holds
# The process that started this one, which may be gone already.
PARENT = int(os.environ.get(ranks.LAUNCHED) or os.getppid())


class _Process:
    received: int | None = None  # the signal that is ending its job
    came = 0.0  # when, by the clock of time.monotonic
    is_heard = False  # whether what it raised came where it is told of
    is_raised_once = False  # what it raised is not taken for lost
    status: int | None = None  # that it is to exit with, quickly
    last_word: Callable[[], None] | None = None  # what its record is to get where it did not


def end_at_once() -> None:
    """From here on a signal ends the process: before a job starts there is nothing to save.

    An exception could get lost in an import, or abort it. Only for the entry of a command.
    """
    atexit.register(_exit_after_handlers)  # the first to be registered is the last to run
    for number in _heeded():
        signal.signal(number, end)


def _heeded() -> list[int]:
    """A shell lets what it starts in the background ignore Ctrl-C."""
    return [x for x in ENDINGS if signal.getsignal(x) not in (signal.SIG_IGN, None)]


def end(number: int, frame: FrameType | None = None, hint: str = "") -> NoReturn:
    kind = ENDINGS[number]
    if ranks.rank() == 0 and not ranks.is_launched():
        with suppress(OSError):
            os.write(2, f"error: {kind.__name__.lower()}{hint}\n".encode())
    os._exit(kind.exit_status)


@contextmanager
def raising(folder: Path | None, *, follows_parent: bool = False) -> Iterator[None]:
    """In this block a signal raises KeyboardInterrupt or SystemExit(143), so that the run in
    `folder` is recorded; where that is lost, or takes too long, the process ends all the same.

    A rank other than the first has nothing to save, and ends at once. A rank, and what
    `follows_parent`, ends as by SIGTERM where the process that started it is gone. Does nothing in
    a thread that is not the main one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # A handler does not run while the main thread is within C; another thread can be woken.
    listening, waking = socket.socketpair()
    waking.setblocking(False)
    fd_before = signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, _raise) for number in _heeded()}
    follows = follows_parent or ranks.is_started()
    watched = (listening, folder, threading.get_ident(), follows)
    watcher = threading.Thread(target=_watch, args=watched, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(fd_before)
        waking.close()
        watcher.join()
        listening.close()
        _Process.received, _Process.is_heard = None, False


def _raise(number: int, frame: FrameType | None) -> None:
    if _Process.is_heard or ranks.rank() != 0:
        return
    if _Process.received is None:
        _Process.received, _Process.came = number, time.monotonic()
    elif time.monotonic() - _Process.came < AT_ONCE:
        return
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(ENDINGS[number].exit_status)


def _watch(listening: socket.socket, folder: Path | None, main: int, follows: bool) -> None:
    """Ends the process where the job does not by itself; returns when its block has ended."""
    number, came, is_raised_again = None, 0.0, False
    patience = OF_A_RANK if ranks.is_launched() else PATIENCE
    while True:
        if select.select([listening], [], [], 0.2)[0]:
            if not (woken_by := listening.recv(1)):
                return
            if number is None and woken_by[0] in ENDINGS:
                number, came = woken_by[0], time.monotonic()
        if number is None and follows and os.getppid() != PARENT:
            os.kill(os.getpid(), signal.SIGTERM)
        if ranks.rank() != 0:
            if number is not None:
                end(number)
        elif number is not None:
            waited = time.monotonic() - came
            if waited > patience:
                if _Process.last_word is not None:
                    _Process.last_word()
                end(number, hint=resume_hint(folder))
            is_raised_again |= _Process.is_raised_once
            if waited > AGAIN and not is_raised_again and hasattr(signal, "pthread_kill"):
                is_raised_again = True
                signal.pthread_kill(main, number)


@contextmanager
def raised_once() -> Iterator[None]:
    """In this block a signal raises once: then it waits for the processes that are to end first."""
    _Process.is_raised_once = True
    try:
        yield
    finally:
        _Process.is_raised_once = False


@contextmanager
def last_word(say: Callable[[], None]) -> Iterator[None]:
    """`say` is called where a signal ends the process within this block, and nothing else can be:
    its main thread may be waiting for another process within C.
    """
    _Process.last_word = say
    try:
        yield
    finally:
        _Process.last_word = None


def is_ending() -> bool:
    """Whether a signal has come in this job."""
    return _Process.received is not None


def ended_by(error: BaseException) -> type[UserError] | None:
    """Ctrl-C or SIGTERM, where that ended the job, whatever became of it on the way up."""
    if _Process.received is not None:
        _Process.is_heard = True
        return ENDINGS[_Process.received]
    if isinstance(error, SystemExit) and error.code == Terminated.exit_status:
        return Terminated
    if isinstance(error, SystemExit):  # which Lightning turns Ctrl-C into
        error = error.__context__ or error
    return Interrupted if isinstance(error, KeyboardInterrupt) else None


def resume_hint(folder: Path | None) -> str:
    """How to go on, where a checkpoint was written or the run is one of several."""
    if folder is None:
        return ""
    for name, key in SEVERAL.items():
        if (folder.parent / name).exists():
            where = f"{key}={folder.parent.name}"
            return f"; the same command goes on (with {where}, if it had no name)"
    saved = any((folder / "checkpoints").glob("*.ckpt"))
    return f"; go on with resume={folder}" if saved else ""


def leave(status: int, *, at_once: bool = False) -> NoReturn:
    """End the process. A command runs the exit handlers of its libraries, such as a logger's, and
    skips the seconds in which Python unloads torch; `at_once`: it runs none.
    """
    if at_once:
        _exit(status)
    _Process.status = status
    sys.exit(status)


def _exit_after_handlers() -> None:
    if _Process.status is not None:
        _exit(_Process.status)


def _exit(status: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
