"""Timing without warm-up, and the limits of the machine."""

import gc
import timeit
from collections.abc import Callable
from typing import Any

import torch

from mnv2_lightning.system.memory import peak_rss_bytes


def timed(step: Callable[[], Any], *, warmup: int, steps: int) -> list[float]:
    """Seconds of each of `steps` calls, which follow `warmup` untimed ones."""
    # Garbage is collected as in a training, which timeit by itself would prevent.
    return timeit.repeat(step, gc.enable, number=1, repeat=warmup + steps)[warmup:]


def throughput(batch_size: int, seconds: list[float]) -> dict[str, Any]:
    """Images per second of calls that took `seconds` each, and the peak memory of the process."""
    return {
        "images_per_second": batch_size * len(seconds) / sum(seconds),
        "peak_rss_bytes": peak_rss_bytes(),
    }


def limits(*, steps: int) -> dict[str, Any]:
    """Speed of a large matrix product and of a copy of 256 MB, each the best of `steps`."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    product = min(timed(lambda: torch.mm(a, b), warmup=2, steps=steps))
    source = torch.randn(2**26)
    target = torch.empty_like(source)
    copy = min(timed(lambda: target.copy_(source), warmup=2, steps=steps))
    return {
        "sgemm_gflops": 2 * 2048**3 / product / 1e9,
        "copy_gb_per_second": 2 * source.nbytes / copy / 1e9,  # read and written
        "threads": torch.get_num_threads(),
    }
