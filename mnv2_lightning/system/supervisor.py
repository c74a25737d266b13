"""A sweep outlives the process that runs its jobs, which the system may kill for its memory.

The command is two processes: one waits; where the other is killed within a job, that is recorded,
and it is started again for the rest. On Linux alone. Imports nothing that takes time.
"""

import ctypes
import mmap
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from mnv2_lightning.schema.errors import Interrupted, StorageError, Terminated
from mnv2_lightning.system import signals

PR_SET_PDEATHSIG = 1  # prctl(2)
OTHERS = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)  # which a job may heed
SECONDS = 5.0  # in which the ranks of a job whose first process was killed have ended


class _Process:
    child = 0  # of the one that waits
    job: mmap.mmap | None = None  # memory of both: the folder of the job that runs
    killed: frozenset[str] = frozenset()  # those that it was killed in
    received: int | None = None  # the signal that was passed on


def supervise() -> None:
    """Returns in the process that runs the jobs; the one that waits ends with its status."""
    if sys.platform != "linux":
        return
    own = os.getpid()
    before = {number: signal.getsignal(number) for number in (*signals.ENDINGS, *OTHERS)}
    for number, handler in before.items():
        if handler not in (signal.SIG_IGN, None):
            signal.signal(number, _forward)
    while True:
        _Process.job = mmap.mmap(-1, 4096)
        _Process.child = os.fork()
        if not _Process.child:
            for number, handler in before.items():
                signal.signal(number, handler)
            signals.PARENT = own
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != own:
                os._exit(1)
            return
        ended = os.waitstatus_to_exitcode(os.waitpid(_Process.child, 0)[1])
        _Process.child = 0
        job = os.fsdecode(_Process.job[:].rstrip(b"\0"))
        is_over = not job or ended in (Interrupted.exit_status, Terminated.exit_status)
        if is_over or _Process.received is not None:
            os._exit(ended if ended >= 0 else 128 - ended)
        _record(Path(job), ended)
        _Process.killed |= {job}


@contextmanager
def running(folder: Path | None) -> Iterator[None]:
    """While the job of the sweep runs that goes into `folder`."""
    if _Process.job is None:
        yield
        return
    _tell(folder)
    try:
        yield
    finally:
        _tell(None)


def was_killed(folder: Path | None) -> bool:
    """Whether the process before this one was, in the job that goes into `folder`."""
    return str(folder) in _Process.killed


def sweep() -> Path | None:
    """The folder of the sweep that goes on here after a job was killed."""
    return Path(min(_Process.killed)).parent if _Process.killed else None


def _tell(folder: Path | None) -> None:
    assert _Process.job is not None
    _Process.job[:] = os.fsencode(folder or "").ljust(len(_Process.job), b"\0")


def _forward(number: int, frame: FrameType | None) -> None:
    if number not in (signal.SIGUSR1, signal.SIGUSR2):
        _Process.received = number
    if not _Process.child and number in signals.ENDINGS:
        signals.end(number)
    elif not _Process.child:
        os._exit(128 + number)
    with suppress(ProcessLookupError):
        os.kill(_Process.child, number)


def _record(folder: Path, ended: int) -> None:
    from filelock import FileLock, Timeout

    from mnv2_lightning.runs.folder import LOCK, read_record
    from mnv2_lightning.runs.record import EMPTY
    from mnv2_lightning.system import durable_files

    if ended == -signal.SIGKILL:
        error = "killed by SIGKILL, as the system does where memory runs out"
    elif ended < 0:
        error = f"killed by {signal.Signals(-ended).name}"
    else:
        error = f"the process was ended with status {ended}"
    with suppress(OSError, Timeout), FileLock(folder / LOCK, timeout=SECONDS):
        pass
    record = EMPTY | read_record(folder) | {"status": "failed", "error": error}
    with suppress(StorageError):
        durable_files.write_json(folder / "result.json", record)
    with suppress(OSError):
        print(f"error: {folder}: {error}", file=sys.stderr, flush=True)
