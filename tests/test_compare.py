"""Arms compared by seed: from records to a verdict."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from mnv2_lightning.reports import collect, comparison, comparison_tables
from mnv2_lightning.runs.config import to_yaml
from mnv2_lightning.runs.prediction_file import PREDICTIONS, read_predictions, write_predictions
from tests.conftest import SMALL, Call
from tests.test_sweep_report import job

ARMS = {"identity": 0.003, "none": 0.0, "projection": 0.0029}


def study(folder: Path, seeds: int) -> Path:
    """Arms of `model.shortcut`, and of each arm and seed 200 predictions."""
    for arm, gain in ARMS.items():
        for seed in range(seeds):
            run = folder / f"shortcut-{arm}_seed-{seed}"
            noise = np.random.default_rng([seed, len(arm)]).normal(0, 0.0003)
            accuracy = 0.99 + 0.001 * seed + gain + noise
            overrides = {"model.shortcut": arm, "seed": seed}
            job(run, overrides, seed=seed, val_accuracy=accuracy, test_accuracy=accuracy)
            config = {
                "seed": seed,
                "model": {"shortcut": arm},
                "data": {"_target_": "x", "seed": seed},
            }
            (run / "config.yaml").write_text(to_yaml(config))
            answers = np.eye(10)[np.arange(200) % 10]
            answers[: 10 + 20 * (arm == "none")] = np.eye(10)[3]
            write_predictions(run / PREDICTIONS, np.arange(200) % 10, answers)
    return folder


def test_verdicts(tmp_path: Path) -> None:
    """Better where the interval excludes 0, for each pair of three arms; the rest is a bound."""
    rows = collect.rows([study(tmp_path / "s", 5)])
    assert all(pair.only_a_wrong is None for pair in comparison.pairs(rows, "val_accuracy"))
    found = comparison.pairs(rows, "test_accuracy")
    assert {frozenset((pair.a.name, pair.b.name)) for pair in found} == {
        frozenset(f"shortcut {name}" for name in pair)
        for pair in (("identity", "none"), ("identity", "projection"), ("none", "projection"))
    }
    for pair in found:
        low, high = pair.difference.low, pair.difference.high
        assert low is not None
        assert high is not None
        assert pair.holm_p is not None
        assert pair.difference.p is not None
        assert pair.holm_p >= pair.difference.p >= 2 / 2**5
        if "none" in pair.b.name:
            assert low > 0
            assert pair.verdict == f"{pair.a.name} is better"
            assert (pair.only_a_wrong, pair.only_b_wrong) == (0, 5 * 18)
            assert pair.mcnemar_p is not None
            assert pair.mcnemar_p < 1e-9
        else:
            assert low < 0 < high
            assert pair.verdict == f"no difference larger than {100 * max(-low, high):.2f} points"
            assert pair.mcnemar_p == 1


def test_effects_of_two_keys(tmp_path: Path) -> None:
    """A ReLU6 costs 0.4 points without shortcuts and 0.1 with them."""
    for seed in range(4):
        for activation, shortcut, loss in (
            ("linear", "identity", 0.0),
            ("relu6", "identity", 0.001),
            ("linear", "none", 0.002),
            ("relu6", "none", 0.006),
        ):
            run = tmp_path / f"{activation}-{shortcut}-{seed}"
            arm = {"model.bottleneck_activation": activation, "model.shortcut": shortcut}
            job(run, arm | {"seed": seed}, seed=seed, test_accuracy=0.99 - loss + 1e-5 * seed)
    rows = collect.rows([tmp_path])
    found = comparison.effects(rows, "test_accuracy")
    assert [effect.text for effect in found] == [
        "bottleneck_activation linear - relu6",
        "shortcut identity - none",
        "interaction: bottleneck_activation linear - relu6 with shortcut identity, minus with "
        "shortcut none",
    ]
    means = [effect.difference.mean for effect in found]
    assert means == pytest.approx([0.0025, 0.0035, -0.003])
    assert comparison.effects(rows[:3], "test_accuracy") == []
    assert comparison_tables.effects_section(found)[2][2][2] == "-0.30"


def test_by_accuracy_on_corrupted_images(tmp_path: Path, call: Call) -> None:
    folder = study(tmp_path / "s", 3)
    ended = call("compare", f"run_dir={folder}", "metric=corrupted_accuracy")
    assert ended.status == 2
    assert "corrupted_accuracy" in ended.err
    for run in folder.glob("shortcut-*"):
        (run / "evaluation").mkdir()
        kept = json.loads((run / "result.json").read_text())
        path = run / "evaluation" / f"{kept.get('tested_checkpoint')}-test-corruptions.json"
        found = {"corrupted_accuracy": 0.7 + 0.1 * ("none" in run.name)}
        path.write_text(json.dumps(found | {"epochs": kept.get("epochs")}))
    assert call("compare", f"run_dir={folder}", "metric=corrupted_accuracy").status == 0
    found = json.loads((folder / "report" / "comparison-corrupted.json").read_text())
    assert found["pairs"][0]["a"] == "shortcut none"
    assert found["pairs"][0]["mcnemar_p"] is None


def test_too_few_seeds(tmp_path: Path) -> None:
    rows = collect.rows([study(tmp_path / "s", 2)])
    for pair in comparison.pairs(rows, "val_accuracy"):
        assert pair.holm_p is None
        assert pair.verdict == "too few seeds in common (2; 3 are needed)"


def test_only_seeds_in_common_are_paired(tmp_path: Path) -> None:
    study(tmp_path / "s", 4)
    for file in (tmp_path / "s" / "shortcut-none_seed-1").iterdir():
        file.unlink()
    rows = collect.rows([tmp_path / "s"])
    seeds = {pair.b.name: pair.seeds for pair in comparison.pairs(rows, "val_accuracy")}
    assert seeds["shortcut none"] == [0, 2, 3]


def test_the_command_writes_a_table_a_figure_and_json(tmp_path: Path, call: Call) -> None:
    study(tmp_path / "s", 5)
    ended = call("compare", "run_dir=s")
    assert (ended.status, ended.err) == (0, "")
    assert "shortcut identity is better" in ended.out
    out = tmp_path / "s" / "report"
    found = json.loads((out / "comparison.json").read_text())
    assert found["metric"] == "val_accuracy"
    assert len(found["pairs"]) == 3
    assert (out / "comparison.png").stat().st_size > 5_000
    assert "together for 3 pairs" in (out / "comparison.md").read_text()
    ended = call("report", "run_dir=s")
    assert "Differences" in (out / "report.md").read_text()
    assert "shortcut identity is better" in (out / "report.html").read_text()
    assert "Differences by seed" in (out / "report.html").read_text()


def test_runs_that_differ_in_more(tmp_path: Path, call: Call) -> None:
    study(tmp_path / "s", 3)
    config = {
        "seed": 0,
        "model": {"shortcut": "none"},
        "trainer": {"max_epochs": 9},
        "data": {"_target_": "x"},
    }
    (tmp_path / "s" / "shortcut-none_seed-0" / "config.yaml").write_text(to_yaml(config))
    ended = call("compare", "run_dir=s")
    assert ended.status == 2
    assert "by: the runs differ in trainer.max_epochs beside model.shortcut; compare" in ended.err
    assert call("compare", "run_dir=s", "by=[model,trainer.max_epochs]").status == 0
    ended = call("compare", "run_dir=s", "by=[trainer.max_epochs]")
    assert "by: the runs differ in model.shortcut beside trainer.max_epochs" in ended.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run_dir=s", "metric=loss"), "metric=loss: must be 'val_accuracy', 'test_accuracy'"),
        (("run_dir=nowhere",), "nowhere: there is no such folder"),
        ((), "run_dir: the folder of a run or a sweep is needed"),
        (("run_dir=one",), "one: no two arms with a seed in common"),
    ],
)
def test_bad_calls(arguments: tuple[str, ...], message: str, tmp_path: Path, call: Call) -> None:
    study(tmp_path / "s", 3)
    job(tmp_path / "one" / "a", {"seed": 0})
    (tmp_path / "one" / "a" / "config.yaml").write_text(to_yaml({"data": {"_target_": "x"}}))
    ended = call("compare", *arguments)
    assert ended.status == 2
    assert message in ended.err


def test_of_a_real_sweep(call: Call, tmp_path: Path) -> None:
    """Runs leave the predictions that the pooled test needs."""
    small = [override for override in SMALL if not override.startswith("callbacks.")]
    sweep = ("seed=0,1,2", "model.expand_ratio=2,3", "trainer.max_epochs=1", "sweep=s")
    ended = call("train", "-m", *small, *sweep)
    assert ended.status == 0
    assert re.search(r"expand_ratio \d - expand_ratio \d: .* points \(.*, n = 3\): ", ended.out)
    ended = call("compare", "run_dir=outputs/sweeps/s", "metric=test_accuracy")
    assert ended.status == 0, ended.err
    (pair,) = json.loads((tmp_path / "outputs/sweeps/s/report/comparison.json").read_text())[
        "pairs"
    ]
    runs = sorted((tmp_path / "outputs/sweeps/s").glob("*/result.json"))
    assert len(runs) == 6
    both = [read_predictions(run.parent / PREDICTIONS) for run in runs]
    for record, read in zip(map(json.loads, map(Path.read_text, runs)), both, strict=True):
        assert read is not None
        assert np.mean(read[0] == read[1]) == pytest.approx(record["test_accuracy"])
    assert pair["only_a_wrong"] is not None
    gap = (pair["only_b_wrong"] - pair["only_a_wrong"]) / 3 / 100
    assert gap == pytest.approx(pair["mean"], abs=1e-6)
