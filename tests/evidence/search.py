"""Sweeps and searches: learning rate and expansion ratio, pruning, TPE and random search."""

from itertools import pairwise
from math import sqrt
from statistics import mean, stdev

from mnv2_lightning.reports import collect, leaderboard
from mnv2_lightning.reports.leaderboard import Group
from tests.evidence.markdown import (
    RECORDS,
    command,
    measured_on,
    page,
    prose,
    read,
    runs,
    spread,
    table,
)


def sweep() -> str:
    folder = RECORDS / "lr_x_expand_ratio"
    rows = collect.rows([folder])
    assert {row["test_accuracy"] for row in rows} == {None}
    found = leaderboard.groups(rows)
    cells = {(g.values["optimizer.lr"], g.values["model.expand_ratio"]): g for g in found}
    lrs, ratios = (sorted(set(values)) for values in zip(*cells, strict=True))
    best = {ratio: max(lrs, key=lambda lr: accuracy(cells[lr, ratio])) for ratio in ratios}
    grid = [
        [f"{lr}", *(cell(cells[lr, ratio], bold=best[ratio] == lr) for ratio in ratios)]
        for lr in lrs
    ]
    steps = list(pairwise(ratios))
    gains = [
        [f"{lr}", *(difference(cells[lr, high], cells[lr, low]) for low, high in steps)]
        for lr in lrs
    ]
    costs = [cells[lrs[0], ratio].runs[0]["multiply_adds"] for ratio in ratios]
    assert set(best.values()) == {0.2}  # else the text below is wrong
    return page(
        "A sweep: learning rate and expansion ratio",
        prose(f"""
        `fast` for one epoch, measured on 10,000 held-out images, with
        {len(cells[lrs[0], ratios[0]].runs)} seeds per cell. The test set was not read. Other work
        ran on the machine, so the times mean nothing. The sweep's own report, with a leaderboard
        and all runs, is in [report/report.md](report/report.md); clone the repository to open
        `report/report.html`.
        """),
        command(
            "python -m mnv2_lightning.train -m experiment=fast data.val_size=10000",
            "trainer.limit_test_batches=0 trainer.max_steps=391 callbacks.test_images=null",
            "optimizer.lr=0.05,0.2,0.8 model.expand_ratio=1.5,3,6 seed=0,1,2",
            "sweep=lr_x_expand_ratio",
        ),
        "## Result",
        prose("""
        Accuracy in %, mean and standard deviation over seeds; the best learning rate of each
        expansion ratio is in bold.
        """),
        table(("learning rate", *(f"ratio {ratio}" for ratio in ratios)), grid),
        prose("What a larger ratio gains, with the standard error of the difference:"),
        table(("learning rate", *(f"{low} to {high}" for low, high in steps)), gains),
        prose(f"""
        At 0.2, the best of these rates, only ratio 6 stands out, by about the spread, and for
        {costs[2] / costs[1]:.1f} to {costs[2] / costs[0]:.1f} times the multiply-adds; at ratio 1.5
        even the lead of 0.2 over 0.8 is about the spread. At 0.05, too small a rate for one epoch,
        the ratio matters more: the step from 1.5 to 3 is larger than the spread, the step from 3
        to 6 is not.
        """),
        "![Accuracy over learning rate, a line for each expansion ratio](report/lines.png)",
        prose(measured_on(runs(folder))),
    )


def accuracy(group: Group) -> float:
    value = group.mean("val_accuracy")
    assert value is not None
    return value


def cell(group: Group, *, bold: bool) -> str:
    text = spread([100 * run["val_accuracy"] for run in group.runs])
    return f"**{text}**" if bold else text


def difference(group: Group, other: Group) -> str:
    """Of two means, and its standard error."""
    a, b = ([100 * run["val_accuracy"] for run in g.runs] for g in (group, other))
    error = sqrt(stdev(a) ** 2 / len(a) + stdev(b) ** 2 / len(b))
    return f"{mean(a) - mean(b):+.2f} ± {error:.2f}"


