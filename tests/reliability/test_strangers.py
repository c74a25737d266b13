"""A stranger's run folder, config or checkpoint runs no code and writes nowhere else."""

import os
import pickle
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from mnv2_lightning.callbacks.model_checkpoint import Checkpoint
from mnv2_lightning.runs.config import require_inside
from mnv2_lightning.runs.stored_config import resumed_config
from mnv2_lightning.schema.errors import ConfigError
from tests.conftest import AUGMENTED, SMALL, Call
from tests.reliability.conftest import Reliability


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def in_place(path: str) -> Callable[[dict[str, Any], Payload], Any]:
    """Puts the payload where the dotted path leads in a checkpoint."""

    def put(content: dict[str, Any], payload: Payload) -> Any:
        *way, last = path.split(".")
        node: Any = content
        for key in way:
            node = node[int(key)] if isinstance(node, list) else node.setdefault(key, {})
        node[last] = payload
        return content

    return put


PLACES = (
    "state_dict.network.x",
    "hyper_parameters.model",
    "optimizer_states.0.state",
    "lr_schedulers.0.x",
    "callbacks.x",
    "loops.fit_loop",
    "epoch",
    "validation",
    "anything",
)


@pytest.mark.parametrize("place", [*PLACES, "the whole file", "a bare pickle"])
@pytest.mark.parametrize("name", ["last", "best"])
def test_pickles_in_a_checkpoint(
    place: str, name: str, run: Path, call: Call, tmp_path: Path, reliability: Reliability
) -> None:
    shutil.copytree(run, tmp_path / "run")
    path, mark = tmp_path / "run" / "checkpoints" / f"{name}.ckpt", tmp_path / "fired"
    payload: Any = Payload(mark)
    if place == "a bare pickle":
        path.write_bytes(pickle.dumps(payload))
    elif place == "the whole file":
        torch.save(payload, path)
    else:
        content = torch.load(path, weights_only=True)
        torch.save(in_place(place)(content, payload), path)
    is_zip = place != "a bare pickle"
    if name == "last" and is_zip:
        ended = call("train", "resume=run", "trainer.max_epochs=9")
    else:
        ended = call("evaluate", "run_dir=run", f"checkpoint={name}")
    assert not mark.exists()
    assert ended.status == (2 if is_zip else 4)
    assert ("not a checkpoint" if is_zip else "damaged (File is not a zip file)") in ended.err
    reliability.found.setdefault("strangers", {"cases": 0, "fired": 0})["cases"] += 1


MARK = "fired"
CONFIGS: dict[str, dict[str, Any]] = {
    "a class of the system": {"model": {"_target_": "os.mkdir", "path": MARK}},
    "an alias through ours": {
        "model": {"_target_": "mnv2_lightning.networks.complexity.copy.os.mkdir", "path": MARK}
    },
    "a function of ours that writes": {
        "model": {"_target_": "mnv2_lightning.system.durable_files.make_folder", "folder": MARK}
    },
    "by interpolation": {
        "model": {"_target_": "${classifier.name}", "path": MARK},
        "classifier": {"_target_": "mnv2_lightning.classifier.Classifier", "name": "os.mkdir"},
    },
    "by the environment": {"model": {"_target_": "${oc.env:FIRED}", "path": MARK}},
    "nested": {"optimizer": {"x": {"_target_": "os.mkdir", "path": MARK}}},
    "in a list": {"trainer": {"plugins": [{"_target_": "os.mkdir", "path": MARK}]}},
    "torch.load": {"model": {"_target_": "torch.load", "f": "payload.pt", "weights_only": False}},
    "torch.hub": {"model": {"_target_": "torch.hub.load", "repo_or_dir": ".", "model": "x"}},
    "hydra.callbacks": {"hydra": {"callbacks": {"x": {"_target_": "os.mkdir", "path": MARK}}}},
    "a launcher": {"hydra": {"launcher": {"_target_": "os.mkdir", "path": MARK}}},
    "a metric that downloads": {"model": {"_target_": "torchmetrics.text.ROUGEScore"}},
    "args": {"model": {"_target_": "os.mkdir", "_args_": [MARK]}},
    "args of ours": {"optimizer": {"_target_": "torch.optim.SGD", "_args_": [MARK]}},
    "a module that runs code": {"model": {"_target_": "evil.Net"}},
    "a package that runs code": {"model": {"_target_": "evil.networks.Net"}},
    "a function of ours": {"model": {"_target_": "mnv2_lightning.data.idx_files.load"}},
    "what ours import": {"model": {"_target_": "mnv2_lightning.networks.blocks.OrderedDict"}},
    "a method of ours": {
        "model": {"_target_": "mnv2_lightning.callbacks.model_checkpoint.Checkpoint.to_yaml"}
    },
    "no name": {"model": {"_target_": ["os", "mkdir"]}},
}


