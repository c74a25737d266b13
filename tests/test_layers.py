"""Imports point down only."""

import ast
from pathlib import Path

import mnv2_lightning
from mnv2_lightning.schema.tables import BY_VERB

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
    "files": {"schema"},
    "ranks": set(),
    "signals": {"ranks", "schema"},
    "scripts": {"signals", "supervisor"},
    "supervisor": {"files", "runs", "schema", "signals"},
    "networks": set(),
    "reports": set(),
    "schedules": set(),
    "affine": set(),
    "data": {"affine", "files", "schema"},
    "classifier": {"affine"},
    "runs": {"data", "files", "ranks", "schema", "signals"},
    "torchrun": {"files", "ranks", "runs", "schema", "signals"},
    "callbacks": {"classifier", "reports", "schema"},
    "build": {"callbacks", "classifier", "data", "runs", "schema"},
    "studies": {"files", "schema"},
    "sweep": {"command", "files", "reports", "runs", "schema"},
    "endings": {"files", "ranks", "schema", "signals"},
    "composition": {"endings", "runs", "schema"},
    "command": {
        *("composition", "endings", "files", "ranks", "runs", "schema", "signals", "supervisor"),
    },
    "preflight": {"build", "command", "data", "ranks", "runs", "schema"},
    "benchmarks": {"build", "composition", "data", "networks", "runs", "train"},
}
VERBS = {
    verb: {
        *("build", "callbacks", "command", "data", "files", "networks", "reports", "runs"),
        *("schema", "scripts"),
    }
    for verb in BY_VERB
}
VERBS["benchmark"] |= {"benchmarks", "train"}
VERBS["train"] |= {"classifier", "composition", "preflight", "ranks", "sweep", "torchrun"}
VERBS["search"] |= {"composition", "endings", "signals", "studies", "train"}


def test_imports_point_down() -> None:
    allowed = BELOW | VERBS
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part not in ("__init__", "conf"):
            assert imports(path) <= allowed[part] | {part}, path
