"""What is installed: floors that matter for safety, and pins that meet them."""

import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PINS = [
    Requirement(line)
    for line in (ROOT / ".ci/constraints.txt").read_text().splitlines()
    if not line.startswith("#")
]
PROJECT = (ROOT / "pyproject.toml").read_text()
NEEDS = [
    Requirement(line)
    for line in re.findall(r'^    "([\w-]+(?:\[.*\])?[<>=][^"]*)",', PROJECT, re.M)
]
(RANGE,) = re.findall(r'^requires-python = "(.*)"', PROJECT, re.M)
PYTHONS = [f"3.{minor}" for minor in range(30) if f"3.{minor}" in SpecifierSet(RANGE)]
# The newest version that must not be installed, and the oldest that may.
FLOORS = {
    "lightning": ("2.6.5", "2.6.6"),  # 2.6.2 and 2.6.3 were malware; before 2.6.6 code could run
    "torch": ("2.9.1", "2.10"),
    "hydra-core": ("1.3.7", "1.3.8"),
    "pillow": ("12.2.0", "12.3"),
}


def on(python: str, requirements: list[Requirement]) -> dict[str, SpecifierSet]:
    """The versions that this Python gets, by name."""
    return {
        canonicalize_name(needed.name): needed.specifier
        for needed in requirements
        if needed.marker is None or needed.marker.evaluate({"python_version": python})
    }


@pytest.mark.parametrize("name", FLOORS)
def test_floors(name: str) -> None:
    too_old, oldest = FLOORS[name]
    assert oldest in on(PYTHONS[0], NEEDS)[name]
    for python in PYTHONS:
        assert too_old not in on(python, NEEDS)[name]


@pytest.mark.parametrize("python", PYTHONS)
def test_pins_meet_what_the_project_needs(python: str) -> None:
    needs, pins = on(python, NEEDS), on(python, PINS)
    assert len(needs) > 15
    for name in needs.keys() & pins:
        (pin,) = pins[name]
        assert pin.version in needs[name], name
    assert {"torch", "lightning", "hydra-core", "omegaconf"} <= pins.keys()


def test_workflow() -> None:
    """Each Python of pyproject.toml; the commands of the README and the Makefile."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert job["strategy"]["matrix"]["python"] == PYTHONS
    lines = [line for step in job["steps"] for line in step.get("run", "").splitlines()]
    makefile, readme = ((ROOT / name).read_text("utf-8") for name in ("Makefile", "README.md"))
    for target in re.findall(r"^make ([\w-]+)", "\n".join(lines), re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target
    (block,) = re.findall(r"Without\s+make:\n\n```bash\n(.*?)```", readme, re.S)
    commands = [line for line in block.splitlines() if not line.startswith(". ")]
    commands += re.findall(r"# Windows: (.*)", block)
    commands += re.findall(r"^test:.*\n.*\$\(BIN\)/(python .*) \$\(ARGS\)", makefile, re.M)
    assert len(commands) == 5
    assert set(commands) <= set(lines)


def test_pins_name_no_host() -> None:
    for path in (ROOT / ".ci").iterdir():
        for line in path.read_text().splitlines():
            assert "://" not in line, path
            assert not line.lstrip().startswith(("-i", "-f", "--")), path
