"""The command line: runs and their folders, sweeps, how a command ends."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mnv2_lightning.cli import composing
from mnv2_lightning.cli.arguments import split
from mnv2_lightning.runs.folder import job_folder
from tests.conftest import FULL, SMALL, Call


def test_multirun_checks_all_jobs_before_the_first(call: Call, tmp_path: Path) -> None:
    ended = call("train", "-m", "optimizer.lr=0.1,-1", "seed=1,2")
    assert ended.status == 2
    why = "optimizer.lr=-1: must be greater than 0 (job lr--1_seed-1)"
    assert ended.err == f"error: {why}\n"
    assert list(tmp_path.iterdir()) == []


def test_jobs_of_a_sweep_share_no_folder(call: Call, tmp_path: Path) -> None:
    ended = call("train", "-m", "seed=1,1", "hydra.sweep.dir=s")
    assert ended.status == 2
    assert ended.err == f"error: -m: 2 jobs would share the folder {Path('s/seed-1')}\n"
    (tmp_path / "s" / "seed-2").mkdir(parents=True)
    (tmp_path / "s" / "seed-2" / "result.json").write_text("{}")
    ended = call("train", "-m", "seed=1,2", "hydra.sweep.dir=s")
    assert ended.status == 2
    assert f"{Path('s/seed-2')}: holds a result.json of something else" in ended.err


@pytest.mark.parametrize(
    ("typed", "sorted_"),
    [
        ("a=1 -m b=2,3", "a=1 b=2,3 -m"),
        ("-m a=1 b=2", "a=1 b=2 -m"),
        ("a=1 --config-dir x=y b=2 -cd z c=3", "a=1 b=2 c=3 --config-dir x=y -cd z"),
        ("a=1 --config-dir=x b=2 --config-na n ~c", "a=1 b=2 ~c --config-dir=x --config-na n"),
        ("a=1 --info b=2", "a=1 b=2 --info"),
        ("a=1 -i ~b", "a=1 ~b -i"),
        ("a=1 --info defaults b=2", "a=1 b=2 --info defaults"),
        ("a=1 --cfg job -p model b=2 --resolve", "a=1 b=2 --cfg job -p model --resolve"),
        ("-m -- a=1", "a=1 -m --"),
        ("a=1 --config-dir", "a=1 --config-dir"),
    ],
)
def test_overrides_and_options(typed: str, sorted_: str) -> None:
    for arguments in (typed, sorted_):
        overrides, options = split(arguments.split())
        assert overrides + options == sorted_.split()


def test_options_among_overrides(call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine" / "model").mkdir(parents=True)
    own = "defaults: [mobilenet_v2_small]\nwidth_mult: 0.125\n"
    (tmp_path / "mine" / "model" / "own.yaml").write_text(own)
    shows = ("--cfg", "job", "model=own", "-p", "model", "seed=7")
    ended = call("train", "optimizer.lr=0.3", "--config-dir", str(tmp_path / "mine"), *shows)
    assert ended.status == 0, ended.err
    assert "width_mult: 0.125" in ended.out
    ended = call("train", "seed=7", "--cfg", "job", "optimizer.lr=0.3")
    assert "\nseed: 7\n" in ended.out
    assert "  lr: 0.3\n" in ended.out
    for typed in (["seed=7", "--help", "optimizer.lr=0.3"], ["seed=7", "optimizer.lr=0.3", "-h"]):
        ended = call("train", *typed)
        assert ended.status == 0
        assert "optimizer.lr=0.3 " in ended.out
    for typed in (["optimizer.lr=-1", "-m", "seed=1,2"], ["optimizer.lr=-1", "seed=1,2", "-m"]):
        ended = call("train", *typed)
        assert ended.status == 2
        assert ended.err == "error: optimizer.lr=-1: must be greater than 0 (job seed-1)\n"


@pytest.mark.parametrize(
    "args",
    [["optimizer.lr=-1"], ["optimzer.lr=1"], ["--help"], ["model.strides=[1]"], ["--cfg", "job"]],
    ids=" ".join,
)
def test_answers_without_torch(args: list[str], tmp_path: Path) -> None:
    """In a process of its own: help and what the tables find are said before torch is imported."""
    code = (
        "import sys; from mnv2_lightning.train import COMMAND\n"
        f"sys.argv = ['train', *{args}]\n"
        "COMMAND.run()\n"
        "heavy = {'torch', 'lightning', 'numpy', 'matplotlib', 'torchvision'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_a_slow_import_is_announced(tmp_path: Path) -> None:
    """Before it, and after the checks that need no torch."""
    command = [sys.executable, "-m", "mnv2_lightning.train"]
    ended = subprocess.run(
        [*command, "trainer.num_nodes=2"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.stdout == "importing torch and lightning ...\n"
    assert ended.stderr.startswith("error: trainer.num_nodes=2: ")
    ended = subprocess.run(
        [*command, "sweep=a"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: sweep=a: ")


def test_a_run_and_its_folder(call: Call, tmp_path: Path) -> None:
    ended = call("train", *SMALL, "experiment=default", "trainer.max_epochs=1")
    assert ended.status == 0, ended.err
    (run,) = (tmp_path / "outputs" / "runs" / "default").iterdir()
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", run.name)
    assert f"run: {run}" in ended.out
    assert "test accuracy" in ended.out
    for number in (1, 2, 4, 6, 8):
        assert f"epoch 1/1 batch {number}/10  train/loss" in ended.out
    assert re.search(r"epoch 1/1  train/loss .*  val/loss .*  val/accuracy", ended.out)
    assert "epoch 1/1  train/loss" in (run / "train.log").read_text()

    ended = call("evaluate", f"run_dir={run}")
    assert ended.status == 0, ended.err
    assert (run / "evaluation" / "best-test-confusion.png").stat().st_size > 1000
    names = [
        f"best-test{end}" for end in (".json", "-confusion.csv", "-confusion.png", "-wrong.png")
    ]
    assert f"written to {run / 'evaluation'}: {', '.join(names)}" in ended.out
    assert {path.name for path in (run / "evaluation").glob("best*")} == set(names)

    ended = call("train", f"resume={run}")
    assert ended.status == 0
    assert f"already finished: {run}" in ended.out

    ended = call("train", f"hydra.run.dir={run}")
    assert ended.status == 2
    assert f"already; take another folder, or resume that run with resume={run}" in ended.err

    ended = call("train", f"resume={run}", "experiment=tutorial")
    assert ended.status == 2
    assert "experiment: cannot change when a run is resumed" in ended.err

    ended = call("train", f"resume={run}", "optimizer.lr=1.0")
    assert ended.status == 2
    assert "optimizer.lr=1.0: cannot change when a run is resumed" in ended.err

    ended = call("train", "-m", f"resume={run}", "trainer.max_epochs=2,3")
    assert ended.status == 2
    assert "resume: takes one run in its own folder" in ended.err

    ended = call("train", f"resume={run}", "trainer.max_epochs=2", "logger=csv")
    assert ended.status == 0, ended.err
    assert json.loads((run / "result.json").read_text())["epochs"] == 2
    assert list((tmp_path / "outputs" / "runs" / "default").iterdir()) == [run]

    ended = call("train", f"resume={run}", "trainer.max_epochs=1")
    assert ended.status == 2
    assert re.search(r"trainer\.max_epochs=1: .* has trained 2 epochs already", ended.err)
    ended = call("train", f"resume={run}", "trainer.max_steps=5")
    assert ended.status == 2
    assert re.search(r"trainer\.max_steps=5: .* has trained 20 steps already", ended.err)
    assert json.loads((run / "result.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("typed", ["logger=[]", "~logger", "logger=null"])
def test_no_logger(typed: str, call: Call, tmp_path: Path) -> None:
    ended = call("train", *FULL, typed, "hydra.run.dir=a", "trainer.max_epochs=1")
    assert ended.status == 0, ended.err
    there = {path.name for path in (tmp_path / "a").iterdir() if not path.name.startswith(".")}
    of_test = {"confusion_matrix.png", "most_confidently_wrong.png", "test_predictions.csv"}
    assert there == {"checkpoints", "config.yaml", "result.json", "train.log"} | of_test
    record = json.loads((tmp_path / "a" / "result.json").read_text())
    assert record["test_accuracy"] is not None
    ended = call("train", "resume=a", typed, "trainer.max_epochs=2")
    assert ended.status == 0, ended.err
    assert "resumes after epoch 1" in ended.out


@pytest.mark.parametrize("typed", ["callbacks=[]", "~callbacks", "callbacks=null"])
def test_no_callback(typed: str, call: Call, tmp_path: Path) -> None:
    """Lightning would write a checkpoint of its own, and draw a bar."""
    ended = call("train", *FULL, typed, "hydra.run.dir=a", "trainer.max_epochs=1")
    assert ended.status == 0, ended.err
    assert ended.out.count("the run cannot be resumed") == 1
    assert "tested            the weights as they are" in ended.out
    assert "epoch" not in (ended.out + ended.err).lower()
    assert not list(tmp_path.rglob("*.ckpt"))
    record = json.loads((tmp_path / "a" / "result.json").read_text())
    assert record["test_accuracy"] is not None
    assert "\ncallbacks: {}\n" in (tmp_path / "a" / "config.yaml").read_text()
    assert "already finished" in call("train", "resume=a").out
    ended = call("train", "resume=a", "trainer.max_epochs=2")  # nothing is lost, so no error
    assert ended.status == 0, ended.err
    assert "resumes from the beginning, as there is no checkpoint" in ended.out


def test_multirun_in_one_sweep_folder(call: Call, tmp_path: Path) -> None:
    ended = call(
        "train",
        "-m",
        *SMALL,
        "optimizer.lr=0.01,0.1",
        "model.expand_ratio=2",
        "hydra.sweep.dir=outputs/sweeps/s",
        "callbacks.test_images=null",
    )
    assert ended.status == 0, ended.err
    sweep = tmp_path / "outputs" / "sweeps" / "s"
    jobs = sorted(p for p in sweep.iterdir() if p.is_dir() and p.name != "report")
    assert len(jobs) == 2
    for job, lr in zip(jobs, (0.01, 0.1), strict=True):
        assert job.name == f"lr-{lr}"
        assert json.loads((job / "result.json").read_text())["status"] == "finished"
        assert f"lr: {lr}" in (job / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ("optimizer.lr=0.1 model.expand_ratio=2", "lr-0.1_expand_ratio-2"),
        ("optimizer.lr=0.1 trainer.max_epochs=3 sweep=NAME", "lr-0.1"),
        ("model.strides=[2,1,2]", "strides--2-1-2"),
        ("+callbacks.x=1e-3 seed=1", "x-1e-3_seed-1"),
        ("optimizer.lr=1e+18", "lr-1e18"),
        ("experiment=tutorial", "experiment-tutorial"),
        ("", "job"),
        (f"model.strides=[2{',1' * 18}]", f"strides--2{'-1' * 18}"),  # 39 characters
        (f"model.strides=[2{',1' * 19}]", "strides-a29361d0"),
        (f"x={'a' * 200} seed=1", "x-c2a908d9_seed-1"),
        (
            " ".join(f"x{n}={'a' * 36}" for n in range(4)),
            "_".join(f"x{n}-{'a' * 36}" for n in range(3)) + "_-12375fbc",
        ),
    ],
)
def test_job_folder(overrides: str, expected: str) -> None:
    assert job_folder(overrides.split(), ["trainer.max_epochs", "sweep"]) == expected


@pytest.mark.parametrize("value", ["C:\\Users\\me", "\\\\server\\a b\\", "it's", "a\\'b", "{x}, y"])
def test_hydra_reads_what_was_quoted(value: str) -> None:
    """Such as the folder of a job, which on Windows has backslashes."""
    (override,) = OverridesParser.create().parse_overrides([f"key={composing.quoted(value)}"])
    assert override.value() == value


def test_data_that_cannot_be_had(call: Call, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ended = call("train", *SMALL, "data.dir=empty", "hydra.run.dir=run")
    assert ended.status == 5
    assert "put the four files, raw or .gz, into" in ended.err
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert record["status"] == "failed"


@pytest.mark.parametrize(
    "command", [("train",), ("search",), ("benchmark",), ("evaluate", "run_dir=run")]
)
def test_a_data_folder_that_does_not_exist(
    command: tuple[str, ...], call: Call, run: Path, tmp_path: Path
) -> None:
    """It is a mistake in typing: nothing is made there, and nothing is downloaded."""
    (tmp_path / "run").symlink_to(run)
    ended = call(*command, "data.dir=nowhere")
    assert ended.status == 2
    assert ended.err.startswith("error: data.dir=nowhere: there is no such folder; ")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_the_data_folder_of_the_environment_is_made(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNV2_DATA_DIR", str(tmp_path / "new"))
    assert call("train", *SMALL).status == 5
    assert (tmp_path / "new" / "mnist").is_dir()


def test_unforeseen_error(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, status 1, the traceback in the run's folder; on the terminal where it is asked."""

    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("mnv2_lightning.networks.complexity.measure", broken)
    ended = call("train", *SMALL, "hydra.run.dir=a")
    assert ended.status == 1
    assert ended.err == f"error: RuntimeError: broken (where: {tmp_path / 'a' / 'error.txt'})\n"
    assert "in broken" in (tmp_path / "a" / "error.txt").read_text()
    assert json.loads((tmp_path / "a" / "result.json").read_text())["status"] == "failed"
    ended = call("train", *SMALL, "hydra.run.dir=b", "traceback=true")
    assert "Traceback" in ended.err


