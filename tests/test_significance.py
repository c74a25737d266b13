"""The statistics of comparisons, on simulated data whose truth is known."""

import numpy as np
import pytest
from scipy import stats

from mnv2_lightning.reports.significance import (
    LEVEL,
    holm,
    mcnemar_p,
    paired_difference,
    power,
    sign_flip_p,
)


def within_binomial_error(count: int, trials: int, probability: float) -> bool:
    """Whether `count` lies in the central 99.9 % of Binomial(trials, probability)."""
    low, high = stats.binom.interval(0.999, trials, probability)
    return bool(low <= count <= high)


@pytest.mark.parametrize("n", [3, 5, 8])
def test_the_interval_covers_the_truth_as_often_as_it_says(n: int) -> None:
    rng, trials, covered = np.random.default_rng(n), 1_000, 0
    for _ in range(trials):
        seeds = rng.normal(0.993, 0.001, n)  # what both arms share
        a, b = (seeds + rng.normal(shift, 0.0005, n) for shift in (0.0003, 0.0))
        found = paired_difference(a, b)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.0003 <= found.high
    assert within_binomial_error(covered, trials, LEVEL)


def test_intervals_of_several_pairs_cover_together() -> None:
    """Of three arms without a difference, in at least 95 % of studies no interval excludes 0."""
    rng, studies, wrong = np.random.default_rng(0), 500, 0
    for _ in range(studies):
        arms = rng.normal(0, 1, (3, 5))
        pairs = [
            paired_difference(arms[i], arms[j], comparisons=3) for i, j in ((0, 1), (0, 2), (1, 2))
        ]
        wrong += any(pair.low > 0 or pair.high < 0 for pair in pairs)  # type: ignore[operator]
    assert stats.binomtest(wrong, studies, 0.05, alternative="greater").pvalue > 0.001


@pytest.mark.parametrize("n", [6, 10])
def test_the_permutation_test_is_wrong_as_seldom_as_it_says(n: int) -> None:
    """Exact: of 2**n flips, p <= 0.05 for a share of at most 0.05, the nearest multiple of it."""
    rng, trials = np.random.default_rng(n), 400
    flips = 2 * (2**n // 40) / 2**n  # largest attainable level
    wrong = sum(sign_flip_p(rng.normal(0, 1, n)) <= 0.05 for _ in range(trials))
    assert within_binomial_error(wrong, trials, flips)


def test_the_permutation_test_finds_what_there_is() -> None:
    assert sign_flip_p(np.array([0.1, 0.2, 0.15, 0.12, 0.18])) == pytest.approx(2 / 2**5)
    assert sign_flip_p(np.array([0.1, -0.1, 0.2, -0.2])) == 1


@pytest.mark.parametrize(("effect", "comparisons"), [(0.001, 1), (0.0005, 1), (0.001, 3)])
def test_power_is_how_often_the_interval_excludes_0(effect: float, comparisons: int) -> None:
    deviation, n, studies = 0.0007, 5, 800
    differences = np.random.default_rng(0).normal(effect, deviation, (studies, n))
    found = [paired_difference(d, np.zeros(n), comparisons=comparisons) for d in differences]
    excluded = sum(not (f.low or 0) <= 0 <= (f.high or 0) for f in found)
    expected = power(deviation, n, effect=effect, comparisons=comparisons)
    assert within_binomial_error(excluded, studies, expected)


def test_power_at_the_ends() -> None:
    assert power(0.0, 5) == 1
    assert power(1e-9, 5) == pytest.approx(1)
    assert power(10.0, 5) == pytest.approx(0.05, abs=1e-3)


def test_few_pairs() -> None:
    one, two, three = (paired_difference([0.9] * n, [0.8, 0.7, 0.6][:n]) for n in (1, 2, 3))
    assert (one.low, one.p) == (None, None)
    assert two.low is not None
    assert two.p is None
    assert three.p == pytest.approx(0.25)


def test_holm() -> None:
    """The example of R's p.adjust, in another order."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_mcnemar() -> None:
    assert mcnemar_p(0, 0) == 1
    assert mcnemar_p(5, 15) == pytest.approx(0.0413895, abs=1e-6)
    rng = np.random.default_rng(0)
    wrong = sum(mcnemar_p(*rng.multinomial(40, [0.5, 0.5])) <= 0.05 for _ in range(2_000))
    assert wrong / 2_000 <= 0.05
