"""Paired comparisons of accuracies: intervals, permutation tests, corrections for many pairs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95  # probability with which all intervals of a comparison hold
EFFECT = 0.001  # difference for which `Difference.power` is given
LEAST = 3  # pairs, below which neither a p-value nor a verdict is given


@dataclass(frozen=True)
class Difference:
    """The mean of n paired differences, with its confidence interval and p-value.

    `low`, `high`: None for one pair. `p`: of no difference. `power`: the probability that the
    interval excludes 0 where the true difference is EFFECT. Both are None for fewer than LEAST
    pairs.
    """

    n: int
    mean: float
    low: float | None
    high: float | None
    p: float | None
    power: float | None


def paired_difference(
    a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, *, comparisons: int = 1
) -> Difference:
    """Compare a[i] with b[i], which share all but what is compared: the seed, the data.

    The interval is Student's, and holds together with those of `comparisons` - 1 other pairs with
    probability LEVEL (Bonferroni). The p-value is that of the sign-flip permutation test, which
    assumes no distribution and cannot be below 2 / 2**n; it is not corrected.
    """
    differences = np.subtract(a, b)
    n, mean = len(differences), float(differences.mean())
    if n == 1:
        return Difference(1, mean, None, None, None, None)
    deviation = float(differences.std(ddof=1))
    half = deviation / np.sqrt(n) * _quantile(n, comparisons)
    if n < LEAST:
        return Difference(n, mean, mean - half, mean + half, None, None)
    found = power(deviation, n, comparisons=comparisons)
    return Difference(n, mean, mean - half, mean + half, sign_flip_p(differences), found)


def _quantile(n: int, comparisons: int) -> float:
    """Of Student's distribution, for one of `comparisons` intervals that hold together."""
    from scipy import stats

    return float(stats.t.ppf(1 - (1 - LEVEL) / comparisons / 2, n - 1))


def power(deviation: float, n: int, *, effect: float = EFFECT, comparisons: int = 1) -> float:
    """The probability that an interval of `paired_difference` excludes 0.

    `deviation`: the standard deviation of the n differences, whose mean is `effect`.
    """
    from scipy import stats

    if deviation == 0:
        return float(effect != 0)
    shift, limit = effect * np.sqrt(n) / deviation, _quantile(n, comparisons)
    beyond = stats.nct.sf(limit, n - 1, shift), stats.nct.cdf(-limit, n - 1, shift)
    return min(1.0, float(np.nansum(beyond)))  # far from 0, scipy's cdf is NaN


def sign_flip_p(differences: np.ndarray) -> float:
    """Two-sided p-value of a zero median of (n,) `differences`: exact for up to 13 of them."""
    from scipy import stats

    zeros = np.zeros_like(differences)
    found = stats.permutation_test(
        (differences, zeros),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=9_999,
        rng=0,
    )
    return float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979), in the order given."""
    order, corrected, largest = np.argsort(p_values), [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def mcnemar_p(only_a_wrong: int, only_b_wrong: int) -> float:
    """Exact two-sided p-value of equal error rates, from the images on which two networks differ
    (McNemar 1947).
    """
    from scipy import stats

    if only_a_wrong + only_b_wrong == 0:
        return 1.0
    return float(stats.binomtest(only_a_wrong, only_a_wrong + only_b_wrong).pvalue)
