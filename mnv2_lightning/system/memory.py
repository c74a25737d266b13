"""Memory of the process: its peak, the reuse of freed memory, and what is left."""

import ctypes
import platform
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# glibc's malloc.h: the parameter, and what it is set to.
MALLOPT = {
    -4: 0,  # M_MMAP_MAX: take no tensor straight from the kernel
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD: give nothing back to it
    -2: 2**28,  # M_TOP_PAD: ask for 256 MB at a time
}


def keep_freed_memory() -> None:
    """Let glibc reuse freed memory; without glibc, do nothing.

    By default glibc returns each freed large tensor to the kernel, and the next step's page faults
    take up to two thirds of its time on a CPU.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in MALLOPT.items():
            mallopt(parameter, value)


def peak_rss_bytes() -> int | None:
    """Peak resident set size of this process; None on Windows."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would also count the process that this one was forked from
        lines = status.read_text(encoding="utf-8").splitlines()
        return next((int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM")), None)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_bytes(device: "torch.device") -> int | None:
    """Memory that is free on `device`; None if unknown."""
    import torch

    if device.type != "cpu":
        with suppress(RuntimeError):  # not every backend knows
            return torch.accelerator.get_memory_info(device)[0]
    elif (meminfo := Path("/proc/meminfo")).is_file():
        lines = meminfo.read_text(encoding="utf-8").splitlines()
        return next((int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable")), None)
    return None
