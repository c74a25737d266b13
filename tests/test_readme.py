"""What the README and the pages of evidence show is true: commands, files, targets, numbers."""

import re
import shlex
import shutil
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from mnv2_lightning import build
from mnv2_lightning.cli import checks
from mnv2_lightning.cli.command import Command, Job
from mnv2_lightning.networks import complexity
from tests import evidence
from tests import test_own_parts as own_parts
from tests.conftest import Configure, require_launcher
from tests.evidence import results, speed
from tests.evidence.markdown import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
NAMES = ("README.md", "outputs/README.md", *evidence.PAGES)
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in NAMES}
RESULTS = {  # a row that links its records
    name: row
    for row in README.splitlines()
    for name in re.findall(r"^\| \[.*\]\(outputs/records/(\w+)\)", row)
}
ANSWERS = [  # rows that link the page on which their numbers are
    row
    for row in README.splitlines()
    if re.match(r"\| .* \| \[.*\]\(outputs/.*/README\.md\) \|", row)
]
SHOWN = "\n".join(PAGES.values()).replace("\\\n", "")  # a command on several lines is one
COMMANDS = {
    command.strip() for command in re.findall(r"python -m (mnv2_lightning\.[^#\n`]+)", SHOWN)
}
COMMANDS |= {  # commands to which the rows of a table add something
    f"{base.removeprefix('python -m ')} {added}".strip()
    for base, rows in (
        (results.TRIED, results.SETTINGS.values()),
        (speed.PROCESSES, [added for added, *_ in speed.WAYS.values()]),
    )
    for added in rows
}


def numbers(text: str) -> list[str]:
    return re.findall(r"\d+(?:[.,]\d+)*", text)


