"""The files of `conf/` and their comments, read without Hydra for help and completion."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mnv2_lightning.schema.errors import ConfigError
from mnv2_lightning.schema.nearest import no_such_choice

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast where it was built
GLOBAL = "@package _global_"


def config_dir() -> Path:
    """`conf/`: inside the package where it was installed from a wheel, else beside it."""
    package = Path(__file__).resolve().parents[1]
    return next(p for p in (package / "conf", package.parent / "conf") if p.is_dir())


@dataclass
class Key:
    """A key of a config: the text of its value or the keys below it, and the comment beside it."""

    text: str
    comment: str
    keys: dict[str, Key] | None = None

    def merge(self, other: Key) -> None:
        """Take the value of `other`, and its comment if it has one."""
        self.comment = other.comment or self.comment
        if self.keys is None or other.keys is None:
            self.text, self.keys = other.text, other.keys
            return
        for name, key in other.keys.items():
            if name in self.keys:
                self.keys[name].merge(key)
            else:
                self.keys[name] = key

    def at(self, path: str) -> Key | None:
        """The key at a dotted path below this one, or None."""
        found: Key | None = self
        for name in filter(None, path.split(".")):
            found = (found.keys or {}).get(name) if found is not None else None
        return found

    def dotted(self, prefix: str = "") -> Iterator[tuple[str, Key]]:
        """(dotted path, key) of all keys below this one, but those such as `_target_`."""
        for name, key in (self.keys or {}).items():
            if not name.startswith("_"):
                yield f"{prefix}{name}", key
                yield from key.dotted(f"{prefix}{name}.")


@dataclass
class File:
    """`defaults`: each entry and its comment. `is_global`: its keys are those of the root."""

    defaults: list[tuple[Any, str]]
    root: Key
    is_global: bool


def header(path: Path) -> list[str]:
    """The comment lines at the beginning of a file."""
    with path.open(encoding="utf-8") as stream:
        lines = itertools.takewhile(lambda line: line.startswith("#"), stream)
        return [line.lstrip("# ").rstrip() for line in lines]


def read(path: Path) -> File:
    """ConfigError: it is no YAML file of keys."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    loader = Loader(text)
    try:
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{path}: must hold keys and values")
        root = _key(node, "", lines, loader)
        nodes = [value for key, value in node.value if key.value == "defaults"]
        entries = [entry for value in nodes for entry in value.value]
        defaults = [
            (loader.construct_object(entry, deep=True), _comment(entry, lines)) for entry in entries
        ]
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    finally:
        loader.dispose()
    (root.keys or {}).pop("defaults", None)
    return File(defaults, root, GLOBAL in header(path))


def _key(node: yaml.Node, comment: str, lines: list[str], loader: Any) -> Key:
    if isinstance(node, yaml.MappingNode) and not (node.flow_style and node.value):
        keys = {}
        for name, value in node.value:
            is_block = isinstance(value, yaml.CollectionNode) and not value.flow_style
            beside = _comment(name if is_block else value, lines)
            keys[str(name.value)] = _key(value, beside, lines, loader)
        return Key("", comment, keys)
    if isinstance(node, yaml.ScalarNode):
        text = lines[node.start_mark.line][node.start_mark.column : node.end_mark.column]
        return Key(text or "null", comment)
    value = loader.construct_object(node, deep=True)
    return Key(json.dumps(value, ensure_ascii=False).replace('"', ""), comment)


