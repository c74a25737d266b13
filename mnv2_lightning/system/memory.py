"""Memory of the process: how much it held, and that it is kept for the next step."""

import contextlib
import ctypes
import gc
import platform
import sys
from pathlib import Path

# glibc's malloc.h: the parameter, and what it is set to.
MALLOPT = {
    -4: 0,  # M_MMAP_MAX: take no tensor straight from the kernel
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD: give nothing back to it
    -2: 2**28,  # M_TOP_PAD: ask for 256 MB at a time
}


def keep_freed_memory() -> None:
    """Let the process keep what it frees. Elsewhere than under glibc it does nothing.

    glibc gives every large tensor back to the kernel as it is freed, and the next step faults it
    in again, page by page: on a CPU up to two thirds of a step's time.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in MALLOPT.items():
            mallopt(parameter, value)


def forget_run() -> None:
    """Free what a run of this process left, and count the peak anew (on Linux). Lightning's objects
    are cycles, which Python by itself may keep for ten runs.
    """
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_rss_bytes() -> int | None:
    """The most memory this process held (in this run); None: the system does not tell."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would also count the process that this one was forked from
        lines = status.read_text().splitlines()
        return next((int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM")), None)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
