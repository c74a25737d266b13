"""What is answered without Hydra: help, versions, the list of commands, completion."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose
from omegaconf import OmegaConf

from mnv2_lightning import __main__ as commands
from mnv2_lightning.cli import completion, conf_files, help_text
from mnv2_lightning.cli.conf_files import config_dir
from mnv2_lightning.schema.models import BY_COMMAND
from mnv2_lightning.system import hydra_compat
from tests.conftest import Call

HEAVY = ("hydra", "lightning", "matplotlib", "numpy", "omegaconf", "torch")


def own_model(tmp_path: Path) -> str:
    """A `--config-dir` with a network of the user's own."""
    (tmp_path / "own" / "model").mkdir(parents=True)
    text = "# A net of mine.\n_target_: mine.Net\nwidth: 16 # of all layers\n"
    (tmp_path / "own" / "model" / "mine.yaml").write_text(text)
    return str(tmp_path / "own")


@pytest.mark.parametrize("command", BY_COMMAND)
def test_help(command: str, call: Call, tmp_path: Path) -> None:
    ended = call(command, "--help")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.startswith(f"python -m mnv2_lightning.{command} [key=value ...]")
    assert "\x1b" not in ended.out
    assert max(map(len, ended.out.splitlines())) <= 100
    assert "traceback=false" in ended.out
    assert list(tmp_path.iterdir()) == []


def test_help_shows_keys_with_type_and_meaning(call: Call, tmp_path: Path) -> None:
    def line(key: str, *args: str) -> str:
        """The text on a key, on one line."""
        out = " ".join(call("train", *args, "--help").out.split())
        return re.findall(rf" ({re.escape(key)}=.*?) [a-z][\w.]+=", out)[-1]  # after the examples

    meaning = "highest learning rate of the schedule (number > 0)"
    assert line("optimizer.lr") == f"optimizer.lr=0.2 {meaning}"
    assert line("optimizer.lr", "optimizer.lr=3").startswith("optimizer.lr=3 ")
    assert line("data.crop", "experiment=fast").startswith("data.crop=24 ")
    assert line("model.stem_stride", "model=mobilenet_v1").endswith("first convolution (1|2)")
    assert line("data.val_size").endswith("(integer >= 0)")
    assert line("trainer.fast_dev_run").endswith("(true|false or integer >= 0)")
    assert line("resume").endswith("(text or null)")
    own = ("--config-dir", own_model(tmp_path), "model=mine")
    assert line("model.width", *own) == "model.width=16 of all layers"
    ended = call("train", *own, "-h")
    assert re.search(r"\n  \* mine +A net of mine\n", ended.out)
    assert re.search(r"\n    mobilenet_v2_small +A small MobileNetV2", ended.out)
    assert "model.stem_channels" not in ended.out


def test_hydras_own_help(call: Call) -> None:
    ended = call("train", "--hydra-help")
    assert (ended.status, ended.err) == (0, "")
    assert "hydra.run.dir" in ended.out or "Hydra" in ended.out


@pytest.mark.parametrize("command", BY_COMMAND)
def test_every_key_that_help_shows_has_a_type(command: str) -> None:
    config = conf_files.load(command)
    types = help_text.permitted(command, config)
    shown = {name for name, key in config.root.dotted() if key.comment and key.keys is None}
    free = {name for name in shown if name.startswith("search.")}  # a space, Optuna's arguments
    assert shown - free <= set(types)


