"""`--help` of a command: the comments of `conf/`, and what `schema/models.py` permits."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
from typing import Any

from mnv2_lightning.cli.conf_files import Config, Key
from mnv2_lightning.schema.models import BY_COMMAND, BY_TARGET

EXAMPLE = "Example: "  # beginning of a line in the header of a file
LEFT = 34  # columns of keys and their values
JOINED = "\xa0"  # a space at which no line ends
LONG = 60  # characters of a value
TYPES = {
    "string": "text",
    "array": "list",
    "object": "{...}",
}
LISTED: dict[str, list[Any]] = {"boolean": [True, False], "null": [None]}
OPTIONS = (
    ("-m, --multirun", "sweep: one job for each combination of values, such as seed=0,1,2"),
    ("--cfg job", "print the composed config and exit"),
    ("hydra.run.dir=DIR", "the folder to write into"),
    ("--version, --hydra-help", "versions; Hydra's own help"),
    ("completion in bash", 'eval "$(mnv2-train -sc install=bash)", for all commands'),
)
OF_GROUPS = (
    ("--config-dir=DIR", "a folder with files of your own for these groups"),
    ("model=NAME --help", "the keys of another file; the same for the other groups"),
)


def permitted(command: str, config: Config) -> dict[str, Any]:
    """The JSON schema of each key that `schema/models.py` knows."""
    found: dict[str, Any] = {}
    model = BY_COMMAND.get(command)
    if model is not None:
        schema = model.model_json_schema()
        _collect(config.root, schema, schema.get("$defs", {}), "", found)
    return found


def _collect(node: Key, schema: Any, defs: Any, prefix: str, found: dict[str, Any]) -> None:
    target = node.at("_target_")
    if target is not None:
        model = BY_TARGET.get(target.text)
        schema = model.model_json_schema() if model is not None else {}
        defs = schema.get("$defs", {})
    properties = schema.get("properties", {})
    for name, key in (node.keys or {}).items():
        below = properties.get(name, {})
        if key.keys is not None:
            options = [below, *below.get("anyOf", [])]
            refs = [o["$ref"].rpartition("/")[2] for o in options if "$ref" in o]
            _collect(key, defs[refs[0]] if refs else {}, defs, f"{prefix}{name}.", found)
        elif below:
            found[f"{prefix}{name}"] = below


def values(schema: Any) -> list[str]:
    """The values that a JSON schema lists; without those that only a type or a range permits."""
    if "anyOf" in schema:
        return [value for option in schema["anyOf"] for value in values(option)]
    listed = schema.get("enum") or LISTED.get(schema.get("type"), [])
    listed = [schema["const"]] if "const" in schema else listed
    return [v if isinstance(v, str) else json.dumps(v) for v in listed]


def describe(schema: Any) -> str:
    """The permitted values of a JSON schema, such as "integer in [0, 5]" or "a|b or null"."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(describe, schema["anyOf"])))
    if names := values(schema):
        return (", " if len("".join(names)) > LONG else "|").join(names)
    kind = schema.get("type", "object")
    if kind not in ("integer", "number"):
        return TYPES[kind]
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if kind == "integer" and below is not None:
        high, below = below - 1, None
    if high is None and below is None:
        bound = f" >= {low:g}" if low is not None else f" > {above:g}" if above is not None else ""
        return f"{kind}{bound}"
    start = f"[{low:.15g}" if low is not None else f"({above:.15g}"
    end = f"{high:.15g}]" if high is not None else f"{below:.15g})"
    return f"{kind} in {start}, {end}"


