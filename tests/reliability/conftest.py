"""The long versions of what is promised, and the record that `make test-crash` writes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mnv2_lightning.runs.environment import environment


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reliability", metavar="FILE", help="the long versions, recorded in FILE")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Faults are injected by `make test-slow`, so that `make test` takes minutes."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


FAILED: list[str] = []  # tests of this session


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        FAILED.append(report.nodeid)


class Reliability:
    """How often to try, and what came of it."""

    def __init__(self, path: str | None) -> None:
        self.path = Path(path) if path else None
        self.found: dict[str, Any] = {}

    def rounds(self, few: int, many: int) -> int:
        """`many` in the long versions."""
        return many if self.path else few

    def note(self, name: str, **found: Any) -> None:
        self.found[name] = found


@pytest.fixture(scope="session")
def reliability(request: pytest.FixtureRequest) -> Iterator[Reliability]:
    made = Reliability(request.config.getoption("--reliability"))
    yield made
    if made.path:
        made.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**environment(), "failed": FAILED, "cases": made.found}, indent=2)
        made.path.write_text(text + "\n")
