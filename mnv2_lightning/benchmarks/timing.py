"""Timing that leaves the warm-up out."""

import time
from collections.abc import Callable
from typing import Any

from mnv2_lightning.system.memory import peak_rss_bytes


def timed(step: Callable[[], Any], *, warmup: int, steps: int) -> list[float]:
    """Seconds of each of `steps` calls, after `warmup` others."""
    for _ in range(warmup):
        step()
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return seconds


def rate(images: int, seconds: list[float]) -> dict[str, Any]:
    """Of calls that took `images` each: images a second, and this process's peak memory."""
    return {
        "images_per_second": images * len(seconds) / sum(seconds),
        "peak_rss_bytes": peak_rss_bytes(),
    }