class _Page:
    """Lines of at most `width` columns; headings are bold on a terminal."""

    def __init__(self) -> None:
        is_terminal = sys.stdout.isatty()
        self.width = max(60, min(100, shutil.get_terminal_size((100, 24)).columns)) - 1
        is_bold = is_terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self.bold = "\x1b[1m{}\x1b[0m" if is_bold else "{}"
        self.lines: list[str] = []

    def heading(self, title: str, about: str = "") -> None:
        self.lines += ["", self.bold.format(title) + (f": {about}" if about else "")]

    def text(self, text: str, indent: int = 2) -> None:
        width = self.width - indent
        wrapped = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
        self.lines += [" " * indent + line.replace(JOINED, " ") for line in wrapped]

    def row(self, left: str, right: str) -> None:
        """Two columns; a long left one has a line of its own."""
        first = len(self.lines)
        self.text(right, LEFT + 2)
        if len(left) < LEFT - 1 and len(self.lines) > first:
            self.lines[first] = f"  {left:{LEFT}}{self.lines[first].lstrip()}"
        else:
            self.lines.insert(first, f"  {left}")


def text(command: str, config: Config) -> str:
    """The help on `command` with the files and values of `config`."""
    page = _Page()
    page.lines += [f"python -m mnv2_lightning.{command} [key=value ...] [option ...]", ""]
    page.text(f"{config.summary(command)}.", 0)
    page.text("Values are shown as the arguments set them; * marks the chosen files.", 0)
    page.heading("Examples")
    examples = [line for line in config.header(command) if line.startswith(EXAMPLE)]
    page.lines += [f"  {line.removeprefix(EXAMPLE)}" for line in examples]
    allowed = permitted(command, config)
    groups = [group for group in config.about if "/" not in group]
    for group in groups:
        is_choice = len(config.choices(group)) > 1
        page.heading(f"{group}=NAME" if is_choice else group, config.about[group])
        for below in (g for g in config.about if g.partition("/")[0] == group):
            if below != group:
                page.row(f"{below}=NAME", config.about[below])
            _files(page, config, below)
        _keys(page, config.root.at(group), f"{group}.", allowed)
    page.heading("Keys of the command" if groups else "Keys")
    own = {name: key for name, key in (config.root.keys or {}).items() if name not in groups}
    _keys(page, Key("", "", own), "", allowed)
    page.heading("Options")
    for left, right in (*(OF_GROUPS if groups else ()), *OPTIONS):
        page.row(left, right)
    return "\n".join(page.lines)


def _files(page: _Page, config: Config, group: str) -> None:
    """The files of a group; `*` marks those that are chosen, by default or by the overrides."""
    chosen, names = list(config.chosen[group]), config.choices(group)
    if "default" in chosen:  # such as that of callbacks, which includes others
        chosen += [str(entry) for entry, _ in config.read(f"{group}/default").defaults]
    if len(names) == 1:
        page.text(config.summary(f"{group}/{names[0]}"))
        return
    for name in names:
        mark = "*" if name in chosen else " "
        page.row(f"{mark} {name}", config.summary(f"{group}/{name}"))


def _keys(page: _Page, node: Key | None, prefix: str, allowed: dict[str, Any]) -> None:
    """The keys that have a comment, and in one line the names of the others."""
    others = []
    for name, key in node.dotted() if node is not None else ():
        path = f"{prefix}{name}"
        if key.keys is not None:
            if key.comment:
                page.row(f"{path}:", key.comment)
        elif key.comment:
            kind = describe(allowed[path]) if path in allowed else ""
            kind = kind.replace(" ", JOINED) if len(kind) < LEFT else kind
            page.row(f"{path}={_value(key.text)}", key.comment + (f" ({kind})" if kind else ""))
        elif "${" not in key.text:
            others.append(name)
    if others and prefix:
        page.text(f"also: {', '.join(others)}")


def _value(text: str) -> str:
    """The text of a value, cut; `${oc.env:NAME,default}` as it is in this environment."""
    if match := re.fullmatch(r"\$\{oc\.env:(\w+),(\w+)\}", text):
        return os.environ.get(match[1], match[2])
    if text == "???":
        return "VALUE"
    return text if len(text) <= LONG else f"{text[:LONG]}..."
