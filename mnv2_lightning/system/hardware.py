"""What there is to compute on."""

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
    """Of this machine: processor, cores, threads that torch uses, memory in bytes, GPUs."""
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


def what_there_is() -> str:
    """In a few words."""
    found = [f"cpu ({os.cpu_count()} cores)"]
    if count := torch.cuda.device_count():
        found.append(f"gpu ({count} x {torch.cuda.get_device_properties(0).name})")
    if torch.backends.mps.is_available():
        found.append("mps")
    return ", ".join(found)


def auto_accelerator() -> str:
    """What `trainer.accelerator=auto` takes here."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_accelerator(key: str, accelerator: str) -> None:
    """ConfigError where this machine lacks it."""
    there = {
        "gpu": torch.cuda.is_available() or torch.backends.mps.is_available(),
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(accelerator, True):
        raise ConfigError(
            f"{key}={accelerator}: this machine has none; it has {what_there_is()}; "
            f"{key}=auto takes the best there is"
        )


def check_devices(devices: int | str | list[int], accelerator: str) -> None:
    """ConfigError where more or other GPUs are asked for than there are."""
    kind = auto_accelerator() if accelerator == "auto" else accelerator
    if kind not in ("cuda", "gpu") or devices in ("auto", -1, "-1"):
        return
    count = torch.cuda.device_count() or int(torch.backends.mps.is_available())
    try:  # "4" is a number of GPUs, "0,3" a list of them, as Lightning has it
        if isinstance(devices, str):
            devices = [int(d) for d in devices.split(",") if d] if "," in devices else int(devices)
        wanted = max(devices, default=-1) + 1 if isinstance(devices, list) else devices
    except ValueError:
        raise ConfigError(f"trainer.devices={devices}: must be a number or a list") from None
    if wanted > count:
        raise ConfigError(f"trainer.devices={devices}: there are {count} GPUs")


@cache
def own_gpu() -> tuple[int, FileLock | None]:
    """Index of a GPU that this process holds until it ends, and the lock on it.

    Locks go by UUID: an index means another GPU under another CUDA_VISIBLE_DEVICES. Where other
    processes of this machine hold all GPUs, one is shared, without a lock.
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
