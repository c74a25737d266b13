"""Arms of an experiment, compared in pairs by seed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from mnv2_lightning.reports import leaderboard
from mnv2_lightning.reports.collect import Row
from mnv2_lightning.reports.leaderboard import SEED, Group
from mnv2_lightning.reports.significance import (
    LEAST,
    Difference,
    holm,
    mcnemar_p,
    paired_difference,
)
from mnv2_lightning.runs import config
from mnv2_lightning.runs.prediction_file import PREDICTIONS, read_predictions
from mnv2_lightning.runs.record import SWEEP, read_dict
from mnv2_lightning.schema.errors import ConfigError

MOST_ARMS = 6  # of which a report compares all pairs
MOST_KEYS = 2  # in which arms may differ, beside the seed


@dataclass(frozen=True)
class Pair:
    """Two arms, and the difference of their accuracies by seed.

    `holm_p`: corrected for the number of pairs. `only_a_wrong`, `only_b_wrong`: images of the test
    set that one of them gets wrong, summed over the seeds; None without predictions.
    """

    a: Group
    b: Group
    seeds: list[int]
    difference: Difference
    holm_p: float | None = None
    only_a_wrong: int | None = None
    only_b_wrong: int | None = None

    @property
    def mcnemar_p(self) -> float | None:
        if self.only_a_wrong is None or self.only_b_wrong is None:
            return None
        return mcnemar_p(self.only_a_wrong, self.only_b_wrong)

    @property
    def verdict(self) -> str:
        """In words; "better" only if the interval excludes 0."""
        found = self.difference
        if found.low is None or found.high is None or found.n < LEAST:
            return f"too few seeds in common ({found.n}; {LEAST} are needed)"
        if found.low > 0:
            return f"{self.a.name} is better"
        if found.high < 0:
            return f"{self.b.name} is better"
        return f"no difference larger than {100 * max(-found.low, found.high):.2f} points"


def pairs(rows: Sequence[Row], metric: str) -> list[Pair]:
    """All pairs of arms, the better arms first. Runs without the metric are left out."""
    arms = [group for group in leaderboard.groups(rows) if group.numbers(metric)]
    arms.sort(key=lambda arm: -(arm.mean(metric) or 0))
    shared = [
        (a, b, seeds)
        for a, b in combinations(arms, 2)
        if (seeds := sorted(_by_seed(a).keys() & _by_seed(b).keys()))
    ]
    # The test set is for a comparison by test accuracy: choices are made without it.
    wrong = _wrong_images(arms) if metric == "test_accuracy" else {}
    found = [_pair(a, b, seeds, metric, len(shared), wrong) for a, b, seeds in shared]
    tested = [pair.difference.p for pair in found if pair.difference.p is not None]
    corrected = iter(holm(tested))
    return [
        pair if pair.difference.p is None else replace(pair, holm_p=next(corrected))
        for pair in found
    ]


def pairs_of_seeds(rows: Sequence[Row]) -> list[Pair]:
    """`pairs` by the metric of the leaderboard, for a report: those of few arms, alike but for what
    is compared, that have enough seeds; else none.
    """
    groups = leaderboard.groups(rows)
    if not 1 < len(groups) <= MOST_ARMS or min(len(group.runs) for group in groups) < LEAST:
        return []
    try:
        require_alike(rows, None)
    except ConfigError:
        return []
    return pairs(rows, leaderboard.metric(rows))


def _wrong_images(arms: Sequence[Group]) -> dict[str, np.ndarray]:
    """By the folder of each run: which test images it gets wrong, (N,) bool.

    Empty unless all runs have kept their predictions, of the same images.
    """
    found, images = {}, None
    for run in (run for arm in arms for run in arm.runs):
        read = read_predictions(Path(run["folder"]) / PREDICTIONS)
        if read is None or (images is not None and not np.array_equal(images, read[0])):
            return {}
        images, predicted = read
        found[run["folder"]] = images != predicted
    return found


def _pair(
    a: Group,
    b: Group,
    seeds: list[int],
    metric: str,
    count: int,
    wrong: dict[str, np.ndarray],
) -> Pair:
    """`count`: of all pairs. `wrong`: see `_wrong_images`."""
    sides = [[_by_seed(arm)[seed] for seed in seeds] for arm in (a, b)]
    values = ([run[metric] for run in side] for side in sides)
    difference = paired_difference(*values, comparisons=count)
    if not wrong:
        return Pair(a, b, seeds, difference)
    first, second = (np.stack([wrong[run["folder"]] for run in side]) for side in sides)
    only = (int(np.sum(x & ~y)) for x, y in ((first, second), (second, first)))
    return Pair(a, b, seeds, difference, None, *only)


def _by_seed(group: Group) -> dict[int, Row]:
    return {run["seed"]: run for run in group.runs}


def require_alike(rows: Sequence[Row], by: Sequence[str] | None) -> None:
    """Check that finished runs differ in the keys of `by` and in the seed alone.

    A key stands for all below it: `model` for `model.expand_ratio`. None: the keys that were
    overridden differently, two at most, and in a sweep those that follow from them. ConfigError:
    they differ in others too; the message names them.
    """
    rows = leaderboard.finished(rows)
    keys = [key for key in leaderboard.swept(rows) if key != SEED] if by is None else list(by)
    if by is None and len(keys) > MOST_KEYS:
        raise ConfigError(
            f"by: the runs differ in {', '.join(keys)}; name the {MOST_KEYS} keys to compare at "
            f"most, such as by=[{keys[0]}], and take runs that are alike in the others"
        )
    configs = [config.of_run(Path(row["folder"])) for row in rows]
    for row, found in zip(rows, configs, strict=True):
        if not found:
            raise ConfigError(f"{row['folder']}: has no config.yaml that can be read")
    names = dict.fromkeys(key for found in configs for key in found)
    sweeps = {Path(row["folder"]).parent for row in rows}
    if by is None and len(sweeps) == 1:
        shared = read_dict(sweeps.pop() / SWEEP).get("base")
        names = {name: None for name in names if not shared or name in shared}
    # An experiment stands for all keys; what follows from the seed is not compared.
    different = [
        name
        for name in names
        if len({str(found.get(name)) for found in configs}) > 1
        and name.rpartition(".")[2] != SEED
        and not any(key == "experiment" or f"{name}.".startswith(f"{key}.") for key in keys)
    ]
    if different:
        also = f" beside {', '.join(keys)}" if keys else ""
        raise ConfigError(
            f"by: the runs differ in {', '.join(different)}{also}; compare runs that are alike in "
            "all but the keys of by"
        )


@dataclass(frozen=True)
class Effect:
    """A contrast of the four arms of two keys with two values each, in words."""

    text: str
    difference: Difference


def effects(rows: Sequence[Row], metric: str) -> list[Effect]:
    """The effect of each of two keys, and their interaction; none for other arms, or without a
    seed that all have in common.
    """
    arms = [group for group in leaderboard.groups(rows) if group.numbers(metric)]
    keys = list(arms[0].values) if arms else []
    values = [list(dict.fromkeys(arm.values[key] for arm in arms)) for key in keys]
    if len(arms) != 4 or list(map(len, values)) != [2, 2]:
        return []
    by_values = {tuple(arm.values.values()): _by_seed(arm) for arm in arms}
    seeds = sorted(set.intersection(*(set(runs) for runs in by_values.values())))
    if not seeds or len(by_values) != 4:
        return []
    (a, b), (c, d) = values
    ac, ad, bc, bd = (
        np.array([by_values[pair][seed][metric] for seed in seeds])
        for pair in ((a, c), (a, d), (b, c), (b, d))
    )
    first, second = map(leaderboard.short, keys)
    return [
        Effect(f"{first} {a} - {b}", paired_difference((ac + ad) / 2, (bc + bd) / 2)),
        Effect(f"{second} {c} - {d}", paired_difference((ac + bc) / 2, (ad + bd) / 2)),
        Effect(
            f"interaction: {first} {a} - {b} with {second} {c}, minus with {second} {d}",
            paired_difference(ac - bc, ad - bd),
        ),
    ]
