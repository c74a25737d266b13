"""Completion in bash: options, keys, files of groups, permitted values, folders, image files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from mnv2_lightning.cli import arguments, conf_files, help_text
from mnv2_lightning.cli.conf_files import Config
from mnv2_lightning.schema.errors import ConfigError
from mnv2_lightning.schema.models import BY_COMMAND

SCRIPT = """\
_mnv2() {
    local word
    COMPREPLY=()
    while IFS= read -r word; do
        [ -n "$word" ] && COMPREPLY+=("$word")
    done < <(COMP_LINE=$COMP_LINE COMP_POINT=$COMP_POINT COMP_WORDBREAKS=$COMP_WORDBREAKS \\
        "${COMP_WORDS[0]}" -sc query=bash 2>/dev/null)
}
complete -o nospace -F _mnv2 """ + " ".join(f"mnv2-{name.replace('_', '-')}" for name in BY_COMMAND)
FOLDERS = (  # keys whose value is a folder
    *(
        "model.weights",
        "resume",
        "run_dir",
        "runs",
        "out",
        "data.dir",
        "hydra.run.dir",
        "hydra.sweep.dir",
    ),
    *("--config-dir", "-cd", "--config-path", "-cp"),
)
FILES = ("images", "onnx")  # keys whose value is a file
EARLIER = re.compile(r"\[?(?:[^,]*,)*")  # the bracket and values before the last of a list
OF_HYDRA = ("hydra.run.dir=", "hydra.sweep.dir=", "hydra/launcher=")
LAUNCHERS = ("basic", "joblib", "ray", "submitit_local", "submitit_slurm")


def replies(command: str) -> list[str]:
    """What may follow the cursor in `$COMP_LINE`, in place of the word that bash sees there."""
    line = os.environ.get("COMP_LINE", "")
    line = line[: int(os.environ.get("COMP_POINT", len(line)))]
    *before, word = re.split(r"\s+", line)
    quote = word[:1] if word[:1] in ("'", '"') else ""
    found = complete(command, before[1:], word.removeprefix(quote))
    if quote:
        return found
    breaks = os.environ.get("COMP_WORDBREAKS", "=:")
    cut = max((word.rfind(mark) + 1 for mark in "=:" if mark in breaks), default=0)
    spaces = [text.rstrip().count(" ") for text in found]  # those within a word
    return [text[cut:].replace(" ", "\\ ", n) for text, n in zip(found, spaces, strict=True)]


def complete(command: str, before: list[str], word: str) -> list[str]:
    """The words that begin with `word`, after the words `before`; a space ends a whole one."""
    previous = before[-1] if before else ""
    if previous in ("--cfg", "-c"):
        return _starting(word, [f"{name} " for name in ("job", "hydra", "all")])
    if previous in FOLDERS:
        return _folders("", word)
    key, has_value, value = word.partition("=")
    if has_value and key in FOLDERS:
        return _folders(f"{key}=", value)
    if has_value and key in FILES:
        return _folders(f"{key}=", value, with_files=True)
    if word.startswith("-") and not has_value:
        ends = dict.fromkeys(arguments.WITH_VALUE, "=")
        return _starting(word, [f"{o}{ends.get(o, ' ')}" for o in arguments.OPTIONS])
    config = _config(command, before)
    name = key.lstrip("+~")
    found = _values(command, config, name, value) if has_value else _keys(config, name)
    return [f"{key.removesuffix(name)}{text}" for text in found]


def _config(command: str, before: list[str]) -> Config:
    """The config with the words before; without them if they are wrong."""
    overrides, options = arguments.split([word.strip("'\"") for word in before])
    names = ("--config-dir", "-cd")
    pairs = [option.partition("=")[::2] for option in options]
    after = zip(pairs, [*options[1:], ""], strict=False)
    folder = next((value or following for (name, value), following in after if name in names), None)
    try:
        return conf_files.load(command, [o for o in overrides if "=" in o], folder)
    except ConfigError:
        return conf_files.load(command)


def _keys(config: Config, word: str) -> list[str]:
    """Groups as `model=`, groups of keys as `model.`, keys as `seed=`; one level at a time."""
    depth = word.count(".")
    found = [f"{group}=" for group in config.about] + list(OF_HYDRA)
    for name, key in config.root.dotted():
        if name.count(".") == depth:
            found.append(f"{name}." if key.keys else f"{name}=")
    return _starting(word, found)


def _values(command: str, config: Config, key: str, value: str) -> list[str]:
    if key == "hydra/launcher":
        return [f"{key}={name}" for name in _starting(value, [f"{x} " for x in LAUNCHERS])]
    if key in config.about:
        head = EARLIER.match(value)
        start, names = head[0] if head else "", config.choices(key)
        end = "]" if start.startswith("[") else "" if start else " "
        return [f"{key}={start}{name}{end}" for name in _starting(value[len(start) :], names)]
    schema = help_text.permitted(command, config).get(key, {})
    names = help_text.values(schema)
    return [f"{key}={name} " for name in _starting(value, names)]


def _folders(start: str, text: str, *, with_files: bool = False) -> list[str]:
    """The folders whose path begins with `text`, after an opening bracket or a comma if any; also
    the files, by option.
    """
    earlier = EARLIER.match(text)
    start += earlier[0] if earlier else ""
    path = text[len(earlier[0]) if earlier else 0 :]
    parent, _, name = path.rpartition("/")
    base = Path(parent or ("/" if path.startswith("/") else "."))
    found = [p for p in base.glob("*") if p.name.startswith(name) and (with_files or p.is_dir())]
    shown = [p for p in sorted(found) if name.startswith(".") or not p.name.startswith(".")]
    head = f"{start}{path[: len(path) - len(name)]}"
    return [f"{head}{p.name}/" if p.is_dir() else f"{head}{p.name}" for p in shown]


def _starting(word: str, names: Iterable[str]) -> list[str]:
    return sorted({name for name in names if name.startswith(word)})
