"""Networks, callbacks and others of the user's own: typed, swept, resumed, evaluated."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import Tensor, nn

from mnv2_lightning.networks import complexity
from mnv2_lightning.reports import tables
from tests.conftest import Call, Configure, digits, idx, record, require_launcher
from tests.evidence.markdown import ROOT

(SECTION,) = re.findall(r"## Your own parts\n(.*?)\n## ", (ROOT / "README.md").read_text(), re.S)
FILES = dict(re.findall(r"^`([\w/.]+)`\n\n```\w+\n(.*?)```", SECTION, re.M | re.S))
(COMMANDS,) = re.findall(r"```bash\n(.*?)```", SECTION, re.S)

# Overrides that fit the made data and take no time.
SHORT = (
    "data.batch_size=50",
    "data.val_size=100",
    "trainer.max_epochs=1",
    "callbacks.test_images=null",
)
FIRST = ("--config-dir=conf", "model=mine", *SHORT)


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def forget(package: str) -> None:
    """As in a process that has not imported it yet."""
    for name in [n for n in sys.modules if n.partition(".")[0] == package]:
        del sys.modules[name]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the README's example, in which commands are typed."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("MNV2_TRUST", raising=False)
    write(tmp_path, FILES)
    forget("mine")
    yield tmp_path
    forget("mine")


def test_the_readmes_example(call: Call, own: Path) -> None:
    """Its files and its commands, on few images."""
    train, sweep, resume, evaluate = (shlex.split(line)[3:] for line in COMMANDS.splitlines())
    assert set(FILES) >= {"mine/networks.py", "mine/callbacks.py", "conf/model/mine.yaml"}

    ended = call("train", *train, *SHORT)
    assert ended.status == 0, ended.err
    assert "Net on mnist" in ended.out
    assert re.search(r"^loss \d\.\d{4}$", ended.out, re.M)
    (run,) = (own / "outputs" / "runs" / "default").iterdir()
    assert record(run)["parameters"] == 16 * 9 + 16 + 10 * 256 + 10
    assert record(run)["multiply_adds"] == 16 * 9 * 13**2 + 2560
    assert record(run)["map_sizes"] == {"conv": 13}

    ended = call("train", *sweep, *SHORT)
    assert ended.status == 0, ended.err
    assert "2 of 2 runs finished" in ended.out

    typed = [arg.replace("RUN_DIR", str(run)) for arg in resume]
    without_trust = [arg for arg in typed if not arg.startswith("trust")]
    forget("mine")
    ended = call("train", *without_trust)
    assert ended.status == 2
    assert ended.err == (
        f"error: {run}/config.yaml: model._target_=mine.networks.Net: not one of ours; if you "
        "trust this folder, add trust=[mine]\n"
    )
    assert "mine" not in sys.modules
    ended = call("train", *typed)
    assert ended.status == 0, ended.err
    assert record(run)["epochs"] == 6
    assert "loss" in ended.out

    typed = [arg.replace("RUN_DIR", str(run)) for arg in evaluate]
    forget("mine")
    ended = call("evaluate", *[arg for arg in typed if not arg.startswith("trust")])
    assert ended.status == 2
    assert ended.err.endswith("if you trust this folder, add trust=[mine]\n")
    assert "mine" not in sys.modules
    ended = call("evaluate", *typed)
    assert ended.status == 0, ended.err


def test_the_readmes_logger_and_data(call: Call, own: Path) -> None:
    (own / "files").mkdir()
    for prefix, count in (("train", 300), ("t10k", 100)):
        images, labels = digits(count, seed=3)
        (own / "files" / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
        (own / "files" / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels))
    parts = ("--config-dir=conf", "logger=[default,mine]", "data=mine", "data.dir=files")
    ended = call("train", *parts, *SHORT, "hydra.run.dir=run")
    assert ended.status == 0, ended.err
    assert "on mine" in ended.out
    assert len(list((own / "run" / "lightning_logs").rglob("metrics.csv"))) == 1


def test_the_current_folder_comes_last(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A console script searches it too, for what is not installed; never for what we import."""
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(ROOT))])
    before = [*sys.path]
    write(tmp_path, FILES)
    forget("mine")
    assert call("train", *SHORT, "hydra.run.dir=run").status == 0
    assert call("evaluate", "run_dir=run").status == 0
    assert sys.path == before
    ended = call("train", *FIRST)
    assert ended.status == 0, ended.err
    assert sys.path == [*before, str(tmp_path)]
    forget("mine")


