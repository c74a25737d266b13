"""The claims of the paper and the tutorial, and what came out where they were tested."""

from typing import Any

from mnv2_lightning.cli import conf_files
from tests.evidence.markdown import RECORDS, command, measured_on, page, prose, read, runs, table

STUDIES = RECORDS / "studies"
# Ending of a sweep's name -> what is added to the command, and what it is called.
TASKS = {
    "": ("", "MNIST"),
    "-few_labels": ("data.train_size=1000 trainer.max_steps=400", "MNIST, 1,000 images"),
    "-fashion": ("data=fashion_mnist data.crop=28", "Fashion-MNIST"),
}
CORRUPTED = "corrupted MNIST"
SEEDS = 5  # in the studies' files


def studies() -> str:
    names = [path.stem for path in sorted((conf_files.config_dir() / "study").glob("*.yaml"))]
    done = [name for name in names if (STUDIES / name / "comparison.json").is_file()]
    return page(
        "Claims, tested",
        prose("""
        Each study trains the arms of a file in `conf/study/` with several seeds, which arms share:
        initial weights, order of images, validation split. The test set is read once by each run,
        at its end. Differences are paired by seed; an interval is Student's at 95 %, together for
        all pairs of the study (Bonferroni). "No difference larger than x" is the end of the
        interval that is further from 0, where it holds 0. The power is the probability that a
        difference of 0.1 points would have been found.
        """),
        table(
            ("study", "question", *tasks_of(done)),
            [[f"[{name}](#{name})", header(name)[0], *verdicts(name, done)] for name in done],
        ),
        *(block for name in done for block in section(name)),
        prose(measured_on([run for name in done for run in runs_of(name)])),
    )


def header(name: str) -> tuple[str, str]:
    """The question and the claim in a study's file."""
    lines = conf_files.header(conf_files.config_dir() / "study" / f"{name}.yaml")[1:]
    question, _, rest = " ".join(lines).partition(" Claim: ")
    return question, rest.partition(" Cost: ")[0]


def comparisons(name: str) -> dict[str, Any]:
    """What `compare` wrote, by the task."""
    found = {}
    for ending, (_, task) in TASKS.items():
        folder = STUDIES / f"{name}{ending}"
        if (folder / "comparison.json").is_file():
            found[task] = read(folder / "comparison.json")
        if not ending and (folder / "comparison-corrupted.json").is_file():
            found[CORRUPTED] = read(folder / "comparison-corrupted.json")
    return found


def tasks_of(names: list[str]) -> list[str]:
    return list(dict.fromkeys(task for name in names for task in comparisons(name)))


def verdicts(name: str, names: list[str]) -> list[str]:
    """In words, for each task."""
    found = comparisons(name)
    return [verdict(found[task]) if task in found else "" for task in tasks_of(names)]


def verdict(found: dict[str, Any]) -> str:
    better = [pair for pair in found["pairs"] if pair["verdict"].endswith("is better")]
    if effects := found.get("effects"):  # each of two keys says more than pairs of arms
        return "; ".join(map(effect_verdict, effects))
    if not better:
        largest = max(max(-pair["low"], pair["high"]) for pair in found["pairs"])
        return f"no difference larger than {100 * largest:.2f} points"
    said = [
        f"{winner(pair)} over {loser(pair)} by {100 * abs(pair['mean']):.2f}" for pair in better
    ]
    return "; ".join(said)


def effect_verdict(effect: dict[str, Any]) -> str:
    name, low, high = effect["text"].partition(":")[0], effect["low"], effect["high"]
    if low <= 0 <= high:
        return f"{name}: none larger than {100 * max(-low, high):.2f}"
    return f"{name}: {100 * effect['mean']:+.2f}"


def winner(pair: dict[str, Any]) -> str:
    return pair["a"] if pair["mean"] > 0 else pair["b"]


def loser(pair: dict[str, Any]) -> str:
    return pair["b"] if pair["mean"] > 0 else pair["a"]


def runs_of(name: str) -> list[dict[str, Any]]:
    folders = [STUDIES / f"{name}{ending}" for ending in TASKS]
    return [run for folder in folders if folder.is_dir() for run in runs(folder)]


def section(name: str) -> list[str]:
    question, claim = header(name)
    blocks = [f"## {name}", prose(f"{question} Claim: {claim}")]
    for task, found in comparisons(name).items():
        blocks += [f"### {name}: {task}", *commands(name, task, found)]
        blocks += [arms(found), pairs(found), *effects(found)]
    return blocks


def commands(name: str, task: str, found: dict[str, Any]) -> list[str]:
    sweep = f"outputs/sweeps/{name}"
    if task == CORRUPTED:
        measure = f"python -m mnv2_lightning.evaluate run_dir={sweep} corruptions=all"
        lines = [measure, f"python -m mnv2_lightning.compare run_dir={sweep}"]
        return [command(lines[0]), command(lines[1], "metric=corrupted_accuracy")]
    ending = next(ending for ending, (_, called) in TASKS.items() if called == task)
    more = [TASKS[ending][0], f"sweep={name}{ending}"] if ending else []
    n = min(arm["n"] for arm in found["arms"])
    more += [f"'seed=range({n})'"] if n != SEEDS else []
    start = f"python -m mnv2_lightning.train -m study={name}"
    return [command(start, " ".join(more)) if more else command(start)]


