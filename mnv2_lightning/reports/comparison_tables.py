"""What `comparison` finds, as tables, sentences and JSON."""

from collections.abc import Sequence
from typing import Any

from mnv2_lightning.reports.comparison import Effect, Pair
from mnv2_lightning.reports.leaderboard import Group
from mnv2_lightning.reports.sections import Section, share
from mnv2_lightning.reports.significance import EFFECT, LEVEL, Difference

METHOD = (
    "Differences are paired by seed. The intervals are Student's and hold together (Bonferroni). "
    "p is of the sign-flip permutation test, corrected by Holm; of n seeds it is at least 2/2^n. "
    f"Power: the probability that the interval excludes 0 where the difference is {100 * EFFECT:g} "
    "points and varies between seeds as measured. The interval and p of an effect are for it alone."
)
MCNEMAR = (
    "The last p is McNemar's, of the test images that one arm alone gets wrong, summed over the "
    "seeds; as these share their images, it is rather too small."
)


def sentence(pair: Pair) -> str:
    """`A - B: +0.13 points (+0.02 to +0.24, n = 5): A is better`."""
    of = pair.difference
    interval = f"{_points(of.low)} to {_points(of.high)}, n = {of.n}"
    return f"{pair.a.name} - {pair.b.name}: {_points(of.mean)} points ({interval}): {pair.verdict}"


def comparison_section(found: Sequence[Pair]) -> Section:
    """A row for each pair."""
    several = f", together for {len(found)} pairs" if len(found) > 1 else ""
    head = ["arm", "compared with", "n", "difference, points"]
    head += [f"{LEVEL:.0%} interval{several}", "p" + ", Holm" * (len(found) > 1), "power"]
    head += ["wrong in one only", "p, McNemar"] * any(p.mcnemar_p is not None for p in found)
    head += ["verdict"]
    return "Differences", head, [_cells(pair, len(head)) for pair in found]


def _cells(pair: Pair, columns: int) -> list[str]:
    found = pair.difference
    row = [pair.a.name, pair.b.name, str(found.n), _points(found.mean)]
    has_interval = found.low is not None and found.high is not None
    row += [f"{_points(found.low)} to {_points(found.high)}" if has_interval else "-"]
    row += [_p(pair.holm_p), "-" if found.power is None else f"{found.power:.0%}"]
    if columns == 10:
        wrong, p = (pair.only_a_wrong, pair.only_b_wrong), pair.mcnemar_p
        row += ["-" if p is None else f"{wrong[0]}, {wrong[1]}", _p(p)]
    return [*row, pair.verdict]


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def effects_section(found: Sequence[Effect]) -> Section:
    """A row for each effect."""
    head = ["effect", "n", "points", f"{LEVEL:.0%} interval", "p", "power"]
    return "Effects", head, [[effect.text, *_effect_cells(effect.difference)] for effect in found]


def _effect_cells(of: Difference) -> list[str]:
    interval = "-" if of.low is None else f"{_points(of.low)} to {_points(of.high)}"
    power = "-" if of.power is None else f"{of.power:.0%}"
    return [str(of.n), _points(of.mean), interval, _p(of.p), power]


def method(found: Sequence[Pair]) -> str:
    """How the numbers of `comparison_section` were computed."""
    has_predictions = any(pair.mcnemar_p is not None for pair in found)
    return f"{METHOD} {MCNEMAR}" if has_predictions else METHOD


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.2f}"


def arms_section(found: Sequence[Pair], metric: str) -> Section:
    """A row for each arm, in the order in which they are compared."""
    head = ["arm", metric.replace("_", " "), "n", "parameters", "multiply-adds", "images/s"]
    rows = [
        [
            name,
            share(arm.mean(metric), arm.spread(metric)),
            str(len(arm.runs)),
            *(_count(arm.mean(key)) for key in ("parameters", "multiply_adds")),
            _count(arm.mean("images_per_second")),
        ]
        for name, arm in _arms(found).items()
    ]
    return "Arms", head, rows


def _arms(found: Sequence[Pair]) -> dict[str, Group]:
    """By name."""
    return {arm.name: arm for pair in found for arm in (pair.a, pair.b)}


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def as_dict(found: Sequence[Pair], metric: str) -> dict[str, Any]:
    """For a JSON file."""
    costs = ("parameters", "multiply_adds", "images_per_second", "train_seconds")
    arms = [
        {
            "name": name,
            "n": len(arm.runs),
            "mean": arm.mean(metric),
            "deviation": arm.spread(metric),
            **{key: arm.mean(key) for key in costs},
        }
        for name, arm in _arms(found).items()
    ]
    return {"metric": metric, "arms": arms, "pairs": [_pair_as_dict(pair) for pair in found]}


def _pair_as_dict(pair: Pair) -> dict[str, Any]:
    return {
        "a": pair.a.name,
        "b": pair.b.name,
        "seeds": pair.seeds,
        **vars(pair.difference),
        "holm_p": pair.holm_p,
        "only_a_wrong": pair.only_a_wrong,
        "only_b_wrong": pair.only_b_wrong,
        "mcnemar_p": pair.mcnemar_p,
        "verdict": pair.verdict,
    }