@pytest.mark.slow
def test_the_same_command_needs_no_trust(call: Call, own: Path) -> None:
    """Its config is what was typed, also where it goes on with a run in its folder."""
    for epochs in (1, 2):
        ended = call("train", *FIRST, "hydra.run.dir=run", f"trainer.max_epochs={epochs}")
        assert ended.status == 0, ended.err
        assert record(own / "run")["epochs"] == epochs
        ended = call("train", "-m", *FIRST, "model.width=2,3", "sweep=s")
        assert ended.status == 0, ended.err
        assert ended.out.count("already finished") == 2 * (epochs - 1)


def test_by_what_a_folder_is_trusted(
    call: Call, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command or the environment; not by the folder itself, nor for another package."""
    assert call("train", *FIRST, "callbacks=[default,mine]", "hydra.run.dir=run").status == 0
    resume = ("train", "resume=run", "trainer.max_epochs=2")
    path = own / "run" / "config.yaml"
    path.write_text(path.read_text() + "trust: [mine]\n")
    for trust, suggested in (
        ("null", "mine"),
        ("[other]", "other,mine"),
        ("[min]", "min,mine"),
        ("[mine.networks]", "mine.networks,mine"),
    ):
        ended = call(*resume, f"trust={trust}")
        assert ended.status == 2
        assert f"if you trust this folder, add trust=[{suggested}]\n" in ended.err
    ended = call(*resume, "trust=mine")
    assert ended.err == "error: trust=mine: must be a list of packages, such as trust=[mine]\n"

    # A class that the command names again, with all its keys or by its name alone.
    net, callback = "model._target_=mine.networks.Net", "{_target_:mine.callbacks.PrintLoss}"
    assert "callbacks.mine._target_=mine" in call(*resume, net).err
    assert call(*resume, net, f"+callbacks.mine={callback}").status == 0

    # An evaluation does not build the callbacks.
    assert call("evaluate", "run_dir=run", "trust=[mine.networks]").status == 0
    monkeypatch.setenv("MNV2_TRUST", "other, mine")
    assert call("evaluate", "run_dir=run").status == 0
    assert call("train", "resume=run", "trainer.max_epochs=3").status == 0


def test_trust_is_for_a_folder(call: Call, own: Path) -> None:
    ended = call("train", *FIRST, "trust=[mine]")
    assert ended.status == 2
    assert ended.err == "error: trust: is for the config in a run's folder, with resume=RUN_DIR\n"
    assert "trust=[mine]: is an option of train" in call("search", "trust=[mine]").err


OTHERS = {
    "mine/optimizers.py": """
from torch.optim import SGD

class Slow(SGD):
    def __init__(self, params, lr: float = 0.01, *, steps: int) -> None:
        super().__init__(params, lr=lr / steps)
""",
    "mine/loggers.py": """
from pathlib import Path
from lightning.pytorch.loggers.logger import Logger

class TextLogger(Logger):
    name = version = "text"

    def __init__(self, log_dir: str) -> None:
        self.path = Path(log_dir) / "mine.txt"

    def log_metrics(self, metrics, step=None):
        self.path.parent.mkdir(exist_ok=True)
        with self.path.open("a") as stream:
            print(step, metrics, file=stream)

    def log_hyperparams(self, params, *args, **kwargs):
        pass
""",
    "conf/optimizer/mine.yaml": "_target_: mine.optimizers.Slow\n_partial_: true\nsteps: 2\n",
    "conf/logger/mine.yaml": "mine:\n  _target_: mine.loggers.TextLogger\n  log_dir: mine-logs\n",
    "conf/experiment/mine.yaml": """# @package _global_
defaults:
  - override /model: mine
  - override /optimizer: mine
  - override /logger: [default, mine]
model:
  width: 3
""",
}


def test_an_experiment_of_ones_own(call: Call, own: Path) -> None:
    """With an optimizer and a logger, which writes where it was told to."""
    write(own, OTHERS)
    command = ("train", "--config-dir=conf", "experiment=mine", *SHORT)
    ended = call(*command)
    assert ended.status == 0, ended.err
    (run,) = (own / "outputs" / "runs" / "mine").iterdir()
    assert "train/loss" in (own / "mine-logs" / "mine.txt").read_text()
    assert record(run)["parameters"] == 3 * 9 + 3 + 10 * 48 + 10
    ended = call(*command, f"hydra.run.dir={run}", "trainer.max_epochs=2")
    assert ended.status == 0, ended.err
    ended = call("train", f"resume={run}", "trainer.max_epochs=3", "trust=[mine]")
    assert ended.status == 0, ended.err
    assert record(run)["epochs"] == 3


def test_a_search(call: Call, own: Path) -> None:
    search = ("~search.space.optimizer", "~search.space.model", "search.trials=1", "search.name=s")
    space = "+search.space.model.width={low:2,high:4}"
    ended = call("search", *FIRST, *search, space)
    assert ended.status == 0, ended.err
    assert (own / "outputs" / "searches" / "s" / "0000" / "result.json").is_file()


BROKEN = {
    "mine/broken.py": "from torch import nn\nclass Net(nn.Module:\n",
    "mine/needs.py": "import not_there.at_all\n",
    "mine/typos.py": "from mine.network import Net\n",
    "mine/networks.py": FILES["mine/networks.py"]
    + """
class View(Net):
    def forward(self, x):
        x = nn.functional.max_pool2d(self.conv(x).relu(), 3)
        return self.linear(x.view(x.shape[0], -1))


class Wide(Net):
    def __init__(self, width: "int | None" = None, *, name: str = "x", more=()):
        assert width, ""
        super().__init__(width)


class Lazy(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.LazyLinear(10))


class Features(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten())


def make(width: int) -> object:
    return width


CONSTANT = 1
""",
    "conf/model/v3.yaml": "_target_: torchvision.models.mobilenet_v3_small\nnum_classes: 10\n",
    "conf/model/timm.yaml": "_target_: timm.create_model\nmodel_name: resnet18\nnum_classes: 10\n",
    "conf/model/bare.yaml": "_target_: mine.networks.Net\n",
    **{
        f"conf/model/{name.lower()}.yaml": f"_target_: mine.networks.{name}\n"
        for name in ("View", "Wide", "Lazy", "Features", "make")
    },
    "conf/optimizer/whole.yaml": "_target_: torch.optim.Adam\nlr: 0.1\n",
    **{key: OTHERS[key] for key in ("mine/optimizers.py", "conf/optimizer/mine.yaml")},
}
BAD = {
    "model=mine model.width=wide": r"model\.width=wide: must be an integer",
    "model=mine model.width=8.5": r"model\.width=8\.5: must be an integer",
    "model=mine model.width=null": r"model\.width=null: must be an integer",
    "model=mine model.widht=8": r"model\.widht: unknown key; did you mean model\.width\?",
    "model=mine +model.widht=8": r"model\.widht: unknown key; did you mean model\.width\?",
    "model=mine model.width_mult=8": r"model\.width_mult: unknown key; did you mean model\.width\?",
    "model=mine +model.stages=8": r"model\.stages: unknown key \(there are: model\.width\)",
    "model=wide +model.width=true": r"model\.width=true: must be an integer",
    "model=wide +model.name=3": r"model\.name=3: must be a text",
    "model=wide +model.more=3": r"model: AssertionError",
    "model=make": r"model\.width: a value is required",
    "model=make +model.width=3": r"model\._target_=mine\.networks\.make: makes no torch\.nn\.",
    "model=mine model._target_=mine.networks.Nett": r"no such class .*; did you mean Net\?",
    "model=mine model._target_=mine.network.Net": r"no such class .*; did you mean netw",
    "model=mine model._target_=mine.networks.CONSTANT": r"not a class or function",
    "model=mine model._target_=Net": r"must be a name such as package\.module\.Class",
    "model=mine model._target_=mine..Net": r"must be a name such as package\.module\.Class",
    "model=mine +model._args_=[8]": r"model\._args_: not allowed",
    "model=mine model._target_=mien.networks.Net": r"no package mien; pip install mien, or",
    "model=mine model._target_=mine.broken.Net": r"broken cannot be imported \(SyntaxError: ",
    "model=mine model._target_=mine.needs.Net": r"No module named .*; pip install not_there",
    "model=mine model._target_=mine.typos.Net": r"mine\.typos: No module named 'mine\.network'",
    "model=timm": r"model\._target_=timm\.create_model: there is no package timm; pip install timm",
    "model=v3": r"model: MobileNetV3 takes images of 3 channels, not of 1",
    "model=v3 model.num_classes=ten": r"model: .*",
    "model=view": r"model: \w+: view size is not .* or set classifier\.channels_last=false",
    "model=lazy": r"model: has lazy layers; give each its number of inputs",
    "model=features": r"model: \w+ returns \(2, 784\) for a batch of 2, not \(2, 10\)",
    "model=mine optimizer=whole": r"optimizer\._partial_: must be true",
    "model=mine optimizer=mine optimizer.steps=a": r"optimizer\.steps=a: must be an integer",
    "model=mine optimizer=mine +optimizer.params=1": r"optimizer\.params: unknown key",
    "model=mine +callbacks.x._target_=mine.networks.Net": r"callbacks\.x\._target_=.*: makes no",
    "model=mine +logger.w._target_=lightning.pytorch.loggers.WandbLogger": (
        r"logger\.w\._target_=.*: there is no package wandb; pip install wandb"
    ),
    "model=mine +logger._target_=mine.loggers.TextLogger": (
        r"logger=a group of keys: must be groups by name, such as \{mine: "
    ),
    "--config-dir=nowhere": r"--config-dir=nowhere: there is no such folder; make it, ",
    "model=none": r"model=none: there is none such \(there are: .*mine",
}  # fmt: skip


@pytest.mark.parametrize("typed", BAD)
def test_bad_parts(typed: str, call: Call, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, before a folder is made."""
    write(own, BROKEN)
    for missing in ("timm", "wandb"):
        monkeypatch.setitem(sys.modules, missing, None)
    before = {path for path in own.rglob("*") if "__pycache__" not in path.parts}
    ended = call("train", "--config-dir=conf", *typed.split())
    assert ended.status == 2
    assert re.fullmatch(rf"error: .*{BAD[typed]}.*\n", ended.err), ended.err
    assert {path for path in own.rglob("*") if "__pycache__" not in path.parts} == before


def test_what_was_written_for_ours_takes_others(call: Call, own: Path) -> None:
    """Keys that mean something else there: of a network, a callback, a schedule."""
    write(own, {
        "mine/more.py": """
from lightning.pytorch import Callback
from torch import nn
from mine.networks import Net

class Channels(Net):
    def __init__(self, in_channels: int, num_classes: str, strides: int, stages=None):
        super().__init__()

    def forward(self, x):
        return super().forward(x.float())

class Watch(Callback):
    def __init__(self, monitor, filename: str, log_dir: list, num_classes=1):
        self.monitor = monitor

    def on_validation_epoch_end(self, trainer, module):
        module.log("val/mine", 1.0)

class EarlyStopping(Watch):
    pass

def warm(total_steps: int, steps_per_epoch: int, warmup: str):
    return lambda step: 1.0
""",
        "conf/model/more.yaml": (
            "_target_: mine.more.Channels\nin_channels: 3\nnum_classes: many\nstrides: 2\n"
        ),
        "conf/callbacks/more.yaml": """
watch: {_target_: mine.more.Watch, monitor: [a, b], filename: /x/y, log_dir: [a]}
stop: {_target_: mine.more.EarlyStopping, monitor: true, filename: /x/y, log_dir: []}
early: {_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/mine}
""",
        "conf/scheduler/more.yaml": "_target_: mine.more.warm\n_partial_: true\nwarmup: long\n",
    })  # fmt: skip
    parts = ("model=more", "callbacks=[default,more]", "scheduler=more", *SHORT)
    end = ("trainer.max_epochs=-1", "trainer.max_time={seconds: 1}")
    for folder in ("run", "run", "endless"):
        more = end if folder == "endless" else ()
        ended = call("train", "--config-dir=conf", *parts, *more, f"hydra.run.dir={folder}")
        assert ended.status == 0, ended.err
    ended = call("train", "resume=run", "trainer.max_epochs=2", "trust=[mine,lightning]")
    assert ended.status == 0, ended.err


class Others(nn.Module):
    """Takes three channels, makes a tuple, and needs values."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2, 3)
        self.both = nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, float]:
        return self.both((self.conv(x), 1.0))[0], float(x.sum())


def test_costs_of_others() -> None:
    """On the CPU where the meta device cannot; unknown where the images do not fit."""
    costs = complexity.measure(Others(1), in_channels=1, image_size=8)
    assert (costs.parameters, costs.multiply_adds) == (20, 2 * 9 * 6**2)
    assert costs.map_sizes == {"conv": 6}
    costs = complexity.measure(Others(3), in_channels=1, image_size=8)
    assert (costs.parameters, costs.multiply_adds, costs.map_sizes) == (56, None, {})


def test_costs_that_are_not_known_are_left_out(configure: Configure) -> None:
    costs = complexity.measure(nn.Linear(2, 2), in_channels=1, image_size=8)
    known = {"precision": "32-true", "seed": 0, "hardware": {"bf16": True}} | costs.as_dict()
    text = tables.start(known, "cpu", configure(), memory=None)
    assert "parameters     6" in text
    assert "multiply-adds" not in text
    assert "map sizes" not in text
    assert "memory" not in text


SCRIPT = """import sys
from mnv2_lightning.train import main
if __name__ == "__main__":
    sys.exit(main())
"""


@pytest.mark.slow
def test_a_console_script_finds_the_folder_one_is_in(
    own: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As `python -m` does; in the jobs of a sweep too."""
    script = tmp_path_factory.mktemp("bin") / "mnv2-train"
    script.write_text(SCRIPT)
    typed = ["-m", *FIRST, "trainer.limit_train_batches=2", "model.width=2,3", "sweep=s"]
    joblib = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    require_launcher(joblib[0])
    for launcher in ([], joblib):
        shutil.rmtree(own / "outputs", ignore_errors=True)
        ended = subprocess.run(
            [sys.executable, script, *typed, *launcher],
            cwd=own,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        assert "2 of 2 runs finished" in ended.stdout


MODULES = {
    "mine/modules.py": FILES["mine/module.py"]
    + """

class Saves(Module):
    def __init__(self, network, optimizer, width=3):
        super().__init__(network, optimizer)
        self.save_hyperparameters("width")


class Untested(LightningModule):
    def __init__(self, network):
        super().__init__()
""",
}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "Saves",
            "classifier: Saves saves width as hyper-parameters; leave save_hyperparameters",
        ),
        ("Untested", "classifier: Untested has no test_step"),
        ("Modul", "classifier._target_=mine.modules.Modul: there is no such class or function"),
    ],
)
def test_bad_modules(name: str, message: str, call: Call, own: Path) -> None:
    """One line, before a folder is made."""
    write(own, MODULES)
    ended = call("train", *FIRST, "classifier=mine", f"classifier._target_=mine.modules.{name}")
    assert ended.status == 2
    assert message in ended.err
    assert ended.err.count("\n") == 1
    assert not (own / "outputs").exists()


