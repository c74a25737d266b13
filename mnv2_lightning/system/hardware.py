"""The processor and the accelerators of this machine."""

import os
import platform
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from mnv2_lightning.schema.errors import ConfigError


def hardware() -> dict[str, Any]:
    """Processor, cores, threads that torch uses, memory in bytes, GPUs."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "simd": torch.backends.cpu.get_cpu_capability(),
        "bf16": any("bf16" in name and has for name, has in torch.cpu.get_capabilities().items()),
        "memory_bytes": _memory(),
        "gpus": gpus(),
        "mps": torch.backends.mps.is_available(),
    }


def gpus() -> list[dict[str, Any]]:
    """Name, memory in bytes, compute capability and precisions of each CUDA device."""
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        capability = (properties.major, properties.minor)
        found.append(
            {
                "name": properties.name,
                "memory_bytes": properties.total_memory,
                "capability": f"{capability[0]}.{capability[1]}",
                # Tensor cores: fp16 from 7.0 (Volta), bf16 from 8.0 (Ampere).
                "fast_fp16": capability >= (7, 0),
                "fast_bf16": capability >= (8, 0),
            }
        )
    return found


def auto_accelerator() -> str:
    """The accelerator that `trainer.accelerator=auto` selects."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_accelerator(key: str, accelerator: str) -> None:
    """ConfigError: this machine lacks the accelerator."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if not {"gpu": cuda or mps, "cuda": cuda, "mps": mps}.get(accelerator, True):
        raise ConfigError(
            f"{key}={accelerator}: this machine has none; {key}=auto uses the best there is, "
            f"here {auto_accelerator()}"
        )


@cache
def own_gpu() -> tuple[int, FileLock | None]:
    """Index of a free GPU, and its lock, which this process holds until it ends.

    A lock is named by the GPU's UUID, because an index depends on CUDA_VISIBLE_DEVICES. If no GPU
    is free, one is shared without a lock.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0
    for index in range(torch.cuda.device_count()):
        name = f"mnv2_lightning-{user}-gpu-{torch.cuda.get_device_properties(index).uuid}.lock"
        lock = FileLock(Path(tempfile.gettempdir()) / name, blocking=False)
        with suppress(Timeout):
            lock.acquire()
            return index, lock
    return os.getpid() % torch.cuda.device_count(), None


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