def arms(found: dict[str, Any]) -> str:
    metric = found["metric"].replace("_", " ")
    rows = [
        [
            arm["name"],
            f"{100 * arm['mean']:.2f} ± {100 * arm['deviation']:.2f} %",
            str(arm["n"]),
            f"{arm['parameters']:,.0f}",
            f"{arm['multiply_adds']:,.0f}",
        ]
        for arm in found["arms"]
    ]
    return table(("arm", metric, "n", "parameters", "multiply-adds"), rows)


def pairs(found: dict[str, Any]) -> str:
    rows = [
        [
            f"{pair['a']} - {pair['b']}",
            f"{100 * pair['mean']:+.2f}",
            f"{100 * pair['low']:+.2f} to {100 * pair['high']:+.2f}",
            f"{pair['holm_p']:.3f}",
            f"{pair['power']:.0%}",
            pair["verdict"],
        ]
        for pair in found["pairs"]
    ]
    head = ("difference", "points", "interval", "p", "power", "verdict")
    return table(head, rows)


def effects(found: dict[str, Any]) -> list[str]:
    """Of two keys with two values each."""
    rows = [
        [
            effect["text"],
            f"{100 * effect['mean']:+.2f}",
            f"{100 * effect['low']:+.2f} to {100 * effect['high']:+.2f}",
            f"{effect['p']:.3f}",
            f"{effect['power']:.0%}",
        ]
        for effect in found.get("effects", [])
    ]
    head = ("effect", "points", "interval, alone", "p", "power")
    return [table(head, rows)] if rows else []


def corruptions() -> list[str]:
    """The experiments on corrupted images."""
    found = [read(path) for path in sorted((STUDIES / "corruptions").glob("*.json"))]
    kinds = [row["kind"] for row in found[0]["corruptions"]]
    rows = [
        [kind.replace("_", " "), *(percent(run["corruptions"][i]["accuracy"]) for run in found)]
        for i, kind in enumerate(kinds)
    ]
    names = [f"`{run['run']}`" for run in found]
    clean = ["none", *(percent(run["accuracy"]) for run in found)]
    means = ["mean of the 15", *(percent(run["corrupted_accuracy"]) for run in found)]
    return [
        "## Corrupted images",
        prose("""
        One run of each experiment on the test set with the fifteen corruptions of MNIST-C, at the
        strengths of its paper (arXiv 1906.02337), written anew, so that the random numbers are
        others than those of the published files.
        """),
        command("python -m mnv2_lightning.evaluate run_dir=RUN_DIR corruptions=all"),
        table(("corruption", *names), [clean, *rows, means]),
        f"![Accuracy of {names[0]} on each corruption]({'corruptions/default.png'})",
    ]


def percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def inside() -> list[str]:
    """Figure 7 of the paper, and a ReLU6 in each bottleneck."""
    blocks = [
        "## Inside the network",
        prose("""
        The paper's appendix shows that a ReLU can be inverted where at least as many channels are
        positive as the block has inputs, a share of 1/t of the expanded ones (lemma 2), and counts
        the positive channels of its network before and after training (figure 7).
        """),
        command("python -m mnv2_lightning.activations run_dir=RUN_DIR"),
    ]
    for path in sorted((STUDIES / "activations").glob("*.json")):
        found = read(path)
        trained, initial = found["positive"]["trained"], found["positive"]["initial"]
        below = 100 * max(row["below"] for row in trained)
        means = [[100 * row["mean"] for row in of] for of in (initial, trained)]
        spreads = [[100 * row["deviation"] for row in of] for of in (initial, trained)]
        blocks += [
            f"### {found['run']}",
            prose(f"""
            On average {min(means[0]):.0f} to {max(means[0]):.0f} % of the channels are positive at
            first, and {min(means[1]):.0f} to {max(means[1]):.0f} % after training; the standard
            deviation over positions is {min(spreads[0]):.1f} to {max(spreads[0]):.1f} and
            {min(spreads[1]):.1f} to {max(spreads[1]):.1f} points. After training at most
            {below:.2f} % of the positions of a block are below the threshold. With a ReLU6 after
            one block's projection the accuracy of {percent(found["accuracy"])} becomes
            {percent(min(row["accuracy"] for row in found["bottlenecks"]))} to
            {percent(max(row["accuracy"] for row in found["bottlenecks"]))}, with one after each
            {percent(found["accuracy_with_all"])}.
            """),
            f"![Positive channels and bottlenecks of {found['run']}](activations/{path.stem}.png)",
        ]
    return blocks