def test_can_be_read_in_one_sitting() -> None:
    assert len(README.replace("|", " ").split()) <= 2_120  # for all commands


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_commands_pass_every_check(
    command: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is composed and checked as on the command line; what it would run is not run."""
    for launcher in re.findall(r"hydra/launcher=\w+", command):
        require_launcher(launcher)
    for logger in re.findall(r"logger=\[default,(\w+)\]", command):
        pytest.importorskip(logger, reason=f"needs the extra {logger}")
    if "RUN_DIR" in command:
        shutil.copytree(run, tmp_path / "run")
    if "images=photos/" in command:
        (tmp_path / "photos").mkdir()
        Image.new("L", (9, 9)).save(tmp_path / "photos" / "a.png")
    if "onnx=" in command:  # which an export has written
        (tmp_path / "run" / "export").mkdir()
        (tmp_path / "run" / "export" / "best-int8.onnx").touch()
    if "format=" in command or "quantize=" in command:
        pytest.importorskip("onnx", reason="needs the extra onnx")
    if "outputs/searches/NAME" in command:  # which a search has written
        (tmp_path / "outputs/searches/NAME/experiment").mkdir(parents=True)
        written = tmp_path / "outputs/searches/NAME/experiment/NAME.yaml"
        written.write_text("# @package _global_\ndefaults: [fast]\n")
    if "outputs/sweeps/NAME" in command:  # which a sweep has written
        shutil.copytree(run, tmp_path / "outputs/sweeps/NAME/a")
    if "num_nodes" in command:  # started by srun
        monkeypatch.setenv("WORLD_SIZE", "16")
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    if "mine" in command:  # which the page shows how to write
        own_parts.write(tmp_path, own_parts.FILES)
        monkeypatch.syspath_prepend(tmp_path)
        own_parts.forget("mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    monkeypatch.setattr("shutil.which", lambda name: name)  # srun
    trainer = SimpleNamespace(world_size=1, max_epochs=9)
    monkeypatch.setattr("mnv2_lightning.build.build_trainer", lambda *args: trainer)
    module, *args = shlex.split(command.replace("RUN_DIR", str(tmp_path / "run")))
    if "model.weights" in command:  # of the small network of that run
        args.append("model.width_mult=0.25")
    monkeypatch.setattr("sys.argv", [module, *args])
    if command not in README:  # a record's: composed, but not built again
        monkeypatch.setattr(import_module(module).COMMAND, "check_job", lambda job: None)
    check = checks.check_jobs

    def check_and_end(self: Command, jobs: list[Job]) -> None:
        check(self, jobs)
        raise SystemExit(42)

    monkeypatch.setattr(checks, "check_jobs", check_and_end)
    assert import_module(module).COMMAND.run() == 42


@pytest.mark.parametrize("name", PAGES)
def test_make_targets_exist(name: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z-]+)", PAGES[name])):
        assert re.search(rf"^{target}:", makefile, re.M), target


@pytest.mark.parametrize("name", PAGES)
def test_links_and_files_exist(name: str) -> None:
    """Links and pictures, from the page's folder; files that are named, from the root."""
    for link in re.findall(r"!?\[.*?\]\(([^):]+)\)", PAGES[name]):
        if link.startswith("#"):
            assert f"\n## {link[1:]}\n" in PAGES[name], link
            continue
        assert ((ROOT / name).parent / link).exists(), link
    for path in re.findall(
        r"`((?:conf|tests|outputs|mnv2_lightning|\.ci)/[^`<*\s]*)`", PAGES[name]
    ):
        if "mine" not in path:
            assert (ROOT / path).exists(), path


def test_layout_is_the_packages() -> None:
    """Every name in the block exists, and every folder of the package is in it."""
    (block,) = re.findall(r"## Layout.*?```\n(.*?)```", README, re.S)
    listed = []
    for line in block.splitlines():
        parent = "mnv2_lightning/" if line.startswith("  ") else ""
        listed.append(parent + line.split()[0])
        assert (ROOT / listed[-1]).exists(), line
    package = ROOT / "mnv2_lightning"
    folders = {f"mnv2_lightning/{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert folders == {name for name in listed if re.fullmatch(r"mnv2_lightning/\w+/", name)}


def test_way_of_a_run_exists() -> None:
    """The files that the first sentence of the layout names."""
    (sentence,) = re.findall(r"## Layout\n\n(.*?)\n\n", README, re.S)
    for path in re.findall(r"`([\w/]+\.py)`", sentence):
        assert (ROOT / "mnv2_lightning" / path).exists(), path


def test_every_result_has_a_row() -> None:
    folders = {path.parent.name for path in (ROOT / "outputs/records").glob("*/seed-0")}
    assert folders == RESULTS.keys() == set(results.EXPERIMENTS)


@pytest.mark.parametrize("name", RESULTS)
def test_results_are_those_of_the_records(name: str) -> None:
    """Every number of a row, a record for each seed that it names, and the versions."""
    linked, *shown = RESULTS[name].strip("| ").split(" | ")
    command, *expected = results.result(name)
    assert f"`{command}`" in linked
    assert [numbers(cell) for cell in shown] == [numbers(cell) for cell in expected]
    for run in results.experiment(name):
        for package in ("torch", "lightning"):
            assert f"{package} {run['versions'][package]}" in README


@pytest.mark.parametrize("row", ANSWERS)
def test_answers_are_on_the_pages_that_they_link(row: str) -> None:
    (page,) = re.findall(r"\((outputs/.*README\.md)\)", row)
    assert set(numbers(row.replace(page, ""))) <= set(numbers(PAGES[page]))


@pytest.mark.parametrize("model", sorted(p.stem for p in (ROOT / "conf" / "model").iterdir()))
def test_costs_are_the_networks(model: str, configure: Configure) -> None:
    """With ten classes, as the table of networks gives them."""
    (row,) = (line for line in README.splitlines() if line.startswith(f"| `{model}`"))
    size = 24 if model == "mobilenet_v2_micro" else 28
    network = build.build_network(configure(f"model={model}"))
    costs = complexity.measure(network, in_channels=1, image_size=size)
    assert f"| {costs.parameters:,} " in row
    assert f" {costs.multiply_adds:,} at {size} px" in row