@pytest.mark.parametrize(
    "typed",
    [
        *(f"train experiment={p.stem}" for p in (config_dir() / "experiment").glob("*.yaml")),
        *(f"train model={p.stem}" for p in (config_dir() / "model").glob("*.yaml")),
        "train callbacks=[default,ema] optimizer=adamw data=fashion_mnist",
        "train experiment=tutorial_v1 model=mobilenet_v2 optimizer.lr=3 logger=[]",
        "search search/sampler=random search/pruner=none",
        *(command for command in BY_COMMAND if command not in ("train", "search")),
    ],
)
def test_the_files_are_merged_as_hydra_does(typed: str) -> None:
    command, *overrides = typed.split()
    config = conf_files.load(command, overrides)
    with hydra_compat.initialize(str(config_dir())):
        expected: Any = OmegaConf.to_container(compose(command, overrides))
    leaves = {name: key for name, key in config.root.dotted() if key.keys is None}
    for name, key in leaves.items():
        value = expected
        for part in name.split("."):
            value = value[part]
        if not isinstance(value, list | dict):
            assert yaml.safe_load(key.text) == value, name

    def count(node: Any) -> int:
        if not isinstance(node, dict) or {"low", "choices"} & node.keys():
            return 1
        return sum(count(value) for key, value in node.items() if not key.startswith("_"))

    assert len(leaves) == count(expected)


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_answers_without_hydra(option: str, tmp_path: Path) -> None:
    code = (
        "import sys; from importlib import import_module\n"
        f"for name in {list(BY_COMMAND)}:\n"
        f"    sys.argv = [name, '{option}']\n"
        "    assert import_module(f'mnv2_lightning.{name}').COMMAND.run() == 0\n"
        f"sys.exit(str(set({HEAVY}) & set(sys.modules)) if set({HEAVY}) & set(sys.modules) else 0)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_version(call: Call) -> None:
    ended = call("train", "--version")
    assert ended.status == 0
    packages = [f"{n} {version(n)}" for n in ("mnv2_lightning", "torch", "lightning", "hydra-core")]
    assert ended.out.startswith(", ".join([*packages, f"Python {sys.version_info.major}."]))
    assert ended.out.count("\n") == 1


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("option", ["--help", "--cfg all", "--hydra-help"])
def test_a_reader_that_ends(option: str, tmp_path: Path) -> None:
    line = f"'{sys.executable}' -m mnv2_lightning.train {option} | head -1; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.stderr == ""
    assert ended.returncode in (0, 141)
    assert ended.stdout.count("\n") == 1


def test_a_closed_pipe(monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        ended = call("train", "--help")
    assert (ended.status, ended.err) == (141, "")


def test_list_of_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for typed in ([], ["--help"], ["-h"]):
        assert commands.main(typed) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines[1 : 1 + len(BY_COMMAND)]] == sorted(BY_COMMAND)
        assert "  train          Trains a network and tests it" in lines
        assert max(map(len, lines)) <= 100
    assert commands.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("mnv2_lightning ")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("train", "train: type python -m mnv2_lightning.train"),
        ("relu-collapse", "relu-collapse: type python -m mnv2_lightning.relu_collapse"),
        ("trian", "trian: there is no such command; did you mean train?"),
        ("xyz", "xyz: there is no such command"),
    ],
)
def test_a_command_in_place_of_the_list(
    typed: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main([typed, "seed=1"]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("exp", ["experiment="]),
        ("model", ["model.", "model="]),
        ("+experiment=tutorial_", ["+experiment=tutorial_fast ", "+experiment=tutorial_v1 "]),
        ("model.wid", ["model.width_mult="]),
        ("model=mobilenet_v1 model.stem_", ["model.stem_channels=", "model.stem_stride="]),
        ("model=nothing model.stem_k", ["model.stem_kernel="]),
        ("model.shortcut=", [f"model.shortcut={x} " for x in ("identity", "none", "projection")]),
        ("trainer.precision=b", [f"trainer.precision={x} " for x in ("bf16-mixed", "bf16-true")]),
        ("data.augment.s", ["data.augment.scale=", "data.augment.shear="]),
        ("callbacks=[default,em", ["callbacks=[default,ema]"]),
        ("optimizer=s", ["optimizer=sgd ", "optimizer=sgd_tutorial "]),
        ("-m optimizer=sgd,ad", ["optimizer=sgd,adamw"]),
        ("--hel", ["--help "]),
        ("--config-d", ["--config-dir="]),
        ("--cfg j", ["job "]),
        ("resume=ru", ["resume=runs/"]),
        ("resume=runs/", ["resume=runs/a b/", "resume=runs/c/"]),
        ("hydra.run.dir=./ru", ["hydra.run.dir=./runs/"]),
        ("--config-dir=o", ["--config-dir=own/"]),
        ("--config-dir o", ["own/"]),
        ("--config-dir own model=mi", ["model=mine "]),
        ("--config-dir=own model=mine model.", ["model.width="]),
        ("optimizer.lr=", []),
        ("xyz", []),
        ("images=", ["images=own/", "images=runs/", "images=scan.png"]),
        ("images=[runs/c/,s", ["images=[runs/c/,scan.png"]),
        ("onnx=./sc", ["onnx=./scan.png"]),
        ("resume=s", []),
    ],
)  # fmt: skip
def test_completion(
    line: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_model(tmp_path)
    for name in ("a b", "c"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "scan.png").touch()
    monkeypatch.chdir(tmp_path)
    *before, word = line.split(" ")
    assert completion.complete("train", before, word) == expected


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("mnv2-train model=mobilenet_v1 model.stem_s", "model.stem_stride="),
        ("mnv2-train experiment=acc", "accurate "),  # bash sees the word after the =
        ("mnv2-train 'callbacks=[default,em", "callbacks=[default,ema]"),
        ("mnv2-evaluate run_dir=run", "runs\\ of\\ mine/"),
        ("mnv2-train xyz", None),
    ],
)
def test_completion_in_bash(typed: str, expected: str | None, tmp_path: Path) -> None:
    (tmp_path / "runs of mine").mkdir()
    (tmp_path / "bin").mkdir()
    for name in ("train", "evaluate"):
        script = tmp_path / "bin" / f"mnv2-{name}"
        script.write_text(f"#!/bin/sh\nexec '{sys.executable}' -m mnv2_lightning.{name} \"$@\"\n")
        script.chmod(0o755)
    code = (
        'eval "$(mnv2-train -sc install=bash)"\n'
        "COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDS=($1)\n"
        "$(complete -p ${COMP_WORDS[0]} | sed 's/.*-F \\([^ ]*\\) .*/\\1/')\n"
        "printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    ended = subprocess.run(
        ["bash", "-c", code, "bash", typed],
        cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.stderr == ""
    assert ended.stdout == f"{expected or ''}\n"
