"""The claims of the paper and the tutorial, and what came out where they were tested."""

from typing import Any

from mnv2_lightning.cli import conf_files
from tests.evidence.markdown import RECORDS, command, measured_on, page, prose, read, runs, table

STUDIES = RECORDS / "studies"
# Ending of a sweep's name -> what is added to the command, and what it is called.
TASKS = {
    "": ("", "MNIST"),
    "-few_labels": (
        "data.train_size=1000 trainer.max_steps=400 'seed=range(10)'",
        "MNIST, 1,000 training images",
    ),
    "-fashion": ("data=fashion_mnist data.crop=28", "Fashion-MNIST"),
}
CORRUPTED = "corrupted MNIST"


def studies() -> str:
    names = [path.stem for path in sorted((conf_files.config_dir() / "study").glob("*.yaml"))]
    done = [name for name in names if (STUDIES / name / "comparison.json").is_file()]
    return page(
        "Claims, tested",
        prose("""
        Each study trains the arms of `conf/study/NAME.yaml` with several seeds, which arms share:
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
        if not ending and (folder / "corrupted" / "comparison.json").is_file():
            found[CORRUPTED] = read(folder / "corrupted" / "comparison.json")
    return found


def tasks_of(names: list[str]) -> list[str]:
    return list(dict.fromkeys(task for name in names for task in comparisons(name)))


def verdicts(name: str, names: list[str]) -> list[str]:
    """In words, for each task."""
    found = comparisons(name)
    return [verdict(found[task]) if task in found else "" for task in tasks_of(names)]


def verdict(found: dict[str, Any]) -> str:
    better = [pair for pair in found["pairs"] if pair["verdict"].endswith("is better")]
    if not better:
        largest = max(max(-pair["low"], pair["high"]) for pair in found["pairs"])
        return f"no difference larger than {100 * largest:.2f} points"
    said = [
        f"{winner(pair)} over {loser(pair)} by {100 * abs(pair['mean']):.2f}" for pair in better
    ]
    return "; ".join(said)


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
        blocks += [f"### {task}", *commands(name, task), arms(found), pairs(found)]
    return blocks


def commands(name: str, task: str) -> list[str]:
    sweep = f"outputs/sweeps/{name}"
    if task == CORRUPTED:
        measure = f"python -m mnv2_lightning.evaluate run_dir={sweep} corruptions=all"
        lines = [measure, f"python -m mnv2_lightning.compare run_dir={sweep}"]
        return [command(lines[0]), command(lines[1], "metric=corrupted_accuracy")]
    ending = next(ending for ending, (_, called) in TASKS.items() if called == task)
    more = [TASKS[ending][0], f"sweep={name}{ending}"] if ending else []
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