def test_interrupted(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mnv2_lightning.classifier.Classifier.training_step", stop)
    ended = call("train", *SMALL, "hydra.run.dir=a")
    assert ended.status == 130
    assert json.loads((tmp_path / "a" / "result.json").read_text())["status"] == "interrupted"


def test_data_that_moved(
    call: Call, tmp_path: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that the environment named is read from there again; `data.dir` is for this call."""
    short = (*SMALL, "trainer.max_epochs=1")
    assert call("train", *short, "hydra.run.dir=a").status == 0
    assert "  dir: null" in (tmp_path / "a" / "config.yaml").read_text()
    monkeypatch.setenv("MNV2_DATA_DIR", str(tmp_path / "moved"))
    assert call("evaluate", "run_dir=a").status == 5
    assert call("evaluate", "run_dir=a", f"data.dir={small_data}").status == 0
    monkeypatch.setenv("MNV2_DATA_DIR", str(small_data))
    assert call("evaluate", "run_dir=a").status == 0


def test_precision_in_effect(call: Call, tmp_path: Path) -> None:
    """On a CPU Lightning turns 16-mixed into bf16-mixed: the run says so and records it."""
    few = ("trainer.limit_train_batches=2", "trainer.limit_val_batches=1")
    options = (*SMALL, *few, "trainer.max_epochs=1", "trainer.accelerator=cpu")
    ended = call("train", *options, "trainer.precision=16-mixed", "hydra.run.dir=a")
    assert ended.status == 0, ended.err
    assert "16-mixed needs a GPU: the CPU computes in bf16-mixed instead" in ended.out
    assert json.loads((tmp_path / "a" / "result.json").read_text())["precision"] == "bf16-mixed"


def test_devices(call: Call, tmp_path: Path) -> None:
    ended = call("devices")
    assert ended.status == 0
    assert re.search(r"^cpu .* cores", ended.out, re.M)
    assert "trainer.accelerator=auto takes: " in ended.out
    assert list(tmp_path.iterdir()) == []


def test_relu_collapse(call: Call, tmp_path: Path) -> None:
    ended = call("relu_collapse", "matrices=200", "points=100")
    assert ended.status == 0, ended.err
    out = tmp_path / "outputs" / "relu_collapse"
    assert (out / "relu_collapse.png").stat().st_size > 10_000
    shares = json.loads((out / "relu_collapse.json").read_text())["shares"]
    assert [row["m"] for row in shares] == [2, 3, 5, 15, 30]
    ended = call("relu_collapse", "run_dir=x")
    assert ended.status == 2
    assert "run_dir: is set by hydra.run.dir=PATH" in ended.err


def test_wrong_key_of_a_class_of_the_users_own(call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine" / "model").mkdir(parents=True)
    own = "_target_: torch.nn.Linear\nin_features: 3\nout_features: 4\n"
    (tmp_path / "mine" / "model" / "own.yaml").write_text(own)
    for typed, why in {
        "model.in_featuers=8": "model.in_featuers: unknown key; did you mean model.in_features?",
        "model.bias=false": "model.bias: unknown key (there are: model.in_features, "
        "model.out_features; +model.bias=VALUE adds one)",
        "model.in_features=wide": "model.in_features=wide: must be an integer",
    }.items():
        ended = call("train", "--config-dir=mine", "model=own", typed)
        assert (ended.status, ended.err) == (2, f"error: {why}\n")


def test_wrong_choice_of_a_config_dir(call: Call, tmp_path: Path) -> None:
    """A folder of the user's own adds to the choices."""
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    own = "# @package _global_\nseed: 7\noptimzer: {lr: 1}\n"
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text(own)
    ended = call("train", "--config-dir", str(tmp_path / "mine"), "experiment=own")
    assert ended.status == 2
    assert "optimzer: unknown key; did you mean optimizer?" in ended.err
