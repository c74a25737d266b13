"""Each schedule against a table written out by hand."""

import math

import pytest

from mnv2_lightning import schedules


def factors(schedule: schedules.Factor, steps: list[int]) -> list[float]:
    return [round(schedule(step), 6) for step in steps]


def test_constant() -> None:
    assert factors(schedules.constant(total_steps=100, steps_per_epoch=10), [0, 50, 99]) == [1] * 3


def test_linear() -> None:
    """20 of 100 steps rise by 1/21 each; 80 fall by 1/80 each, from 1."""
    schedule = schedules.linear(total_steps=100, steps_per_epoch=10, warmup=0.2, final=0.0)
    expected = [1 / 21, 20 / 21, 1, 1 - 40 / 80, 1 - 79 / 80, 0]
    assert factors(schedule, [0, 19, 20, 60, 99, 100]) == [round(x, 6) for x in expected]


def test_linear_ends_at_final() -> None:
    schedule = schedules.linear(total_steps=100, steps_per_epoch=10, warmup=0.0, final=0.1)
    assert factors(schedule, [0, 50, 100, 150]) == [1, 0.55, 0.1, 0.1]


def test_cosine() -> None:
    schedule = schedules.cosine(total_steps=100, steps_per_epoch=10, warmup=0.0, final=0.2)
    quarter = 0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2
    assert factors(schedule, [0, 25, 50, 100]) == [1, round(quarter, 6), 0.6, 0.2]


def test_exponential_is_the_papers() -> None:
    """0.98 an epoch, in steps of an epoch."""
    schedule = schedules.exponential(total_steps=100, steps_per_epoch=10, decay=0.98)
    assert factors(schedule, [0, 9, 10, 25]) == [1, 1, 0.98, round(0.98**2, 6)]


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_never_negative_and_never_above_one(name: str) -> None:
    schedule = getattr(schedules, name)(total_steps=37, steps_per_epoch=5, warmup=0.15, final=0.0)
    assert all(0 <= schedule(step) <= 1 for step in range(60))
