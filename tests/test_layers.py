"""Imports point down only."""

import ast
from pathlib import Path

import mnv2_lightning
from mnv2_lightning.schema.models import BY_COMMAND

PACKAGE = Path(mnv2_lightning.__file__).parent


def imports(path: Path) -> set[str]:
    """Our own modules that a file imports, wherever in it, but for type checking alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mnv2_lightning"):
            module = node.module or ""
            found |= {module} if module != "mnv2_lightning" else {
                f"mnv2_lightning.{alias.name}" for alias in node.names
            }  # fmt: skip
    return {name.removeprefix("mnv2_lightning.").split(".")[0] for name in found}


# Each part may import itself and those below it.
BELOW: dict[str, set[str]] = {
    "schema": {"data", "networks"},  # sets.py and strides.py, which have no torch
    "system": {"schema"},
    "networks": set(),
    "reports": {"runs", "schema"},
    "schedules": set(),
    "__main__": {"cli", "schema"},
    "data": {"images", "schema", "system"},
    "classifier": {"data"},
    "callbacks": {"classifier", "reports", "runs", "schema", "system"},
    "runs": {"data", "schema", "system"},
    "build": {"callbacks", "classifier", "data", "instantiate", "runs", "schema", "system"},
    "cli": {"build", "data", "runs", "schema", "system"},
    "instantiate": {"runs", "schema", "system"},
    "images": {"schema"},
    "robustness": {"data", "schema"},
    "trained": {"data", "images", "instantiate", "networks", "runs", "schema"},
    "predictors": {"formats", "schema", "trained"},
    "sweeps": {"cli", "reports", "runs", "schema", "system"},
    "formats": {"schema", "system", "trained"},
    "benchmarks": {
        *("build", "cli", "data", "export", "formats", "networks", "runs", "schema", "system"),
        *("train", "trained"),
    },
}
COMMANDS = {command: {*BELOW, "train"} for command in BY_COMMAND}
COMMANDS["compare"].add("report")  # for the same folders


def test_imports_point_down() -> None:
    allowed = BELOW | COMMANDS
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part not in ("__init__", "conf"):
            assert imports(path) <= allowed[part] | {part}, path
