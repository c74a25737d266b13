"""On the real MNIST, through the real commands, in processes of their own."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mnv2_lightning
from tests.conftest import record, rows
from tests.test_predict import answers, share

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]


def verb(*args: str, cwd: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """`python -m mnv2_lightning.VERB ...` in `cwd`."""
    command = [sys.executable, "-m", f"mnv2_lightning.{args[0]}", *args[1:]]
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert ended.returncode == status, ended.stdout + ended.stderr
    return ended


FEW = (
    "trainer.limit_train_batches=12",
    "trainer.limit_val_batches=2",
    "trainer.max_epochs=1",
    "trainer.log_every_n_steps=4",
    "model.width_mult=0.25",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default experiment, as `make train` runs it."""
    folder = tmp_path_factory.mktemp("default")
    verb("train", cwd=folder)
    (path,) = (folder / "outputs" / "runs" / "default").iterdir()
    return path


@pytest.mark.alone
def test_default_experiment(run: Path) -> None:
    """At least 99.0 % on the official test set, under three minutes of training."""
    result = record(run)
    assert result["status"] == "finished"
    assert result["test_accuracy"] >= 0.990
    assert result["train_seconds"] < 180


@pytest.mark.alone
def test_benchmark(tmp_path: Path) -> None:
    """Every part once; those of the config take 47 s on two cores without AVX-512."""
    started = time.monotonic()
    verb("benchmark", "smoke=true", cwd=tmp_path)
    assert time.monotonic() - started < 90
    (folder,) = (tmp_path / "outputs" / "benchmarks").iterdir()
    made = {path.name for path in folder.iterdir()}
    assert {"benchmark.json", "benchmark.md", "growth.png"} <= made


def test_time_to_accuracy(tmp_path: Path) -> None:
    verb("benchmark", "smoke=true", "parts=[time_to_accuracy]", "hydra.run.dir=t", cwd=tmp_path)
    assert "| experiment=fast" in (tmp_path / "t" / "benchmark.md").read_text()


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled(tmp_path: Path) -> None:
    """The same weights by name, and the same losses to rounding, which later steps magnify."""
    steps = ("trainer.limit_train_batches=2", "trainer.log_every_n_steps=1")
    for folder, compiles in (("plain", "false"), ("compiled", "true")):
        few = (*FEW, *steps, "trainer.limit_test_batches=2", f"classifier.compile={compiles}")
        verb("train", *few, f"hydra.run.dir={folder}", cwd=tmp_path)
    plain, compiled = (rows(tmp_path / folder)[:2] for folder in ("plain", "compiled"))
    for before, after in zip(plain, compiled, strict=True):
        assert float(before["train/loss"]) == pytest.approx(float(after["train/loss"]), rel=1e-4)
    verb("evaluate", "run_dir=compiled", cwd=tmp_path)


@pytest.mark.alone
def test_evaluate_equals_what_training_reported(run: Path) -> None:
    for split in ("test", "val"):
        verb("evaluate", f"run_dir={run}", f"split={split}", cwd=run)
        said = json.loads((run / "evaluation" / f"best-{split}.json").read_text())
        assert said["accuracy"] == record(run)[f"{split}_accuracy"]
        assert said["images"] == {"test": 10_000, "val": 5_000}[split]


@pytest.mark.alone
def test_scikit_learns_digits(run: Path) -> None:
    """1,797 of 8 x 8 px, values 0 to 16: the default run reads 93 % or more."""
    datasets = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn")
    data = datasets.load_digits()
    greys = np.round(data.images * 255 / 16).astype(np.uint8)
    found = answers(mnv2_lightning.load(run), map(Image.fromarray, greys))
    print(f"scikit-learn's digits: {share(found, data.target):.2%}, refused {found.count(None)}")
    assert share(found, data.target) >= 0.93


def test_tutorial_cut_down_to_a_cpu(tmp_path: Path) -> None:
    """A hundred steps of its recipe at 28 px: it learns."""
    options = ("trainer.max_epochs=1", "data.image_size=28", "trainer.limit_train_batches=100")
    verb("train", "experiment=tutorial", *options, "hydra.run.dir=t", cwd=tmp_path)
    assert record(tmp_path / "t")["test_accuracy"] > 0.3


def test_multirun(tmp_path: Path) -> None:
    """The user's own sweep, cut down."""
    sweep = ("optimizer.lr=0.01,0.05", "model.expand_ratio=2,4")
    few = (*FEW, "trainer.limit_test_batches=2")
    verb("train", "-m", *sweep, *few, "hydra.sweep.dir=s", cwd=tmp_path)
    jobs = [path.parent for path in (tmp_path / "s").glob("*/result.json")]
    assert len(jobs) == 4
    assert {record(job)["status"] for job in jobs} == {"finished"}
    assert len({record(job)["config_hash"] for job in jobs}) == 4


def test_wheel_in_an_empty_environment(tmp_path: Path) -> None:
    """Built, installed, and run from another folder; the wheel holds conf/ and no stray file."""
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    environment = tmp_path / "env"
    venv.create(environment, with_pip=True)
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", wheel],
        check=True,
        capture_output=True,
    )
    # Its dependencies are those of this environment: a path file does not bring in the project.
    where = sysconfig.get_path("purelib", vars={"base": str(environment)})
    (Path(where) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    place = tmp_path / "elsewhere"
    place.mkdir()

    def installed(*args: str) -> None:
        command = [str(python), "-m", f"mnv2_lightning.{args[0]}", *args[1:]]
        ended = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr

    installed("train", *FEW, "trainer.limit_test_batches=2", "hydra.run.dir=run")
    assert record(place / "run")["git_commit"] is None
    installed("export", "run_dir=run", "format=page")
    if find_spec("onnx") is not None:
        installed("export", "run_dir=run", "format=onnx")
    assert (place / "run" / "export" / "best.html").is_file()
    Image.new("L", (28, 28)).save(place / "digit.png")
    installed("predict", "run_dir=run", "images=digit.png", "prepare=plain")
    code = "import mnv2_lightning.cli.conf_files as c; print(c.config_dir())"
    said = subprocess.run(
        [python, "-c", code], cwd=place, capture_output=True, text=True, check=True
    )
    assert Path(said.stdout.strip()).is_relative_to(environment)
    subprocess.run(
        [python, "-m", "pip", "uninstall", "--quiet", "--yes", "mnv2_lightning"], check=True
    )
    assert not [p.name for p in Path(where).iterdir() if re.match("conf|mnv2", p.name)]