DATA = {
    "mine/data.py": """
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset

class Squares(LightningDataModule):
    '''Its colour tells the class.'''

    def __init__(self, image_size: int, count: int = 60):
        super().__init__()
        self.image_size, self.count = image_size, count

    def loader(self):
        labels = torch.arange(self.count) % 3
        images = torch.rand(self.count, 3, self.image_size, self.image_size)
        images[torch.arange(self.count), labels] += 2
        return DataLoader(TensorDataset(images, labels), batch_size=20)

    train_dataloader = val_dataloader = test_dataloader = loader


class Trained(Squares):
    val_dataloader = LightningDataModule.val_dataloader
""",
    "conf/data/squares.yaml": """_target_: mine.data.Squares
classes: [red, green, blue]
image_size: 20
channels: 3
""",
    "conf/data/bare.yaml": "_target_: mine.data.Squares\nimage_size: 20\n",
}
OWN_DATA = ("--config-dir=conf", "data=squares", "model.width_mult=0.25")


def test_a_data_module(call: Call, own: Path) -> None:
    """Three channels and classes, and no key of ours but those that describe the batches."""
    write(own, DATA)
    ended = call("train", *OWN_DATA, "trainer.max_epochs=3", "hydra.run.dir=run")
    assert ended.status == 0, ended.err
    assert "MobileNetV2 on Squares" in ended.out
    assert record(own / "run")["tested_checkpoint"] == "best"
    assert record(own / "run")["multiply_adds"] is not None
    for split in ("test", "val"):
        ended = call("evaluate", "run_dir=run", f"split={split}", "trust=[mine]")
        assert ended.status == 0, ended.err
        assert f"best on 60 {split} images" in ended.out
        assert re.search(r"^ +blue .* 20$", ended.out, re.M)
    assert not (own / "run" / "evaluation" / "best-test-wrong.png").exists()
    assert (own / "run" / "evaluation" / "best-test-confusion.png").is_file()
    ended = call("train", "resume=run", "trust=[mine]", "trainer.max_epochs=4")
    assert ended.status == 0, ended.err
    assert call("evaluate", "run_dir=run").err.endswith("add trust=[mine]\n")
    ended = call("evaluate", "run_dir=run", "trust=[mine]", "data.dir=.")
    assert ended.err == "error: data.dir: mine.data.Squares has no such option\n"