def change(config: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if (
            isinstance(value, dict)
            and "_target_" not in value
            and isinstance(config.get(key), dict)
        ):
            change(config[key], value)
        else:
            config[key] = value


@pytest.mark.parametrize("kind", CONFIGS)
def test_configs_of_a_run_folder(
    kind: str,
    run: Path,
    call: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reliability: Reliability,
) -> None:
    shutil.copytree(run, tmp_path / "run")
    torch.save(Payload(tmp_path / MARK), tmp_path / "payload.pt")
    (tmp_path / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / MARK)!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("FIRED", "os.mkdir")
    monkeypatch.setenv("MNV2_TRUST", "mine,evi,")
    path = tmp_path / "run" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    change(config, CONFIGS[kind])
    path.write_text(yaml.safe_dump(config))
    for args in (("evaluate", "run_dir=run"), ("train", "resume=run", "trainer.max_epochs=9")):
        ended = call(*args)
        assert not (tmp_path / MARK).exists()
        assert ended.status == 2, ended.err
        assert ended.err.count("\n") == 1
    reliability.found.setdefault("strangers", {"cases": 0, "fired": 0})["cases"] += 2


def test_python_in_a_config(run: Path, call: Call, tmp_path: Path) -> None:
    """YAML's tags make no objects."""
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    path.write_text(path.read_text() + f"x: !!python/object/apply:os.mkdir [{tmp_path / MARK}]\n")
    for args in (("evaluate", "run_dir=run"), ("train", "resume=run")):
        ended = call(*args)
        assert ended.status == 2
        assert "config.yaml: not a run's config" in ended.err
    assert not (tmp_path / MARK).exists()


@pytest.mark.parametrize("out", ["../../out", "/tmp/mnv2-out", "link"])
def test_paths_that_lead_out(out: str, run: Path, call: Call, tmp_path: Path) -> None:
    """A checkpoint folder that a stranger's config or link puts elsewhere is refused."""
    shutil.copytree(run, tmp_path / "a" / "run")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder = tmp_path / "a" / "run"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    if out == "link":
        shutil.move(folder / "checkpoints", tmp_path / "kept")
        (folder / "checkpoints").symlink_to(elsewhere)
    else:
        config["callbacks"]["last"]["dirpath"] = out
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    ended = call("train", "resume=a/run", "trainer.max_epochs=3", "traceback=true")
    assert ended.status == 2, ended.err
    assert "leads out of the run's folder" in ended.err
    assert list(elsewhere.iterdir()) == []


def strange(run: Path, folder: Path, changes: dict[str, Any]) -> Path:
    """A copy of the run in `folder`, its config changed."""
    shutil.copytree(run, folder)
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    change(config, changes)
    path.write_text(yaml.safe_dump(config))
    return folder


def outside(folder: Path, root: Path) -> dict[Path, bytes]:
    """What lies below `root` and not in `folder`."""
    there = (p for p in root.rglob("*") if p != folder and folder not in p.parents)
    return {p: p.read_bytes() if p.is_file() else b"" for p in there}


LOGGERS, PROFILERS = "lightning.pytorch.loggers", "lightning.pytorch.profilers"
SIMPLE = {"_target_": f"{PROFILERS}.SimpleProfiler", "filename": "evil"}
WRITES: dict[str, dict[str, Any]] = {
    "a checkpoint's name": {"callbacks": {"last": {"filename": "../../../evil"}}},
    "a checkpoint's name behind another key": {
        "callbacks": {"last": {"filename": "../../../evil"}, "last.filename": None}
    },
    "a logger": {"logger": {"x": {"_target_": f"{LOGGERS}.CSVLogger", "save_dir": "../evil"}}},
    "a logger's name": {
        "logger": {"x": {"_target_": f"{LOGGERS}.CSVLogger", "save_dir": ".", "name": "../../evil"}}
    },
    "a logger's arguments": {
        "logger": {"x": {"_target_": f"{LOGGERS}.CSVLogger", "_args_": ["evil"]}}
    },
    "a logger that sends": {
        "logger": {
            "x": {"_target_": f"{LOGGERS}.MLFlowLogger", "tracking_uri": "http://127.0.0.1:9"}
        }
    },
    "a profiler": {"trainer": {"profiler": SIMPLE | {"dirpath": "../evil"}}},
    "a profiler's arguments": {
        "trainer": {"profiler": {"_target_": SIMPLE["_target_"], "_args_": ["evil", "evil"]}}
    },
    "a profiler elsewhere": {"callbacks": {"x": SIMPLE | {"dirpath": "x"}}},
    "a model's name": {"trainer": {"model_registry": "them/evil"}},
}


@pytest.mark.parametrize("kind", WRITES)
def test_what_would_write_elsewhere_or_send(
    kind: str, run: Path, call: Call, tmp_path: Path
) -> None:
    folder = strange(run, tmp_path / "a" / "run", WRITES[kind])
    before = outside(folder, tmp_path)
    ended = call("evaluate", "run_dir=a/run")
    assert outside(folder, tmp_path) == before
    assert (ended.status, ended.err.count("\n")) in ((0, 0), (2, 1)), ended.err
    ended = call("train", "resume=a/run", "trainer.max_epochs=3")
    assert outside(folder, tmp_path) == before
    assert (ended.status, ended.err.count("\n")) == (2, 1), ended.err


@pytest.mark.parametrize(
    ("filename", "is_one"),
    [
        ("last", True),
        ("{epoch}-{step}", True),
        ("epoch={epoch:02d} val={val/accuracy:.4f}", True),
        ("../last", False),
        ("/tmp/last", False),
        ("a\\b", False),
        ("{epoch:/>2}", False),  # "/0"
        ("{epoch:c}tmp{epoch:c}x", False),  # "/tmp/x" in epoch 47
        ("{/tmp/x}", False),  # "/tmp/x=0"
        ("{epoch.__class__}", False),
    ],
)
def test_names_of_checkpoints(filename: str, is_one: bool, tmp_path: Path) -> None:
    node = {
        "_target_": "mnv2_lightning.callbacks.model_checkpoint.Checkpoint",
        "filename": filename,
    }
    config = {"run_dir": str(tmp_path), "callbacks": {"last": node}}
    with (
        nullcontext() if is_one else pytest.raises(ConfigError, match=r"callbacks\.last\.filename=")
    ):
        require_inside(config)


def test_a_checkpoint_deletes_nothing_elsewhere(run: Path, call: Call, tmp_path: Path) -> None:
    """Lightning's own callback removes the file that its state calls the best before."""
    victim = tmp_path / "victim"
    victim.write_text("kept")
    target = "lightning.pytorch.callbacks.ModelCheckpoint"
    folder = strange(run, tmp_path / "run", {"callbacks": {"best": {"dirpath": "checkpoints"}}})
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(
        text.replace("mnv2_lightning.callbacks.model_checkpoint.Checkpoint", target)
    )
    path = folder / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    wrong = f"{folder}/checkpoints/../../victim"
    states = content["callbacks"]
    for key in [k for k in states if k.startswith("Checkpoint")]:
        states[f"Model{key}"] = states.pop(key) | {
            "dirpath": str(folder / "checkpoints"),
            "best_model_path": wrong,
            "kth_best_model_path": wrong,
            "best_k_models": {wrong: torch.tensor(-1.0)},
            "kth_value": torch.tensor(-1.0),
        }
    torch.save(content, path)
    ended = call("train", "resume=run", "trainer.max_epochs=3")
    assert victim.is_file()
    assert ended.status == 2, ended.err


def test_what_is_typed_takes_the_place_of_a_strangers(run: Path, tmp_path: Path) -> None:
    """All of it: no key of theirs is left."""
    node = SIMPLE | {"dirpath": "evil"}
    folder = strange(run, tmp_path / "run", {"trainer": {"profiler": node}})
    composed = OmegaConf.create({"resume": str(folder)})
    typed = f"trainer.profiler={{_target_: {PROFILERS}.AdvancedProfiler}}"
    cfg = resumed_config(composed, [typed])
    assert cfg.trainer.profiler == {"_target_": f"{PROFILERS}.AdvancedProfiler"}
    assert resumed_config(composed, ["trainer.profiler=null"]).trainer.profiler is None
    with pytest.raises(
        ConfigError, match=r"trainer\.profiler\._target_=.* add trust=\[lightning\]"
    ):
        resumed_config(composed, ["trainer.profiler.dirpath=x"])


def test_a_checkpoint_names_no_folder_above(tmp_path: Path) -> None:
    callback = Checkpoint(dirpath=tmp_path)
    state = callback.state_dict()
    callback.load_state_dict(state | {"best_k_models": {"a/..": 0, "..": 1, "../../x.ckpt": 2}})
    assert set(callback.best_k_models) == {str(tmp_path), str(tmp_path / "x.ckpt")}


def test_a_logger_of_ones_own(call: Call, tmp_path: Path) -> None:
    """Goes on with the same command; by `resume=` it is typed again or trusted, and `evaluate`
    needs none.
    """
    node = f"{{_target_: {LOGGERS}.CSVLogger, save_dir: '${{run_dir}}', name: mine}}"
    command = (*SMALL, f"+logger.mine={node}", "hydra.run.dir=run")
    assert call("train", *command, "trainer.max_epochs=1").status == 0
    ended = call("train", *command, "trainer.max_epochs=2")
    assert ended.status == 0, ended.err
    assert len(list((tmp_path / "run" / "mine").iterdir())) == 2
    assert call("evaluate", "run_dir=run").status == 0
    ended = call("train", "resume=run", "trainer.max_epochs=3")
    assert ended.status == 2
    assert f"logger.mine._target_={LOGGERS}.CSVLogger: not one of ours" in ended.err
    for epochs, more in ((3, f"+logger.mine={node}"), (4, "trust=[lightning]"), (5, "logger=csv")):
        ended = call("train", "resume=run", f"trainer.max_epochs={epochs}", more)
        assert ended.status == 0, ended.err
    assert len(list((tmp_path / "run" / "mine").iterdir())) == 4


@pytest.mark.parametrize("kind", ["absent", "damaged", "of nobody"])
def test_a_data_folder_is_not_written_into(
    kind: str, run: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a run's config names one without the files, the default is used."""
    monkeypatch.delenv("MNV2_DATA_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    evil = tmp_path / "evil"
    if kind == "damaged":
        evil.mkdir()
        (evil / "train-images-idx3-ubyte").write_text("damaged")
    before = outside(tmp_path / "cache", evil)
    named = "~nobody-of-that-name" if kind == "of nobody" else str(evil)
    strange(run, tmp_path / "run", {"data": {"dir": named}})
    for args in (("evaluate", "run_dir=run"), ("train", "resume=run", "trainer.max_epochs=3")):
        ended = call(*args)
        assert ended.status == 5, ended.err
        assert str(tmp_path / "cache") in ended.err
        assert evil.exists() == (kind == "damaged")
        assert outside(tmp_path / "cache", evil) == before


def test_a_data_folder_with_the_files_is_read(
    run: Path, call: Call, tmp_path: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MNV2_DATA_DIR")
    strange(run, tmp_path / "run", {"data": {"dir": str(small_data)}})
    assert call("evaluate", "run_dir=run").status == 0


@pytest.mark.parametrize("name", ["train.log", "checkpoints/last.ckpt"])
@pytest.mark.parametrize("is_run", [True, False])
def test_links_where_the_same_command_goes_on(
    name: str, is_run: bool, run: Path, call: Call, tmp_path: Path
) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    if is_run:
        shutil.copytree(run, tmp_path / "run", dirs_exist_ok=True)
    victim = tmp_path / "victim"
    victim.write_text("mine\n")
    link = tmp_path / "run" / name
    link.unlink(missing_ok=True)
    link.symlink_to(victim)
    ended = call("train", *SMALL, *AUGMENTED, "callbacks=[default,ema]", "hydra.run.dir=run")
    assert victim.read_text() == "mine\n"
    assert ended.status == 2
    assert f"{Path('run') / name}: leads out of the run's folder" in ended.err


def test_a_link_to_itself_leads_nowhere(run: Path, call: Call, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "loop").symlink_to("loop")
    assert call("evaluate", "run_dir=run").status == 0
