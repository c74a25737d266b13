"""Memory of the process: how much it held, and that it is kept for the next step."""

import ctypes
import platform
import sys

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


def peak_rss_bytes() -> int | None:
    """The most memory this process ever held; None: the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
