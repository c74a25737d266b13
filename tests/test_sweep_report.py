"""The report on a sweep: its order, figures, tables and page, from records alone."""

import csv
import json
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnv2_lightning.reports import (
    collect,
    curve_figures,
    leaderboard,
    sections,
    sweep_figures,
    write,
)
from mnv2_lightning.runs import folder
from tests.conftest import Call


def job(folder: Path, overrides: dict[str, Any], **found: Any) -> None:
    """A run's record and curve, as `train` leaves them."""
    folder.mkdir(parents=True)
    record = {
        "status": "finished",
        "error": None,
        "overrides": overrides,
        "val_accuracy": 0.5,
        "test_accuracy": 0.4,
        "train_seconds": 10.0,
        "parameters": 1000,
        "multiply_adds": 50_000,
        "seed": 0,
    }
    (folder / "result.json").write_text(json.dumps(record | found))
    lines = ["step,epoch,val/accuracy", "9,0,0.25"]
    if (last := found.get("val_accuracy", 0.5)) is not None:
        lines.append(f"19,1,{last}")
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """lr x expansion ratio x seed; one job of (0.1, 4) failed, one was not started."""
    accuracy = {(0.01, 2): 0.90, (0.01, 4): 0.92, (0.1, 2): 0.96, (0.1, 4): 0.94}
    names = []
    for (lr, ratio), value in accuracy.items():
        for seed in (0, 1):
            overrides = {"optimizer.lr": lr, "model.expand_ratio": ratio, "seed": seed}
            names.append(f"lr-{lr}_expand_ratio-{ratio}_seed-{seed}")
            found: dict[str, Any] = {
                "val_accuracy": value + 0.01 * seed,
                "test_accuracy": value - 0.02,
                "parameters": 1000 * ratio,
            }
            if (lr, ratio, seed) == (0.1, 4, 1):
                found = {"status": "diverged", "error": "diverged <in> epoch 1"}
            typed = overrides | {"trainer.max_epochs": 2}
            job(tmp_path / "s" / names[-1], typed, seed=seed, **found)
    names.append("lr-0.1_expand_ratio-6_seed-0")
    (tmp_path / "s" / "sweep.json").write_text(json.dumps({"jobs": names}))
    return tmp_path / "s"


def test_order_means_and_spread(sweep: Path) -> None:
    rows = collect.rows([sweep])
    assert len(rows) == 9
    assert leaderboard.swept(rows) == ["optimizer.lr", "model.expand_ratio", "seed"]
    found = leaderboard.groups(rows)
    assert [group.name for group in found] == [
        "lr 0.1, expand_ratio 2",
        "lr 0.1, expand_ratio 4",
        "lr 0.01, expand_ratio 4",
        "lr 0.01, expand_ratio 2",
    ]
    assert [len(group.runs) for group in found] == [2, 1, 2, 2]
    assert found[0].mean("val_accuracy") == pytest.approx(0.965)
    assert found[0].spread("val_accuracy") == pytest.approx(0.01 / 2**0.5)  # of 0.96 and 0.97
    assert found[1].spread("val_accuracy") is None
    assert found[0].curve() == [(1, 0.25), (2, pytest.approx(0.965))]


def test_without_validation_the_order_is_by_the_test_and_says_so(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.9, 0.8)):
        overrides = {"optimizer.lr": 0.1 * (seed + 1)}
        job(tmp_path / str(seed), overrides, val_accuracy=None, test_accuracy=accuracy)
    rows = collect.rows([tmp_path])
    assert leaderboard.metric(rows) == "test_accuracy"
    assert leaderboard.groups(rows)[0].mean("test_accuracy") == 0.9
    assert "Choose nothing by it" in sections.summary(rows)


def test_pareto() -> None:
    """(cost, accuracy): the cheapest, and each that is better than all cheaper ones."""
    points = [(1.0, 0.5), (2.0, 0.4), (2.0, 0.7), (3.0, 0.7), (4.0, 0.9), (1.0, 0.45)]
    assert leaderboard.pareto(points) == [0, 2, 4]


@pytest.mark.parametrize("content", ["{", "[1]", "{}", "1", "\xff"])
def test_a_damaged_record_is_a_failed_run(content: str, sweep: Path) -> None:
    one = sweep / "lr-0.01_expand_ratio-2_seed-0"
    (one / "result.json").write_text(content, encoding="latin-1")
    (one / "metrics.csv").write_text("epoch,val/accuracy\n0,0.\x00\n1")
    rows = collect.rows([sweep])
    assert rows[0]["status"] == "failed"
    assert rows[0]["error"] == "result.json cannot be read"
    assert len(leaderboard.finished(rows)) == 6


