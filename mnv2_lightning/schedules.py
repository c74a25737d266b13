"""Learning-rate schedules: functions from a step, counted from 0, to a factor of the rate."""

import math
from collections.abc import Callable

Factor = Callable[[int], float]


def constant(*, total_steps: float, steps_per_epoch: float) -> Factor:
    """1 throughout."""
    return lambda step: 1.0


def linear(*, total_steps: float, steps_per_epoch: float, warmup: float, final: float) -> Factor:
    """Rise from 0 during the fraction `warmup` of all steps, then fall linearly to `final`."""
    return _after_warmup(total_steps, warmup, lambda t: 1 - (1 - final) * t)


def cosine(*, total_steps: float, steps_per_epoch: float, warmup: float, final: float) -> Factor:
    """Rise from 0 during the fraction `warmup` of all steps, then fall to `final` by a cosine."""
    return _after_warmup(
        total_steps, warmup, lambda t: final + (1 - final) * (1 + math.cos(math.pi * t)) / 2
    )


def exponential(*, total_steps: float, steps_per_epoch: float, decay: float) -> Factor:
    """`decay` to the power of completed epochs (0.98 in the paper of MobileNetV2)."""
    return lambda step: decay ** int(step / steps_per_epoch)


def _after_warmup(total_steps: float, warmup: float, fall: Callable[[float], float]) -> Factor:
    """`fall` maps the time since the warm-up, from 0 to 1 at the end of training, to a factor."""
    rising = warmup * total_steps

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        return fall(min(1.0, (step - rising) / max(1.0, total_steps - rising)))

    return factor
