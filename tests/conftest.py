"""What the tests share: a small data set made here, and the real config composed as a run's."""

import csv
import gc
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

import mnv2_lightning.cli.composing  # noqa: F401  the resolvers of conf/
from mnv2_lightning.cli.conf_files import config_dir
from mnv2_lightning.data.sets import DATA_SETS, IdxFile
from mnv2_lightning.runs.folder import run_id
from mnv2_lightning.system import hydra_compat, processes
from mnv2_lightning.train import train

# What was imported is not searched by each garbage collection of many tests.
gc.collect()
gc.freeze()

# A tenth of a per cent of the real one: enough to train on, a blink to make.
TRAIN, TEST = 600, 100


def digits(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(count, 28, 28) uint8 and (count,) uint8: a bright bar whose place tells the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count).astype(np.uint8)
    images = rng.integers(0, 40, (count, 28, 28)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label + 4 : 2 * label + 7, 4:24] = 220
    return images, labels


def idx(array: np.ndarray) -> bytes:
    """An array of bytes or of integers in the IDX format."""
    magic = bytes([0, 0, 8 if array.dtype == np.uint8 else 12, array.ndim])
    big = array if array.dtype == np.uint8 else array.astype(">i4")
    return magic + b"".join(n.to_bytes(4, "big") for n in array.shape) + big.tobytes()


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four raw files of the made data set, for both names."""
    root = tmp_path_factory.mktemp("data")
    for prefix, count, seed in (("train", TRAIN, 1), ("t10k", TEST, 2)):
        images, labels = digits(count, seed)
        for folder in (root / "mnist", root / "fashion_mnist"):
            folder.mkdir(exist_ok=True)
            (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
            (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels))
    return root


@pytest.fixture(scope="session")
def small_files(data_dir: Path) -> tuple[IdxFile, ...]:
    """The made files' own sizes and checksums."""
    made = []
    for path in sorted((data_dir / "mnist").iterdir()):
        raw = path.read_bytes()
        shape = tuple(int.from_bytes(raw[4 * i : 4 * i + 4], "big") for i in range(1, 1 + raw[3]))
        made.append(IdxFile(path.name, len(raw), hashlib.sha256(raw).hexdigest(), shape))
    return tuple(made)


@pytest.fixture
def small_data(
    data_dir: Path, small_files: tuple[IdxFile, ...], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The made data set is what `mnist` means; the checks are the real ones, on its checksums.

    It has neither mirrors nor an npm package.
    """
    monkeypatch.delenv("MNV2_DATA_DIR", raising=False)
    for name, real in DATA_SETS.items():
        small = replace(real, files=small_files, mirrors=(), npm=None)
        monkeypatch.setitem(DATA_SETS, name, small)
    return data_dir


Configure = Callable[..., DictConfig]

# Overrides that fit the made data and take little time.
FULL = (
    "model=mobilenet_v2_small",
    "optimizer.lr=0.1",
    "data.batch_size=50",
    "data.val_size=100",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=2",
    "model.width_mult=0.25",
)
# Without the graph and the figures, which take half of such a run.
SMALL = (*FULL, "logger.tensorboard=null", "callbacks.test_images=null")


@pytest.fixture
def configure(tmp_path: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """`configure("key=value", ...)`: train's config, on the made data, into a new folder."""
    monkeypatch.delenv("MNV2_DATA_DIR", raising=False)

    def make(*overrides: str, run_dir: Path = tmp_path / "run") -> DictConfig:
        with hydra_compat.initialize(str(config_dir())):
            cfg = compose("train", [f"data.dir={small_data}", *overrides])
        cfg.run_dir, cfg.overrides = str(run_dir), list(overrides)
        return cfg

    return make


def pack(raw: bytes) -> bytes:
    return gzip.compress(raw, compresslevel=1)


# What draws random numbers in training.
AUGMENTED = ("data.augment.degrees=10", "data.augment.translate=0.05", "model.dropout=0.2")


@pytest.fixture(scope="session")
def keep() -> dict[str, Path]:
    """Runs that several tests look at and none changes."""
    return {}


@pytest.fixture
def run(
    keep: dict[str, Path], configure: Configure, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished run with EMA, augmentation and dropout."""
    if "run" not in keep:
        folder = tmp_path_factory.mktemp("run") / "a"
        train(configure(*FULL, *AUGMENTED, "callbacks=[default,ema]", run_dir=folder))
        keep["run"] = folder
    return keep["run"]


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """A copy of the shared run, to write into."""
    return Path(shutil.copytree(run, tmp_path / "a"))


@pytest.fixture(scope="session")
def mnist_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `experiment=fast` on the real MNIST, of which all processes share one."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "mnist"
    shared.mkdir(exist_ok=True)
    with FileLock(shared / "lock"):
        if not (shared / "run" / "result.json").exists():
            fast = ("experiment=fast", "hydra.run.dir=run")
            command = [sys.executable, "-m", "mnv2_lightning.train", *fast]
            subprocess.run(command, cwd=shared, check=True, capture_output=True)
    return shared / "run"


def require_launcher(override: str) -> None:
    """Skip the test if the launcher of `hydra/launcher=NAME` is not installed."""
    name = override.partition("=")[2].partition("_")[0]
    pytest.importorskip(f"hydra_plugins.hydra_{name}_launcher", reason=f"needs the extra {name}")


def record(run: Path) -> dict[str, Any]:
    return json.loads((run / "result.json").read_text())


def load(run: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as stream:
        return list(csv.DictReader(stream))


COMMANDS = {
    name: import_module(f"mnv2_lightning.{name}").COMMAND
    for name in (
        *("activations", "benchmark", "compare", "devices", "evaluate", "export", "predict"),
        *("relu_collapse", "report", "search", "train"),
    )
}


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str


Call = Callable[..., Ended]


def run_in_fork(module: str, arguments: Sequence[str]) -> int:
    """In place of `processes.run_command`."""
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    sys.stdout.flush()
    if (process := os.fork()) == 0:
        status = 1
        try:
            GlobalHydra.instance().clear()
            HydraConfig.instance().cfg = None
            processes.is_child = lambda: True
            sys.argv = [module, *arguments]
            status = COMMANDS[module.rpartition(".")[2]].run()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@pytest.fixture
def call(
    tmp_path: Path,
    small_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Call:
    """`call("train", "key=value", ...)` in an empty folder, in this process; the jobs of a sweep in
    forks of it, where the made data set is known.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MNV2_DATA_DIR", str(small_data))
    monkeypatch.setattr(processes, "run_command", run_in_fork)
    monkeypatch.setattr(processes, "start_server", lambda: None)

    def run(verb: str, *args: str) -> Ended:
        run_id.cache_clear()  # of a process, and all calls here are in one
        monkeypatch.setattr(sys, "argv", [verb, *args])
        status = COMMANDS[verb].run()
        out, err = capfd.readouterr()
        return Ended(status, out, err)

    return run