def test_a_damaged_sweep(sweep: Path) -> None:
    """Its runs are known by their folders, in the order of their names."""
    for content in ("{", "[]", '{"jobs": 1}'):
        (sweep / "sweep.json").write_text(content)
        assert len(collect.rows([sweep])) == 8


def test_a_killed_run_is_not_running(tmp_path: Path) -> None:
    job(tmp_path / "a", {"seed": 0}, status="running")
    assert sections.failed_rows(collect.rows([tmp_path])) == [
        ["a", "interrupted", "its process was killed"]
    ]
    with folder.locked(tmp_path / "a"):
        assert collect.rows([tmp_path])[0]["status"] == "running"


def test_runs_of_the_same_seed_are_no_seeds(tmp_path: Path) -> None:
    """Nor do two of the same name, as of two sweeps, hide each other."""
    for number in (1, 2):
        for seed in (0, 1):
            typed = {"optimizer.lr": 0.1, "seed": seed}
            job(tmp_path / f"s{number}" / f"seed-{seed}", typed, seed=seed, val_accuracy=number / 4)
    rows = collect.rows([tmp_path / "s1", tmp_path / "s2"])
    assert [row["name"] for row in rows[::2]] == ["s1/seed-0", "s2/seed-0"]
    found = leaderboard.groups(rows)
    assert [len(group.runs) for group in found] == [2, 2]
    assert [group.name for group in found] == ["all seeds (s2/seed-0)", "all seeds (s1/seed-0)"]
    assert [group.mean("val_accuracy") for group in found] == [0.5, 0.25]


def test_what_was_not_typed_is_no_blank(tmp_path: Path) -> None:
    job(tmp_path / "a", {"optimizer.lr": 0.1, "seed": 1})
    job(tmp_path / "b", {"seed": 2})
    assert [group.name for group in leaderboard.groups(collect.rows([tmp_path]))] == ["lr 0.1", "b"]


def test_files_of_the_report(sweep: Path, call: Call) -> None:
    ended = call("report", f"run_dir={sweep}")
    assert ended.status == 0, ended.err
    assert "7 of 9 runs finished" in ended.out
    assert "diverged: diverged <in> epoch 1" in ended.out
    assert "not started" in ended.out
    out = sweep / "report"
    for name in ("lines", "costs", "curves"):
        assert (out / f"{name}.png").stat().st_size > 5000
    with (out / "runs.csv").open() as stream:
        read = list(csv.DictReader(stream))
    assert len(read) == 9
    assert read[4]["optimizer.lr"] == "0.1"
    assert read[4]["val_accuracy"] == "0.96"
    assert read[7]["status"] == "diverged"
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "diverged &lt;in&gt; epoch 1" in page
    assert "http" not in page.replace("http-equiv", "")  # needs no network
    text = (out / "report.md").read_text()
    assert "| 0.1 | 2 | 96.50 % ± 0.71 | 94.00 % ± 0.00 | 2 | 10.0 s | 2,000 | 50,000 |" in text


def test_of_a_run_and_of_several(sweep: Path, call: Call, tmp_path: Path) -> None:
    one = sweep / "lr-0.1_expand_ratio-2_seed-0"
    ended = call("report", f"run_dir={one}")
    assert ended.status == 0, ended.err
    assert sorted(p.name for p in (one / "report").iterdir()) == [
        "accuracy.png",
        "report.html",
        "report.md",
        "runs.csv",
    ]
    other = sweep / "lr-0.01_expand_ratio-2_seed-0"
    ended = call("report", f"runs=[{one},{other}]")
    assert ended.status == 0, ended.err
    (page,) = (tmp_path / "outputs" / "reports").glob("*/report.html")
    assert "<td>0.01</td>" in page.read_text()


