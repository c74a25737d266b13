"""Theorem 1's share, and what can be had back."""

import numpy as np
import pytest

from mnv2_lightning.relu_collapse import restore, spiral, surviving_share, theorem


@pytest.mark.parametrize(
    ("m", "share"), [(2, 0.25), (3, 0.5), (5, 0.8125), (15, 0.99951), (30, 1.0)]
)
def test_theorem(m: int, share: float) -> None:
    """1 - (1 + m) / 2^m; for m = 5 that is 26 / 32."""
    assert theorem(m) == pytest.approx(share, abs=5e-6)


@pytest.mark.parametrize("m", [2, 3, 5, 15])
def test_measured_share_is_the_theorems(m: int) -> None:
    """Within 4 standard errors over T; a wrong theorem (one positive output, say) is far off."""
    share, error = surviving_share(spiral(200), m, 4000, np.random.default_rng(1))
    assert abs(share - theorem(m)) < 4 * error
    assert error < 0.01


def test_standard_error_is_over_matrices() -> None:
    """Means of 40 repeats of 100 matrices spread by what one of them says of itself."""
    rng = np.random.default_rng(0)
    repeats = [surviving_share(spiral(50), 2, 100, rng) for _ in range(40)]
    spread = np.std([share for share, _ in repeats], ddof=1)
    assert spread == pytest.approx(np.mean([error for _, error in repeats]), rel=0.35)


def test_without_loss_all_comes_back() -> None:
    """Rows in pairs T, -T: every point has m / 2 positive outputs, and half of T T^-1 is left."""
    rng = np.random.default_rng(0)
    half = rng.standard_normal((8, 2))
    x = spiral(100)
    restored = restore(x, np.vstack([half, -half]))
    np.testing.assert_allclose(restored, x / 2, atol=1e-12)