def pruning() -> str:
    record = read(RECORDS / "pruned_search" / "search.json")
    best = record["best"]
    trials = [
        [str(number), state, f"{100 * value:.2f}"]
        for state in ("finished", "pruned")
        for number, value in record["history"][state]
    ]
    importances = ", ".join(
        f"`{k}` {100 * share:.0f} %" for k, share in record["importances"].items()
    )
    parameters = ", ".join(f"`{key}={value:.4g}`" for key, value in best["params"].items())
    return page(
        "What pruning saves",
        prose(f"""
        Of {record["trials"]} trials, {record["pruned"]} were pruned by the median rule, and
        {100 * record["steps_saved"]:.0f} % of all steps were saved. This is one search of short
        trials.
        """),
        command(
            "python -m mnv2_lightning.search experiment=fast data.val_size=10000",
            "trainer.max_steps=80 trainer.val_check_interval=20 callbacks.test_images=null",
            "logger.tensorboard=null search.name=pruned search.trials=20",
        ),
        prose(f"""
        The best is trial {best["number"]}, with {100 * best["value"]:.2f} % of the held-out images:
        {parameters}. Importances: {importances}.
        """),
        prose("Accuracy in % of held-out images, at the end of the trial or when it was pruned:"),
        table(("trial", "state", "accuracy"), sorted(trials, key=lambda row: int(row[0]))),
    )


FIRST = 10  # trials that Optuna's TPE draws at random


def samplers() -> str:
    folder = RECORDS / "tpe_and_random"
    best: dict[str, dict[int, list[float]]] = {}
    for sampler in ("tpe", "random"):
        found = [read(path) for path in sorted(folder.glob(f"{sampler}-*.json"))]
        (trials,) = {record["trials"] for record in found}
        values = [record["history"]["finished"] for record in found]
        best[sampler] = {
            count: [100 * max(v for number, v in value if number < count) for value in values]
            for count in (FIRST, trials)
        }
    tpe, random = best["tpe"], best["random"]
    assert tpe[FIRST] == random[FIRST]
    gains = [a - b for a, b in zip(tpe[trials], random[trials], strict=True)]
    assert mean(gains) > 0  # else the text below is wrong
    assert stdev(tpe[trials]) < stdev(random[trials])
    rows = [
        [name, *(spread(best[sampler][count]) for count in (FIRST, trials))]
        for sampler, name in (("tpe", "TPE"), ("random", "random"))
    ]
    pairs = [
        [str(seed), f"{tpe[trials][seed]:.2f}", f"{random[trials][seed]:.2f}", f"{gain:+.2f}"]
        for seed, gain in enumerate(gains)
    ]
    return page(
        "TPE and random search",
        prose(f"""
        {len(gains)} searches with each sampler, of {trials} trials of 50 steps, over four
        parameters. The first {FIRST} trials are the same for both, drawn at random. The table gives
        the best trial of a search, in % of held-out images, as mean and standard deviation over
        searches.
        """),
        table(("", f"best of the first {FIRST}", f"best of all {trials}"), rows),
        prose(f"""
        On the mean TPE is better and steadier, but that is not certain: it won
        {sum(gain > 0 for gain in gains)} of {len(gains)} pairs, the mean difference is
        {mean(gains):.2f} with a standard error of {stdev(gains) / sqrt(len(gains)):.2f}, and one
        pair alone contributes {max(gains):.2f} of the total of {sum(gains):.2f}. What is best
        after 50 steps need not be best after more.
        """),
        table(("seed", "TPE", "random", "difference"), pairs),
        command(
            "python -m mnv2_lightning.search -m experiment=fast data.val_size=10000",
            "trainer.max_steps=50 callbacks.test_images=null logger.tensorboard=null",
            "search/pruner=none search.trials=20 search/sampler=tpe,random",
            "search.seed=0,1,2,3,4,5,6,7",
            "'+search.space.optimizer.weight_decay={low:0.0001,high:0.1,log:true}'",
            "'+search.space.optimizer.momentum={low:0.5,high:0.98}'",
            "hydra.sweep.dir=outputs/searches/tpe_and_random",
        ),
    )