def test_bad_calls(call: Call, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for typed, told in (
        ([], "run_dir: the folder of a run or a sweep is needed, or runs=[A,B]"),
        (["run_dir=nowhere"], "nowhere: there is no such folder"),
        (["run_dir=empty"], "empty: holds no run (no result.json in it or its folders)"),
    ):
        ended = call("report", *typed)
        assert ended.status == 2
        assert ended.err == f"error: {told}\n"
    assert not (tmp_path / "empty" / "report").exists()


def test_needs_no_torch(sweep: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mnv2_lightning.report import main\n"
        f"sys.argv = ['report', 'run_dir={sweep}']\n"
        "try: main()\n"
        "except SystemExit as ended: assert not ended.code, ended.code\n"
        "assert not {'torch', 'lightning', 'torchvision'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=sweep)


def test_a_job_that_was_not_started_takes_no_figure_away(tmp_path: Path) -> None:
    """Of four jobs three are done."""
    for lr, ratio in ((0.1, 2), (0.1, 4), (0.2, 2)):
        job(tmp_path / f"{lr}{ratio}", {"optimizer.lr": lr, "model.expand_ratio": ratio})
    (tmp_path / "sweep.json").write_text('{"jobs": ["0.24"]}')
    assert "lines" in sweep_figures.draw(collect.rows([tmp_path]))


def test_a_sweep_over_lists(tmp_path: Path) -> None:
    for lr in (0.1, 0.2):
        for name, callbacks in (("a", ["default"]), ("b", ["default", "ema"])):
            job(tmp_path / f"{lr}{name}", {"callbacks": callbacks, "optimizer.lr": lr})
    (legend,) = sweep_figures.draw(collect.rows([tmp_path]))["lines"].legends
    labels = [label.get_text() for label in legend.get_texts()]
    assert labels == ["['default', 'ema']", "['default']"]


def test_long_values(tmp_path: Path, call: Call) -> None:
    """Tables name them as the folders do, and list them below; runs.csv has them in full."""
    stages = {f"[[1,16,1,1],[6,24,2,2],[6,32,{n},2],[6,64,3,2],[6,96,3,1]]": n for n in (1, 2)}
    for text, number in stages.items():
        for seed in (0, 1):
            typed = {"model.stages": json.loads(text), "seed": seed}
            name = folder.job_folder([f"model.stages={text}", f"seed={seed}"])
            job(tmp_path / "s" / name, typed, seed=seed, parameters=1000 * number)
    names = [folder.job_folder([f"model.stages={text}"]) for text in stages]
    ended = call("report", "run_dir=s")
    assert ended.status == 0, ended.err
    lines = ended.out.splitlines()
    for name, text in zip(names, stages, strict=True):
        shown = name.removeprefix("stages-")
        assert len(shown) == 8
        assert f"  stages {shown}: {text.replace(',', ', ')}" in lines
        assert any(line.startswith(f"  {shown}  ") for line in lines)
        assert f"| {shown} | 50.00 %" in (tmp_path / "s/report/report.md").read_text()
    assert max(len(line) for line in lines if "%" in line) < 100
    with (tmp_path / "s/report/runs.csv").open() as stream:
        read = {row["name"]: row["model.stages"] for row in csv.DictReader(stream)}
    assert [read[f"{name}_seed-0"].replace(" ", "") for name in names] == [*stages]
    assert "<td>[[1, 16, 1, 1], " in (tmp_path / "s/report/report.html").read_text()
    groups = leaderboard.groups(collect.rows([tmp_path / "s"]))
    assert sorted(group.name for group in groups) == sorted(n.replace("-", " ") for n in names)


def test_of_a_third_key_the_best_is_shown(tmp_path: Path) -> None:
    """Its values are no seeds: a mean over them says nothing."""
    for lr in (0.1, 0.2):
        for ratio in (2, 4):
            for dropout in (0.0, 0.5):
                typed = {"optimizer.lr": lr, "model.expand_ratio": ratio, "model.dropout": dropout}
                job(tmp_path / f"{lr}{ratio}{dropout}", typed, val_accuracy=0.9 - dropout)
    axes = sweep_figures.draw(collect.rows([tmp_path]))["lines"].axes[0]
    assert axes.get_ylabel() == "validation accuracy, the best by dropout"
    drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    assert set(drawn[np.isfinite(drawn)]) == {0.9}


def test_a_report_takes_no_pictures_but_its_own(sweep: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.png").write_bytes(b"mine")
    (tmp_path / "out" / "importances.png").write_bytes(b"of an earlier report")
    write.report([sweep], tmp_path / "out")
    there = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert "mine.png" in there
    assert "importances.png" not in there


def test_a_reason_is_one_line(tmp_path: Path) -> None:
    job(tmp_path / "a", {"seed": 0}, status="failed", error="ValueError: a\n  b")
    assert sections.failed_rows(collect.rows([tmp_path])) == [["a", "failed", "ValueError: a b"]]


LOGGED = "step,epoch,train/loss,val/loss\n9,0,2.0,\n19,0,1.0,1.5\n39,1,0.5,0.25\n49,2,nan,\n"
PNG = bytes.fromhex("89504e470d0a1a0a")  # the first bytes of such a file


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run with its config and curves, and no figures of its test."""
    job(tmp_path / "r", {"optimizer.lr": 0.1, "callbacks.ema": None}, command="python -m x")
    (tmp_path / "r" / "metrics.csv").write_text(LOGGED)
    (tmp_path / "r" / "config.yaml").write_text("model: {width: <b>}\n")
    return tmp_path / "r"


def test_a_run_shows_its_result_curves_and_config(run: Path, call: Call) -> None:
    ended = call("report", f"run_dir={run}")
    assert ended.status == 0, ended.err
    assert ended.out.startswith("Status: finished\n")
    assert "test accuracy           40.00 %" in ended.out
    page, text = ((run / "report" / f"report.{kind}").read_text() for kind in ("html", "md"))
    assert "<p>Status: finished. No confusion matrix; python -m " in page
    assert "<td>multiply-adds an image</td><td>50,000</td>" in page
    assert "<td>callbacks.ema</td><td>null</td>" in page
    assert '<pre class="scroll">model: {width: &lt;b&gt;}' in page
    assert "| command | python -m x |" in text
    assert "\n    model: {width: <b>}\n" in text  # a code block
    assert "![Loss](loss.png)" in text
    assert page.count("data:image/png;base64,") == 1


def test_loss_over_steps(run: Path) -> None:
    """Steps count from 1; values that are not finite are left out."""
    figure = curve_figures.draw(collect.rows([run]), "loss")
    assert figure is not None
    drawn = {line.get_label(): line.get_xydata() for line in figure.axes[0].lines}
    assert np.array_equal(drawn["training"], [[10, 2.0], [20, 1.0], [40, 0.5]])
    assert np.array_equal(drawn["validation"], [[20, 1.5], [40, 0.25]])
    assert curve_figures.draw(collect.rows([run]), "accuracy") is None


def test_figures_of_the_test(run: Path, tmp_path: Path) -> None:
    """The run's own come before those of `evaluate`; nothing else than a PNG is shown."""
    (run / "evaluation").mkdir()
    for name in ("best-test-confusion", "best-test-wrong", "best-val-wrong"):
        (run / "evaluation" / f"{name}.png").write_bytes(PNG + name.encode())
    (run / "confusion_matrix.png").write_bytes(PNG + b"own")
    (run / "most_confidently_wrong.png").write_text("a password")
    write.report([run], run / "report")
    text = (run / "report" / "report.md").read_text()
    assert "![Confusion matrix](../confusion_matrix.png)" in text
    assert "![Most confidently wrong](../evaluation/best-test-wrong.png)" in text
    assert "No confusion matrix" not in text
    job(tmp_path / "f", {}, status="failed", error="E: a\nb")
    (tmp_path / "f" / "confusion_matrix.png").write_bytes(PNG)  # of an earlier test
    write.report([tmp_path / "f"], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "Status: failed (E: a b)" in text
    assert "confusion_matrix.png" not in text


def test_links_lead_to_the_reports_of_runs_or_to_their_folders(sweep: Path) -> None:
    one = sweep / "lr-0.1_expand_ratio-2_seed-0"
    write.report([one], one / "report")
    write.report([sweep], sweep / "report")
    page = (sweep / "report" / "report.html").read_text()
    assert f'<a href="../{one.name}/report/report.html">{one.name}</a>' in page
    assert '<a href="../lr-0.1_expand_ratio-4_seed-1">' in page  # in two tables
    text = (sweep / "report" / "report.md").read_text()
    assert f"| [{one.name}](../{one.name}/report/report.html) |" in text


def test_a_strangers_record_gives_no_link_and_no_markup(tmp_path: Path) -> None:
    """A record with other keys, a name like a URL, and values of the wrong type."""
    name = "javascript:alert(1)"
    foreign = {"folder": "https://x", "link": "https://x", "name": "<script>x"}
    job(tmp_path / "s" / name, {"a": 1})
    path = tmp_path / "s" / name / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | foreign))
    job(tmp_path / "s" / "b", {"a": "<img>"}, test_accuracy="1")
    job(tmp_path / "s" / "c", {"a": 2}, val_accuracy=10**400)
    job(tmp_path / "s" / "d", {"a": 3}, versions=[])
    rows = write.report([tmp_path / "s"], tmp_path / "s" / "report")
    assert [row["status"] for row in rows] == ["failed", "failed", "failed", "finished"]
    page = (tmp_path / "s" / "report" / "report.html").read_text()
    assert set(re.findall(r'href="([^"]*)"', page)) == {
        "../javascript%3Aalert%281%29",
        *("../b", "../c", "../d"),
    }
    assert "<script>x" not in page
    assert "<img>" not in page


def test_a_report_is_not_written_through_a_link(run: Path, call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (run / "report").mkdir()
    (run / "report" / "report.html").symlink_to(tmp_path / "mine")
    ended = call("report", f"run_dir={run}")
    assert ended.status == 2
    assert "report.html: leads out of the run's folder" in ended.err
    assert (tmp_path / "mine").read_text() == "mine"


def test_several_runs(sweep: Path, tmp_path: Path) -> None:
    """Their losses in one figure, and a table of the keys in which their configs differ."""
    for name, config in (("a", "lr: 0.1, depth: null, a: 1"), ("b", "lr: 0.2, depth: [1], a: 1")):
        job(tmp_path / name, {"experiment": name})
        (tmp_path / name / "metrics.csv").write_text(LOGGED)
        text = f"model: {{{config}}}\ndata: {{_target_: mine.Data, dir: {name}}}\n"
        (tmp_path / name / "config.yaml").write_text(text)
    write.report([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert (
        "## Differences between configs\n\n| key | a | b |\n| --- | --- | --- |\n"
        "| model.lr | 0.1 | 0.2 |\n| model.depth | null | [1] |\n\n"
    ) in text
    figure = curve_figures.draw(collect.rows([tmp_path / "a", tmp_path / "b"]), "loss")
    assert figure is not None
    assert [label.get_text() for label in figure.legends[0].get_texts()] == ["a", "b"]


def overlapping(texts: list[Any]) -> int:
    """How many pairs of the texts overlap."""
    boxes = [text.get_window_extent() for text in texts if text.get_text() and text.get_visible()]
    return sum(a.overlaps(b) for a, b in combinations(boxes, 2))


@pytest.mark.parametrize(
    "values",
    [
        [0.001, 0.0011, 0.01, 0.3],
        [0, 1e-5, 1e-4, 5e-4, 1e-3, 1e-2],
        [0.29, 0.3],
        [2, 4, 6],
        [0.1],
        [0.001 * 1.5**i for i in range(12)],
        [0.00123 * 1.2**i for i in range(30)],
    ],
)
def test_labels_do_not_overlap(values: list[float], tmp_path: Path) -> None:
    """Ticks of lines and slices, and names of 40 characters beside the points of a front."""
    for number, value in enumerate(values):
        for momentum in (0.1, 0.2):
            swept = {
                "optimizer.lr": value,
                "optimizer.momentum": momentum,
                "model": "network_of_" + "my_own" * 5,
            }
            cost = {"val_accuracy": 0.9 + 0.003 * number, "multiply_adds": 1000 + 10 * number}
            job(tmp_path / f"{number}-{momentum}", swept, **cost)
    others = {"optimizer.momentum": 0.1, "model": "n"}
    job(tmp_path / "other", {"optimizer.lr": values[0], **others})
    job(tmp_path / "failed", {"optimizer.lr": 9.0, **others}, status="failed")
    rows = collect.rows([tmp_path])
    figures = sweep_figures.draw(rows)
    groups = leaderboard.groups(rows)
    by = "val_accuracy"
    figures["slices"] = sweep_figures.draw_slices(groups, ["optimizer.lr"] * 4, by)
    figures["configurations"] = sweep_figures.draw_configurations(groups, by)
    for name, figure in figures.items():
        figure.draw_without_rendering()
        for axes in figure.axes:
            for texts in (axes.get_xticklabels(), axes.get_yticklabels(), axes.texts):
                assert overlapping(list(texts)) == 0, name
            assert any(label.get_text() for label in axes.get_xticklabels()), name
