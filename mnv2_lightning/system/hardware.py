"""The processor and the accelerators of this machine."""

import os
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from platformdirs import user_cache_path

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
    """Name, memory in bytes, compute capability and fast precisions of each CUDA device."""
    return [
        {
            "name": gpu.name,
            "memory_bytes": gpu.total_memory,
            "capability": f"{gpu.major}.{gpu.minor}",
            # Tensor cores: fp16 from 7.0 (Volta), bf16 from 8.0 (Ampere).
            "fast_fp16": gpu.major >= 7,
            "fast_bf16": gpu.major >= 8,
        }
        for gpu in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    ]


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
    locks = user_cache_path("mnv2_lightning", ensure_exists=True)
    for index in range(torch.cuda.device_count()):
        uuid = torch.cuda.get_device_properties(index).uuid
        lock = FileLock(locks / f"gpu-{uuid}.lock", blocking=False)
        with suppress(Timeout):
            lock.acquire()
            return index, lock
    return os.getpid() % torch.cuda.device_count(), None


def _cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> int | None:
    with suppress(AttributeError, ValueError, OSError):  # not on Windows
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None
