"""The environment of a run: versions, hardware, git commit."""

import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "numpy")


def environment() -> dict[str, Any]:
    return {"versions": versions(), "hardware": hardware(), "git_commit": git_commit()}


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that the result depends on."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def git_commit() -> str | None:
    """The commit of this code, followed by "+changes" if files differ. None: not a checkout."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    options = ("--always", "--exclude=*", "--abbrev=40", "--dirty=+changes")
    command = ["git", "-C", str(here), "describe", *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


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


def _cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> int | None:
    with suppress(AttributeError, ValueError, OSError):  # not on Windows
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None
