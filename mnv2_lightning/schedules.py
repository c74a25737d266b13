"""Learning-rate schedules: each returns the factor of the rate at a step (0 is the first)."""

import math
from collections.abc import Callable

Factor = Callable[[int], float]


def constant(*, total_steps: float, steps_per_epoch: float) -> Factor:
    """1 throughout."""
    return lambda step: 1.0


def linear(*, total_steps: float, steps_per_epoch: float, warmup: float, final: float) -> Factor:
    """Rise from 0 over the first `warmup` share of the steps, then fall in a line to `final`."""
    return _after_warmup(total_steps, warmup, lambda t: 1 - (1 - final) * t)


def cosine(*, total_steps: float, steps_per_epoch: float, warmup: float, final: float) -> Factor:
    """Rise from 0 over the first `warmup` share of the steps, then fall in half a cosine."""
    return _after_warmup(
        total_steps, warmup, lambda t: final + (1 - final) * (1 + math.cos(math.pi * t)) / 2
    )


def exponential(*, total_steps: float, steps_per_epoch: float, decay: float) -> Factor:
    """`decay` to the power of the epochs that are over (MobileNetV2's paper: 0.98)."""
    return lambda step: decay ** int(step / steps_per_epoch)


def _after_warmup(total_steps: float, warmup: float, fall: Callable[[float], float]) -> Factor:
    """`fall` maps 0 (end of the warm-up) .. 1 (end of training) to a factor."""
    rising = warmup * total_steps

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        return fall(min(1.0, (step - rising) / max(1.0, total_steps - rising)))

    return factor
