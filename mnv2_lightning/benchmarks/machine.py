"""Upper limits of the machine."""

from typing import Any

import torch

from mnv2_lightning.benchmarks.timing import timed


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
