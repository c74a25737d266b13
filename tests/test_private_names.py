"""Other libraries by their public names only: no leading underscore, no `_internal` in the path."""

import ast
from pathlib import Path

import mnv2_lightning

PACKAGE = Path(mnv2_lightning.__file__).parent
# Each has a comment at its place that says why, with the upstream issue.
ALLOWED = {("build.py", "_signal_connector"), ("build.py", "_sigterm_notifier_fn")}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("_") and name != "_exit"  # of os


def private_names(code: str) -> set[str]:
    """Imports and attributes of objects other than `self` with a private name."""
    tree, found = ast.parse(code), set()
    ours = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and is_private(node.name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [name for alias in node.names for name in alias.name.split(".")]
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls"):
            names = [node.attr]
        else:
            continue
        found |= {name for name in names if is_private(name)} - ours
    return found


def test_private_names() -> None:
    found = {
        (str(path.relative_to(PACKAGE)), name)
        for path in PACKAGE.rglob("*.py")
        for name in private_names(path.read_text())
    }
    assert found == ALLOWED


def test_they_are_found() -> None:
    code = "import a._internal.b\nfrom c import _d\nx._e()\nself._f\nfrom __future__ import g"
    assert private_names(code) == {"_internal", "_d", "_e"}