def test_a_data_module_without_validation(call: Call, own: Path) -> None:
    write(own, DATA)
    trained = "data._target_=mine.data.Trained"
    ended = call("train", *OWN_DATA, trained, "trainer.max_epochs=1", "hydra.run.dir=run")
    assert ended.status == 0, ended.err
    assert record(own / "run")["tested_checkpoint"] == "last"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("data=bare", r"data\.classes: a value is required"),
        ("data.classes=[one]", r"data\.classes=\['one'\]: must be .* at least 2 items"),
        ("data.channels=0", r"data\.channels=0: must be greater than or equal to 1"),
        ("data.count=many", r"data\.count=many: must be an integer"),
        ("data.image_sise=3", r"data\.image_sise: unknown key; did you mean data\.image_size\?"),
        (
            "data.channels=1 model.in_channels=3",
            r"model\.in_channels=3: the images have 1 channel$",
        ),
        ("model.num_classes=10", r"model\.num_classes=10: the data set has 3 classes$"),
        ("data.image_size=4 model.strides=[2,2,2,2,2]", r"too small for the strides"),
        ("model=mine", r"model: Net: .* to have 1 channels, but got 3 channels"),
    ],
)
def test_bad_data_modules(typed: str, message: str, call: Call, own: Path) -> None:
    write(own, DATA)
    arguments = [f"+{arg}" if arg.startswith("data.count") else arg for arg in typed.split()]
    ended = call("train", *OWN_DATA[:2], *arguments)
    assert ended.status == 2
    assert re.search(rf"^error: .*{message}", ended.err), ended.err
    assert ended.err.count("\n") == 1
    assert not (own / "outputs").exists()
