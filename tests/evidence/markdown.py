"""What the pages share: reading records, and Markdown."""

import json
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from mnv2_lightning.reports.sections import markdown_table

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "outputs" / "records"

Record = dict[str, Any]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def runs(folder: Path) -> list[Record]:
    """Every run below `folder`, by name; all finished."""
    found = [read(path) for path in sorted(folder.rglob("result.json"))]
    assert {run["status"] for run in found} == {"finished"}, folder
    return found


def page(title: str, *blocks: str) -> str:
    source = "<!-- Written by `make evidence` from the records; its text is in tests/evidence/. -->"
    return "\n\n".join([f"# {title}", source, *blocks]) + "\n"


def prose(text: str) -> str:
    """A paragraph, or a list of items that begin with `- `, in lines of at most 110 columns."""
    first, *items = re.split(r"^ *- ", text.strip(), flags=re.MULTILINE)
    parts = [(first, ""), *((item, "- ") for item in items)]
    return "\n".join(wrapped(part, begin) for part, begin in parts if part)


def wrapped(text: str, begin: str) -> str:
    return textwrap.fill(
        " ".join(text.split()),
        110,
        initial_indent=begin,
        subsequent_indent=" " * len(begin),
        break_long_words=False,
        break_on_hyphens=False,
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_table(head, rows)


def command(*lines: str) -> str:
    """A shell block of one command; all lines but the first are indented."""
    return "```bash\n" + " \\\n    ".join(lines) + "\n```"


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Mean and standard deviation."""
    return f"{mean(values):{form}} ± {stdev(values):{form}}"


def measured_on(records: Sequence[Record]) -> str:
    """Hardware, versions and commits, a sentence for each machine."""
    machines: dict[tuple[str, str], dict[str, set[str]]] = {}
    for record in records:
        machine, versions = record["hardware"], record["versions"]
        where = f"{machine['cpu']}, {machine['cores']} cores, {machine['simd']}"
        stack = ", ".join(
            f"{name.capitalize() if name == 'python' else name} {versions[name]}"
            for name in ("python", "torch", "lightning")
        )
        found = machines.setdefault((where, stack), {"threads": set(), "commits": set()})
        found["threads"].add(str(machine["threads"]))
        found["commits"].add(record["git_commit"][:7])
    return " ".join(
        f"Measured on {where}, threads per process: {' or '.join(sorted(found['threads']))}; "
        f"{stack}; commit {', '.join(sorted(found['commits']))}."
        for (where, stack), found in machines.items()
    )
