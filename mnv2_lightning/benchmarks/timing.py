"""Timing without warm-up."""

import time
from collections.abc import Callable
from typing import Any

from mnv2_lightning.system.memory import peak_rss_bytes


def timed(step: Callable[[], Any], *, warmup: int, steps: int) -> list[float]:
    """Seconds of each of `steps` calls, which follow `warmup` untimed ones."""
    for _ in range(warmup):
        step()
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return seconds


def throughput(batch_size: int, seconds: list[float]) -> dict[str, Any]:
    """Images per second of calls that took `seconds` each, and the peak memory of the process."""
    return {
        "images_per_second": batch_size * len(seconds) / sum(seconds),
        "peak_rss_bytes": peak_rss_bytes(),
    }
