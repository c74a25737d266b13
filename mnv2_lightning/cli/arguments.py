"""The arguments of a command, checked before Hydra parses them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from mnv2_lightning.cli import conf_files
from mnv2_lightning.schema.errors import ConfigError
from mnv2_lightning.schema.nearest import nearest

# Hydra's options and their short names; argparse accepts beginnings of the long ones.
WITH_VALUE = {
    "--cfg": "-c",
    "--package": "-p",
    "--config-path": "-cp",
    "--config-name": "-cn",
    "--config-dir": "-cd",
    "--experimental-rerun": "",
}
INFO = {"--info": "-i"}  # the value may be left out
FLAGS = {
    "--help": "-h",
    "--hydra-help": "",
    "--version": "",
    "--resolve": "",
    "--run": "-r",
    "--multirun": "-m",
    "--shell-completion": "-sc",
}
OPTIONS = WITH_VALUE | INFO | FLAGS
FOLDER_KEYS = {
    "train": "resume",
    "activations": "run_dir",
    "evaluate": "run_dir",
    "export": "run_dir",
    "predict": "run_dir",
    "report": "run_dir",
    "compare": "run_dir",
}
TAKES_CHECKPOINT = ("activations", "evaluate", "export", "predict")
QUOTES = "'\""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message.removeprefix("argument "))


def parse(command: str, arguments: Sequence[str]) -> argparse.Namespace:
    """Hydra's options, and as lists `overrides` and `options`. ConfigError."""
    overrides, options = split(arguments)
    for option in options:
        if option.startswith("-") and option != "--" and not _is_option(option):
            raise ConfigError(_unknown_option(command, option, overrides))
    parser = _Parser(add_help=False)
    for name, short in OPTIONS.items():
        names = [name, short] if short else [name]
        if name in FLAGS:
            parser.add_argument(*names, action="store_true")
        else:
            choices = ["job", "hydra", "all"] if name == "--cfg" else None
            parser.add_argument(*names, choices=choices, nargs="?" if name in INFO else None)
    parsed = parser.parse_args([option for option in options if option != "--"])
    parsed.options = options
    parsed.overrides = [_without_null(override) for override in overrides]
    if parsed.config_dir is not None and not Path(parsed.config_dir).is_dir():
        raise ConfigError(
            f"--config-dir={parsed.config_dir}: there is no such folder; make it, with files such "
            f"as {Path(parsed.config_dir, 'model', 'NAME.yaml')}"
        )
    if not parsed.shell_completion:
        for number, override in enumerate(overrides):
            _check_override(command, overrides, number)
            _check_folder(command, override)
    return parsed


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The overrides, and the options with their values."""
    overrides: list[str] = []
    options: list[str] = []
    left = list(arguments)
    while left:
        argument = left.pop(0)
        is_option = argument.startswith("-")
        (options if is_option else overrides).append(argument)
        if is_option and left and _takes(argument, left[0]):
            options.append(left.pop(0))
    return overrides, options


def _takes(option: str, following: str) -> bool:
    """Whether the argument that follows an option is its value."""
    if option == "--":
        return False
    if any(name.startswith(option) for names in INFO.items() for name in names):
        return "=" not in following and not following.startswith(("-", "~"))
    return any(name.startswith(option) for names in WITH_VALUE.items() for name in names)


def _is_option(option: str) -> bool:
    name = option.partition("=")[0]
    is_beginning = name.startswith("--") and any(long.startswith(name) for long in OPTIONS)
    return is_beginning or name in (*OPTIONS, *OPTIONS.values())


def _without_null(argument: str) -> str:
    """`logger=[]` for `logger=null`, which Hydra refuses for a folder of `conf/`."""
    key, _, value = argument.partition("=")
    is_null = value == "null" and bool(key) and (conf_files.config_dir() / key).is_dir()
    return f"{key}=[]" if is_null else argument


def _keys(command: str) -> list[str]:
    return [name for name, _ in conf_files.load(command).root.dotted()]


def _unknown_option(command: str, option: str, overrides: Sequence[str]) -> str:
    name, _, value = option.partition("=")
    if near := get_close_matches(name, OPTIONS, 1, 0.75):
        return f"{name}: unknown option; did you mean {near[0]}?"
    if not value:
        value = next((word for word in overrides if "=" not in word), "VALUE")
    key = nearest(name.lstrip("-").replace("-", "_"), _keys(command))
    example = f", such as {key}={value}" if key else "; --help lists the keys"
    return f"{name}: unknown option; values are set by key=value{example}"


def _check_override(command: str, overrides: Sequence[str], number: int) -> None:
    """ConfigError: it is not key=value."""
    word = overrides[number]
    key, has_value, _ = word.partition("=")
    if not word:
        raise ConfigError("an argument is empty (is a variable of the shell not set?)")
    if word == "~experiment":
        raise ConfigError("~experiment: cannot be left out; experiment=default changes nothing")
    if word.startswith("~"):
        return
    if has_value and key:
        if key[:1] == "+" and key[1:] in conf_files.load(command).chosen:
            raise ConfigError(f"{word}: the config has a file of {key[1:]}; type {word[1:]}")
        return
    before = overrides[number - 1] if number else ""
    after = [*overrides[number + 1 :], "", ""][:2]
    if after[0].startswith("="):
        joined = word + after[0] + (after[1] if after[0] == "=" else "")
        raise ConfigError(f"{word}: write it without spaces: {joined}")
    if before.endswith("="):
        raise ConfigError(f"{word}: write it without spaces: {before}{word}")
    if is_open(before):
        raise ConfigError(f"{word}: a value with spaces needs quotes: '{before} {word}'")
    meant = _meant(command, word, after[0])
    raise ConfigError(f"{word}: not key=value{f'; did you mean {meant}?' if meant else ''}")


def _meant(command: str, word: str, following: str) -> str:
    """The override that a word stands for, or ""."""
    config = conf_files.load(command)
    keys = [name for name, _ in config.root.dotted()]
    key, _, value = word.partition(":")
    if key in keys:
        value = value.strip()
        return f"{key}={value or (following if '=' not in following else '') or 'VALUE'}"
    for group in config.about:
        if word in config.choices(group):
            return f"{group}={word}"
    is_path = any(mark in word for mark in "/\\") or Path(word).exists()
    if command == "predict" and Path(word).is_file():
        return f"{'onnx' if word.endswith('.onnx') else 'images'}={word}"
    if command in FOLDER_KEYS and (is_path or command != "train"):
        return f"{FOLDER_KEYS[command]}={word}"
    near = nearest(word, keys)
    return f"{near}=VALUE" if near else ""


def is_open(text: str) -> bool:
    """Whether a bracket or a quote of the text is not closed."""
    pairs = (("[", "]"), ("{", "}"), ("(", ")"))
    return any(text.count(a) > text.count(b) for a, b in pairs) or any(
        text.count(quote) % 2 for quote in QUOTES
    )


def _check_folder(command: str, override: str) -> None:
    """ConfigError: a file where the folder of a run is expected; the message names the run."""
    key, _, value = override.partition("=")
    path = Path(value.strip(QUOTES))
    is_run = (path / "config.yaml").is_file()
    if key != FOLDER_KEYS.get(command) or is_run or not path.exists():
        return
    runs = [folder for folder in list(path.parents)[:2] if (folder / "config.yaml").is_file()]
    if path.is_dir() and not runs:  # such as that of a sweep
        return
    if not runs:
        raise ConfigError(f"{override}: is a file, and not in the folder of a run")
    checkpoint = f" checkpoint={path.stem}" if path.suffix == ".ckpt" else ""
    remedy = f"{key}={runs[0]}{checkpoint if command in TAKES_CHECKPOINT else ''}"
    raise ConfigError(f"{override}: lies in the folder of a run; type {remedy}")