def _comment(node: yaml.Node, lines: list[str]) -> str:
    """The comment on the line on which the node ends."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style and node.value:
        node = node.value[-1][1]  # of an entry of `defaults`
    rest = lines[node.end_mark.line][node.end_mark.column :].lstrip(": ")
    return rest[1:].strip() if rest.startswith("#") else ""


@dataclass
class Config:
    """The config of a command: `root` has its keys, `chosen` the files of each group.

    `folders`: where files are searched for, `conf/` first. `about`: the comment of each group.
    """

    folders: list[Path]
    root: Key = field(default_factory=lambda: Key("", "", {}))
    chosen: dict[str, list[str]] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    files: dict[str, File] = field(default_factory=dict)

    def find(self, name: str) -> Path | None:
        return next((p for d in self.folders if (p := d / f"{name}.yaml").is_file()), None)

    def choices(self, group: str) -> list[str]:
        """The names of the files of a group."""
        return sorted({p.stem for d in self.folders for p in (d / group).glob("*.yaml")})

    def is_group(self, key: str) -> bool:
        return any((d / key).is_dir() for d in self.folders)

    def read(self, name: str) -> File:
        """ConfigError: there is no such file."""
        if name not in self.files:
            if (path := self.find(name)) is None:
                group, _, choice = name.rpartition("/")
                raise ConfigError(no_such_choice(group, choice, self.choices(group)))
            self.files[name] = read(path)
        return self.files[name]

    def header(self, name: str) -> list[str]:
        path = self.find(name)
        return [] if path is None else [h for h in header(path) if h != GLOBAL]

    def summary(self, name: str) -> str:
        """The first sentence of the header of a file."""
        return f"{' '.join(self.header(name))} ".partition(". ")[0].strip().removesuffix(".")

    def unknown_keys(self, overrides: Sequence[str]) -> list[str]:
        """The keys that `overrides` set and the config lacks."""
        pairs = [override.partition("=") for override in overrides if override[:1] not in "+~"]
        keys = [key for key, _, _ in pairs if not key.startswith("hydra")]
        return [key for key in keys if self.root.at(key) is None and not self.is_group(key)]

    def add(self, name: str, package: str = "") -> None:
        """Merge a file and the files of its defaults into `root`, in Hydra's order. ConfigError."""
        file = self.read(name)
        group = name.rpartition("/")[0]
        entries = file.defaults
        if "_self_" not in [entry for entry, _ in entries]:
            entries = [*entries, ("_self_", "")]
        for entry, comment in entries:
            if entry == "_self_":
                self._place("" if file.is_global else package).merge(file.root)
            elif isinstance(entry, str):
                self.add(f"{group}/{entry}".lstrip("/"), package)
            elif not (below := next(iter(entry))).startswith("override "):
                below = f"{group}/{below}".lstrip("/")
                self.about[below] = comment
                for choice in self.chosen.setdefault(below, _list(entry[next(iter(entry))])):
                    self.add(f"{below}/{choice}", below.replace("/", "."))

    def choose(self, name: str) -> None:
        """Note the `override /GROUP: FILE` entries of a file and its defaults in `chosen`."""
        if self.find(name) is None:
            return
        group = name.rpartition("/")[0]
        for entry, _ in self.read(name).defaults:
            if isinstance(entry, str) and entry != "_self_":
                self.choose(f"{group}/{entry}".lstrip("/"))
            elif isinstance(entry, dict):
                key, value = next(iter(entry.items()))
                if key.startswith("override /"):
                    self.chosen[key.removeprefix("override /")] = _list(value)
                elif not key.startswith("override "):
                    below = f"{group}/{key}".lstrip("/")
                    for choice in self.chosen.get(below, _list(value)):
                        self.choose(f"{below}/{choice}")

    def _place(self, package: str) -> Key:
        place = self.root
        for name in filter(None, package.split(".")):
            place.keys = {} if place.keys is None else place.keys
            place = place.keys.setdefault(name, Key("", "", {}))
        return place


def load(name: str, overrides: Sequence[str] = (), own: str | None = None) -> Config:
    """The config `name` with overrides; those of unknown keys are left out. ConfigError.

    `own`: the user's `--config-dir`.
    """
    config = Config([config_dir(), *([] if own is None else [Path(own)])])
    pairs = [override.lstrip("+").partition("=")[::2] for override in overrides]
    typed = {key: _list(value) for key, value in pairs if config.is_group(key)}
    typed |= {key[1:]: [] for key, _ in pairs if key[:1] == "~" and config.is_group(key[1:])}
    config.chosen |= typed
    config.choose(name)
    config.chosen |= typed
    config.add(name)
    (config.root.keys or {}).pop("hydra", None)
    for key, value in pairs:
        if key not in typed and (found := config.root.at(key)) is not None and key:
            found.text, found.keys = value, None
    return config


def _list(choice: Any) -> list[str]:
    """The files that a value of a group names: `a`, `[a,b]`, `null`; of a sweep the first."""
    if isinstance(choice, list):
        return [str(name) for name in choice]
    text = str(choice)
    if text.startswith("["):
        return [name.strip(" '\"") for name in text.strip("[]").split(",") if name.strip()]
    first = text.partition(",")[0].strip(" '\"")
    return [] if first in ("null", "None", "") else [first]
