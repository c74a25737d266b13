"""The commands as functions that are called from Python: scripts, notebooks, tests."""

import logging
import signal
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Callback
from omegaconf import OmegaConf

from mnv2_lightning import compose
from mnv2_lightning.cli.conf_files import config_dir
from mnv2_lightning.evaluate import evaluate
from mnv2_lightning.relu_collapse import relu_collapse
from mnv2_lightning.report import report
from mnv2_lightning.reports import leaderboard
from mnv2_lightning.runs.stored_config import read_config
from mnv2_lightning.schema.errors import ConfigError
from mnv2_lightning.search import search
from mnv2_lightning.system import hydra_compat
from mnv2_lightning.train import train
from tests.conftest import SMALL, record

SHORT = (*SMALL, "trainer.max_epochs=1")


@pytest.fixture
def typed(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Overrides of a short run on the made data, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)  # of a command in another test
    return (f"data.dir={small_data}", *SHORT)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_each_call_is_a_new_run(typed: tuple[str, ...], tmp_path: Path) -> None:
    """In a folder as the command makes it; the caller's config stays as it was."""
    cfg = compose("train", [*typed, "experiment=fast", "trainer.max_steps=2"])
    before = OmegaConf.to_container(cfg)
    runs = [Path(train(cfg)["run_dir"]) for _ in range(2)]
    assert OmegaConf.to_container(cfg) == before
    assert runs[0] != runs[1]
    for run in runs:
        assert run.parent == Path("outputs/runs/fast")
        assert record(run)["status"] == "finished"
        assert "experiment=fast" in (run / "config.yaml").read_text()


def test_config_of_hydras_own_compose(typed: tuple[str, ...]) -> None:
    """Its overrides are not known; those of the record make the same config of the default."""
    with hydra_compat.initialize(str(config_dir())):
        cfg = hydra.compose("train", list(typed))
    run = Path(train(cfg)["run_dir"])
    assert run.parent == Path("outputs/runs/default")
    again = compose("train", read_config(run).overrides)
    assert again.optimizer.lr == 0.1
    assert again.callbacks.test_images is None


def test_changed_values_are_overrides(typed: tuple[str, ...]) -> None:
    """By which reports tell runs apart, and of which a search composes its trials."""
    for lr in (0.1, 0.3):
        cfg = compose("train", [*typed, f"hydra.run.dir=runs/{lr}"])
        cfg.optimizer.lr = lr
        cfg.callbacks.ema = {"_target_": "mnv2_lightning.callbacks.ema.EMA", "decay": 0.5}
        del cfg.callbacks.test_images
        train(cfg)
        assert compose("train", read_config(Path(cfg.run_dir)).overrides).optimizer.lr == lr
        assert record(Path(cfg.run_dir))["overrides"]["optimizer.lr"] == lr
    rows = report(compose("report", ["run_dir=runs"]))["rows"]
    assert leaderboard.swept(rows) == ["optimizer.lr"]
    for row in rows:
        assert row["overrides"]["callbacks.ema"]["decay"] == 0.5


def test_search(typed: tuple[str, ...], tmp_path: Path) -> None:
    """Of a changed config, with files of one's own, within another program's Hydra."""
    (tmp_path / "mine" / "optimizer").mkdir(parents=True)
    (tmp_path / "mine" / "optimizer" / "slow.yaml").write_text("defaults: [sgd]\nlr: 0.003\n")
    space = ("~search.space.optimizer", "search.trials=1", "hydra.run.dir=s")
    shared = [override for override in typed if not override.startswith("optimizer")]
    cfg = compose("search", [*shared, *space, "optimizer=slow"], config_dir="mine")
    cfg.optimizer.momentum = 0.5
    with hydra_compat.initialize(str(tmp_path / "mine")):
        assert search(cfg)["finished"] == 1
    trial = read_config(tmp_path / "s" / "0000")
    assert trial.optimizer.lr == 0.003
    assert trial.optimizer.momentum == 0.5


def test_finished_run_is_never_touched(typed: tuple[str, ...], tmp_path: Path) -> None:
    """A second call with its folder returns it, or is refused if the config differs."""
    cfg = compose("train", [*typed, "hydra.run.dir=a"])
    train(cfg)
    before = contents(tmp_path / "a")
    assert train(cfg)["status"] == "finished"
    cfg.optimizer.lr = 0.01
    with pytest.raises(ConfigError, match=r"a: holds a run with optimizer\.lr=0\.1 already"):
        train(cfg)
    with pytest.raises(ConfigError, match=r"optimizer\.lr=0\.2: cannot change when a run"):
        compose("train", ["resume=a", "optimizer.lr=0.2"])
    cfg = compose("train", ["resume=a"])
    cfg.optimizer.lr = 0.01
    with pytest.raises(ConfigError, match=r"a: holds a run with optimizer\.lr=0\.1 already"):
        train(cfg)
    assert contents(tmp_path / "a") == before


