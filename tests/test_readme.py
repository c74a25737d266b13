"""What the README shows is true: its commands, files and targets are there."""

import json
import re
import shlex
from importlib import import_module
from pathlib import Path
from statistics import mean, median, stdev
from types import SimpleNamespace

import pytest
from hydra._internal.utils import get_args_parser

from mnv2_lightning import build
from mnv2_lightning.networks import complexity
from mnv2_lightning.reports import benchmark_tables as report
from mnv2_lightning.reports import collect, leaderboard
from mnv2_lightning.train import train
from tests.conftest import SMALL, Configure

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = {  # a row that links its records
    name: row
    for row in README.splitlines()
    for name in re.findall(r"^\| \[.*\]\(outputs/records/(\w+)\)", row)
}
GOALS = [  # of the time-to-accuracy table
    ("99.0", ""),
    ("99.0", "by a plain CNN"),
    ("99.19", ""),
    ("99.19", "by a plain CNN"),
    ("99.19", "by more than 1 M parameters in 17 blocks"),
    ("99.5", ""),
    ("99.6", ""),
]
TYPED = README.replace("\\\n", "")  # a command on several lines is one
COMMANDS = sorted(set(re.findall(r"python -m (mnv2_lightning\.[^#\n`]+)", TYPED)))


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_pass_every_check(
    command: str, configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is composed and checked as when typed; what it would run is not run."""
    if "RUN_DIR" in command:
        short = ("trainer.max_epochs=1", "callbacks.test_images=null")
        train(configure(*SMALL, *short, run_dir=tmp_path / "run"))
    if "outputs/searches/NAME" in command:  # which a search has written
        (tmp_path / "outputs/searches/NAME/experiment").mkdir(parents=True)
        written = tmp_path / "outputs/searches/NAME/experiment/NAME.yaml"
        written.write_text("# @package _global_\ndefaults: [fast]\n")
    if "num_nodes" in command:  # started by srun
        monkeypatch.setenv("WORLD_SIZE", "16")
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    monkeypatch.setattr("shutil.which", lambda name: name)  # srun
    trainer = SimpleNamespace(world_size=1, max_epochs=9)
    monkeypatch.setattr("mnv2_lightning.build.build_trainer", lambda *args: trainer)
    module, *args = shlex.split(command.replace("RUN_DIR", str(tmp_path / "run")))
    parsed = get_args_parser().parse_args(args)
    import_module(module).COMMAND.check_all(parsed)


def test_make_targets_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_files_are_there() -> None:
    """Pictures, and the files and folders that the layout and the instructions name."""
    named = re.findall(r"!?\[.*?\]\(([^):]+)\)", README)
    named += re.findall(r"`((?:conf|tests|outputs|mnv2_lightning|\.ci)/[\w./-]*)`", README)
    for name in named:
        if "mine" not in name and not re.match("outputs/(runs|searches|sweeps)", name):
            assert (ROOT / name).exists(), name


def test_every_record_has_a_row() -> None:
    folders = {path.parent.name for path in (ROOT / "outputs" / "records").glob("*/seed-0")}
    assert folders == RESULTS.keys()


@pytest.mark.parametrize("name", RESULTS)
def test_results_are_those_of_the_records(name: str) -> None:
    """Every number of a row, and a record for each seed that its command names."""
    row = RESULTS[name]
    records = sorted((ROOT / "outputs" / "records" / name).glob("seed-*/result.json"))
    runs = [json.loads(path.read_text()) for path in records]
    (seeds,) = re.findall(r"seed=([\d,]+)", row)
    assert [run["seed"] for run in runs] == [int(seed) for seed in seeds.split(",")]
    keys = ("test_accuracy", "train_seconds", "images_per_second")
    accuracy, seconds, rate = ([run[key] for run in runs] for key in keys)
    evaluated = [path.parent / "evaluation" / "last-test.json" for path in records]
    if evaluated[0].exists():  # anew, over views
        accuracy = [json.loads(path.read_text())["accuracy"] for path in evaluated]
    spread = 100 * stdev(accuracy)
    assert f"**{100 * mean(accuracy):.2f} %** ± {spread:.2f} (n = {len(runs)}) |" in row
    assert f"| {mean(seconds):.0f} s ± {stdev(seconds):.0f} |" in row
    assert f"| {mean(rate):,.0f} ± {stdev(rate):,.0f} |" in row
    assert f"| {max(run['peak_rss_bytes'] for run in runs) / 1e9:.1f} GB |" in row
    assert {run["status"] for run in runs} == {"finished"}


def test_what_was_tried_is_what_the_records_say() -> None:
    """Held-out accuracy of both seeds, and the difference of their mean to `fast` as it is."""

    def accuracies(name: str) -> list[float]:
        files = (ROOT / "outputs" / "records" / "tried" / name).glob("seed-*/result.json")
        runs = [json.loads(path.read_text()) for path in sorted(files)]
        assert [run["seed"] for run in runs] == [0, 1]
        assert {run["test_accuracy"] for run in runs} == {None}
        return [100 * run["val_accuracy"] for run in runs]

    as_it_is = mean(accuracies("as-it-is"))
    rows = re.findall(r"^\| \[.+?\]\(outputs/records/tried/(.+?)\) \| (.+) \|$", README, re.M)
    for name, told in rows:
        found = accuracies(name)
        numbers = [f"{value:.2f}" for value in found]
        assert told == " | ".join([*numbers, f"{mean(found) - as_it_is:+.2f}"])
    there = {path.name for path in (ROOT / "outputs" / "records" / "tried").iterdir()}
    assert {name for name, _ in rows} == there


def test_speed_is_that_of_the_record() -> None:
    parts = json.loads((ROOT / "outputs/records/benchmark/benchmark.json").read_text())["parts"]
    pairs = [
        *((row["sides"]["ours"], row["sides"]["tutorial"], ",.1f") for row in parts["same_work"]),
        (parts["loop"]["trainer"], parts["loop"]["bare"], ",.1f"),
        (parts["feed"]["augmented"], parts["feed"]["training"], ",.1f"),
        (*(parts["inference"][0]["sides"][kind] for kind in ("compiled", "eager")), ",.0f"),
    ]
    for ours, other, form in pairs:
        a, b = (f"{median(report.rates(side)):{form}}" for side in (ours, other))
        assert re.search(rf"\| {a} \| .*: {b} \| \*\*{report.times(ours, other)}\*\*", README)


def test_time_to_accuracy_is_that_of_the_record() -> None:
    """Each row's numbers, and that no cheaper recipe of ours reaches what the row says."""
    path = ROOT / "outputs/records/time_to_accuracy/benchmark.json"
    part = json.loads(path.read_text())["parts"]["time_to_accuracy"]
    tutorial = report.TUTORIAL_IMAGES / median(report.rates(part["tutorial"]))
    assert f"{median(report.rates(part['tutorial'])):.1f} images/s, {tutorial:,.0f} s" in README
    found = {
        name: (round(100 * mean(run["test_accuracy"] for run in runs), 2), runs)
        for name, runs in part.items()
        if name != "tutorial"
    }

    def seconds(name: str) -> float:
        return mean(run["train_seconds"] for run in found[name][1])

    rows = re.findall(r"^\| (9[\d.]+) %(.*?) \| `?(.+?)`? \| (.+) \|$", README, re.M)
    assert [(goal, among.strip()) for goal, among, *_ in rows] == GOALS
    for goal, among, name, told in rows:
        accuracy, runs = found[name]
        deviation = 100 * stdev(run["test_accuracy"] for run in runs)
        spread = stdev(run["train_seconds"] for run in runs)
        assert told == (
            f"{accuracy:.2f} ± {deviation:.2f} | {seconds(name):.0f} s ± {spread:.0f} | "
            f"{tutorial / seconds(name):,.0f} | {runs[0]['parameters']:,}"
        )
        plain = "plain CNN" in among
        able = [
            other
            for other, (reached, runs) in found.items()
            if reached >= float(goal)
            and plain == other.startswith("plain CNN")
            and ("1 M" not in among or runs[0]["parameters"] >= 1_000_000)
        ]
        assert name == min(able, key=seconds)


def test_what_the_sweep_says_is_what_its_records_say() -> None:
    rows = collect.rows([ROOT / "outputs" / "records" / "lr_x_expand_ratio"])
    groups = leaderboard.groups(rows)
    by_rate: dict[float, dict[float, str]] = {}
    for group in groups:
        lr, ratio = group.values["optimizer.lr"], group.values["model.expand_ratio"]
        accuracy, spread = group.mean("val_accuracy"), group.spread("val_accuracy")
        assert accuracy is not None
        assert spread is not None
        by_rate.setdefault(lr, {})[ratio] = f"{100 * accuracy:.2f} ± {100 * spread:.2f}"
    text = " ".join(README.split())
    best, least = by_rate[0.2], by_rate[0.05]
    assert f"1.5 gives {best[1.5]}, 3 gives {best[3]}, 6 gives {best[6]}" in text
    assert f"{least[1.5]}, {least[3]}, {least[6]}; the first" in text
    for ratio in (1.5, 3, 6):
        assert max(by_rate, key=lambda lr: by_rate[lr][ratio]) == 0.2
    assert {row["test_accuracy"] for row in rows} == {None}


def test_tpe_and_random_are_as_their_records_say() -> None:
    """Mean and spread, over searches, of the best of the first ten trials and of all."""
    folder = ROOT / "outputs" / "records" / "tpe_and_random"
    for sampler, told in (("tpe", "TPE"), ("random", "random")):
        searches = [json.loads(p.read_text()) for p in sorted(folder.glob(f"{sampler}-*.json"))]
        assert len(searches) == 8
        values = [dict(search["history"]["finished"]) for search in searches]
        cells = []
        for count in (10, 20):
            best = [100 * max(v for n, v in found.items() if n < count) for found in values]
            cells.append(f"{mean(best):.2f} ± {stdev(best):.2f}")
        assert f"| {told} | {' | '.join(cells)} |" in README


def test_what_pruning_saved_is_as_its_record_says() -> None:
    record = ROOT / "outputs" / "records" / "pruned_search" / "search.json"
    found = json.loads(record.read_text())
    share = f"{100 * found['steps_saved']:.0f}"
    told = f"trials {found['pruned']} were pruned, with {share} % of all steps saved."
    assert told in README
    assert found["trials"] == 20


@pytest.mark.parametrize("model", sorted(p.stem for p in (ROOT / "conf" / "model").iterdir()))
def test_costs_are_the_networks(model: str, configure: Configure) -> None:
    """Of ten classes, as the table of networks gives them."""
    (row,) = (line for line in README.splitlines() if line.startswith(f"| `{model}`"))
    size = 24 if model == "mobilenet_v2_micro" else 28
    network = build.build_network(configure(f"model={model}"))
    costs = complexity.measure(network, in_channels=1, image_size=size)
    assert f"| {costs.parameters:,} " in row
    assert f" {costs.multiply_adds:,} at {size} px" in row
