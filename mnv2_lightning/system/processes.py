"""Commands as child processes, which end when their parent ends."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing import forkserver, resource_tracker
from typing import Any

from mnv2_lightning.schema.errors import Terminated
from mnv2_lightning.system import ranks, signals

# Slow imports, made once by the server that forks the processes. Without the command's own module,
# which each process imports under the name __mp_main__.
PRELOAD = ["mnv2_lightning.build", "mnv2_lightning.cli.checks"]
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Windows has no forks, and macOS's libraries none that are safe once torch is imported.
HAS_SERVER = sys.platform != "darwin" and "forkserver" in multiprocessing.get_all_start_methods()
METHOD = "forkserver" if HAS_SERVER else "spawn"
HAS_GROUPS = hasattr(os, "setpgrp")  # of processes; Windows has none, and no masks of signals
PARENT = int(os.environ.get(ranks.LAUNCHED) or os.getppid())  # that must outlive this one


def start_server() -> None:
    """Start the server, which imports PRELOAD; return at once."""
    if HAS_SERVER:
        forkserver.set_forkserver_preload(PRELOAD)
        with _blocked_signals():
            forkserver.ensure_running()


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """A process that is started inherits the mask: signals to the group are for this one alone."""
    if not HAS_GROUPS:
        yield
        return
    resource_tracker.ensure_running()  # which unblocks signals
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def run_command(module: str, arguments: Sequence[str]) -> int:
    """Run `python -m module *arguments`; return its exit status, or -N if signal N killed it.

    It has its own process group, and gets each signal of this process once.
    """
    start_server()
    if multiprocessing.get_start_method() not in multiprocessing.get_all_start_methods():
        # A worker of joblib passes its own on to its children, which do not know it.
        multiprocessing.set_start_method(METHOD, force=True)
    context: Any = multiprocessing.get_context(METHOD)
    environment = dict(os.environ)  # the server has that of its start
    process = context.Process(target=_run, args=(module, list(arguments), environment))
    try:
        with _blocked_signals():
            process.start()
        while process.is_alive():
            process.join(timeout=0.5)
            if not signals.is_installed() and os.getppid() != PARENT:
                os._exit(Terminated.exit_status)  # joblib would catch SystemExit
    except BaseException as error:
        if process.pid is not None:
            if not isinstance(error, KeyboardInterrupt):
                process.terminate()
            elif HAS_GROUPS:  # on Windows the console has sent it to both
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGINT)
            process.join()
        raise
    return process.exitcode or 0


def _run(module: str, arguments: list[str], environment: dict[str, str]) -> None:
    if HAS_GROUPS:
        os.setpgrp()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = arguments
    import_module(module).main()


def is_child() -> bool:
    """Whether `run_command` started this process."""
    return multiprocessing.parent_process() is not None


def exit_if_orphan() -> None:
    """Exit with status 143 if the command that this process is a job or a rank of has ended."""
    parent = multiprocessing.parent_process()
    is_orphan = parent is not None and not parent.is_alive()
    # On Windows a rank's parent is the python.exe of its venv, which starts another.
    if is_orphan or (ranks.is_launched() and os.name != "nt" and os.getppid() != PARENT):
        sys.exit(Terminated.exit_status)