def test_resume(typed: tuple[str, ...], tmp_path: Path) -> None:
    train(compose("train", [*typed, "hydra.run.dir=a"]))
    longer = train(compose("train", ["resume=a", "trainer.max_epochs=2"]))
    assert longer["epochs"] == 2
    assert longer["run_dir"] == str(tmp_path / "a")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optimizer.lr", -1.0, r"optimizer\.lr=-1\.0: must be greater than 0"),
        ("data.batch_size", 0, r"data\.batch_size=0: must be"),
        ("data.image_size", 6000, r"data\.image_size=6000: must be"),
        ("trainer.accelerator", "gpu", r"trainer\.accelerator=gpu: this machine has none"),
        ("callbacks.last.dirpath", "/elsewhere", r"callbacks\.last\.dirpath=/elsewhere: leads out"),
        ("model._target_", "none.Net", r"model\._target_=none\.Net: there is no package none"),
        ("resume", "nowhere", r"resume=nowhere: there is no such folder"),
        ("optimizer.lr", "${nope}", r"nope"),
    ],
)
def test_checked_before_anything_is_written(
    key: str, value: object, message: str, typed: tuple[str, ...], tmp_path: Path
) -> None:
    cfg = compose("train", typed)
    OmegaConf.update(cfg, key, value)
    with pytest.raises(ConfigError, match=message):
        train(cfg)
    assert list(tmp_path.iterdir()) == []


def test_several_processes_need_a_launcher(typed: tuple[str, ...], tmp_path: Path) -> None:
    ddp = ("trainer.accelerator=cpu", "trainer.strategy=ddp", "trainer.devices=2")
    with pytest.raises(ConfigError, match=r"train\(\) is one process, and 2 are needed"):
        train(compose("train", [*typed, *ddp]))
    assert list(tmp_path.iterdir()) == []


def test_wrong_overrides_are_refused_as_typed() -> None:
    with pytest.raises(ConfigError, match=r"did you mean optimizer\.lr"):
        compose("train", ["optimzer.lr=1"])
    with pytest.raises(ConfigError, match=r"run_dir: a value is required"):
        evaluate(compose("evaluate"))
    with pytest.raises(ConfigError, match=r"split=tset: must be 'test' or 'val'"):
        evaluate(compose("evaluate", ["split=tset", "run_dir=a"]))


def test_other_commands(typed: tuple[str, ...], tmp_path: Path) -> None:
    run = train(compose("train", typed))["run_dir"]
    assert evaluate(compose("evaluate", [f"run_dir={run}"]))["split"] == "test"
    assert report(compose("report", [f"run_dir={run}"]))["rows"]
    assert (Path(run) / "report" / "report.html").is_file()
    assert relu_collapse(compose("relu_collapse", ["matrices=2", "points=10"]))["shares"]
    assert not GlobalHydra.instance().is_initialized()


def test_config_dir_of_ones_own(typed: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "mine" / "optimizer").mkdir(parents=True)
    (tmp_path / "mine" / "optimizer" / "slow.yaml").write_text("defaults: [sgd]\nlr: 0.003\n")
    assert compose("train", ["optimizer=slow"], config_dir="mine").optimizer.lr == 0.003
    with pytest.raises(ConfigError, match=r"config_dir=mien: there is no such folder"):
        compose("train", config_dir="mien")


def test_within_an_initialized_hydra(typed: tuple[str, ...], tmp_path: Path) -> None:
    """Of another program, whose state stays as it is."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "app.yaml").write_text("x: 1\n")
    with hydra_compat.initialize(str(tmp_path / "theirs")):
        assert record(Path(train(compose("train", typed))["run_dir"]))["status"] == "finished"
        assert hydra.compose("app").x == 1


def test_messages_where_logging_is_not_set_up(
    typed: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("mnv2_lightning")
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "level", logging.NOTSET)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    train(compose("train", typed))
    out = capsys.readouterr().out
    assert "parameters" in out
    assert "test accuracy" in out
    assert "epoch 1/1" in out


class Interrupt(Callback):
    def on_train_batch_end(self, *args: object, **kwargs: object) -> None:
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_is_keyboard_interrupt(typed: tuple[str, ...]) -> None:
    """Lightning ends the process, and ignores Ctrl-C from then on."""
    handler = signal.default_int_handler  # ignored in a background process of a shell
    signal.signal(signal.SIGINT, handler)
    with pytest.raises(KeyboardInterrupt):
        train(compose("train", [*typed, "hydra.run.dir=a"]), [Interrupt()])
    assert signal.getsignal(signal.SIGINT) == handler
    assert record(Path("a"))["status"] == "interrupted"
    assert train(compose("train", [*typed, "hydra.run.dir=a"]))["status"] == "finished"
