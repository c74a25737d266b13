"""What is installed: floors that matter for safety, and pins that meet them."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / ".ci/constraints.txt").read_text(), re.M))
PROJECT = (ROOT / "pyproject.toml").read_text()
NEEDS = [
    Requirement(line)
    for line in re.findall(r'^    "([\w-]+(?:\[.*\])?[<>=][^"]*)",', PROJECT, re.M)
]
# The newest version that must not be installed, and the oldest that may.
FLOORS = {
    "lightning": ("2.6.5", "2.6.6"),  # 2.6.2 and 2.6.3 were malware; before 2.6.6 code could run
    "torch": ("2.9.1", "2.10"),
    "hydra-core": ("1.3.7", "1.3.8"),
    "pillow": ("12.2.0", "12.3"),
}


@pytest.mark.parametrize("name", FLOORS)
def test_floors(name: str) -> None:
    (need,) = (need for need in NEEDS if need.name == name)
    too_old, oldest = FLOORS[name]
    assert too_old not in need.specifier
    assert oldest in need.specifier


def test_pins_meet_what_the_project_needs() -> None:
    pins = {name.lower().replace("_", "-"): version for name, version in PINS.items()}
    assert len(NEEDS) > 15
    for need in NEEDS:
        assert Version(pins[need.name.lower()]) in need.specifier, need.name


def test_pins_name_no_host() -> None:
    for path in (ROOT / ".ci").iterdir():
        for line in path.read_text().splitlines():
            assert "://" not in line, path
            assert not line.lstrip().startswith(("-i", "-f", "--")), path
