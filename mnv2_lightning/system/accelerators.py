"""Accelerators of this machine."""

import os
from contextlib import suppress
from functools import cache

import torch
from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from mnv2_lightning.schema.errors import ConfigError


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
    for index in range(torch.cuda.device_count()):
        uuid = torch.cuda.get_device_properties(index).uuid
        path = user_cache_path("mnv2_lightning") / f"gpu-{uuid}.lock"
        lock = FileLock(path, blocking=False)
        with suppress(OSError, Timeout):  # OSError: the home folder is read-only
            lock.acquire()
            return index, lock
    return os.getpid() % torch.cuda.device_count(), None
