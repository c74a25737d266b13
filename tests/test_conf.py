"""`conf/`, the schema and the code agree."""

import inspect
import itertools
import re
from pathlib import Path
from typing import Any, get_args

import lightning.pytorch as L
import pytest
import torch
import yaml
from hydra import compose as compose_hydra
from lightning.pytorch.strategies import StrategyRegistry

import mnv2_lightning
from mnv2_lightning import build
from mnv2_lightning.cli import conf_files
from mnv2_lightning.cli.conf_files import config_dir
from mnv2_lightning.networks import complexity
from mnv2_lightning.runs.config import config_hash, plain, reproducibility_config
from mnv2_lightning.schema.check import check
from mnv2_lightning.schema.errors import ConfigError
from mnv2_lightning.schema.models import BY_COMMAND, BY_TARGET, STRATEGIES, TargetConfig
from mnv2_lightning.schema.nearest import did_you_mean
from mnv2_lightning.schema.targets import check_targets, resolve
from mnv2_lightning.system import hydra_compat
from mnv2_lightning.train import train
from tests.conftest import SMALL, Configure

PACKAGE = Path(mnv2_lightning.__file__).parent
# What build.py gives, and what the config leaves to the code's defaults.
GIVEN = {
    "mnv2_lightning.classifier.Classifier": {
        "network", "optimizer", "scheduler", "num_classes", "seed",
    },
    "lightning.pytorch.Trainer": {"logger", "callbacks", "default_root_dir"},
    "torch.optim.SGD": {"params", "dampening"},
    "torch.optim.AdamW": {"params", "amsgrad"},
    "torch.optim.RMSprop": {"params", "centered"},
}  # fmt: skip
SCHEDULE = {"total_steps", "steps_per_epoch"}
# How torch computes it, not what: need be no key.
TORCH = {"foreach", "maximize", "capturable", "differentiable", "fused"}


def choices(group: str) -> list[str]:
    return sorted(p.stem for p in (config_dir() / group).glob("*.yaml"))


@pytest.mark.parametrize("target", BY_TARGET)
def test_models_are_the_signatures(target: str) -> None:
    """A key for each parameter and no other: nothing can be set that does nothing."""
    parameters = set(inspect.signature(resolve("", target)).parameters) - {"self"}
    keys = {f.alias or name for name, f in BY_TARGET[target].model_fields.items()}
    given = GIVEN.get(target, set()) | (SCHEDULE if "schedules" in target else set())
    left = given | (TORCH - keys if target.startswith("torch.optim") else set())
    own = {"weights"} if "networks" in target else set()  # see OWN_KEYS
    assert {k for k in keys if not k.startswith("_")} - own == parameters - left


def test_strategies_are_lightnings() -> None:
    """Those that shard parameters, train in spawned processes or on a TPU are refused."""
    others = re.compile("_(spawn|fork|notebook)|fsdp|deepspeed|xla|tpu")
    assert set(get_args(STRATEGIES)) == {
        "auto",
        *(name for name in StrategyRegistry.available_strategies() if not others.search(name)),
    }


@pytest.mark.parametrize(
    "override",
    [
        *(f"{group}={choice}" for group in ("model", "data", "optimizer", "scheduler", "experiment")
          for choice in choices(group)),
        *(f"callbacks=[default,{choice}]" for choice in choices("callbacks")),
    ],
)  # fmt: skip
def test_every_choice_composes_and_passes(override: str, configure: Configure) -> None:
    config = plain(configure(override))
    if override == "data=digits":  # of evaluate
        with pytest.raises(ConfigError, match="has test images only"):
            check("train", config)
        return
    check("train", config)
    check_targets(config)


@pytest.mark.parametrize("command", BY_COMMAND)
def test_every_command_has_a_config_a_model_and_a_script(command: str) -> None:
    assert command in [p.stem for p in config_dir().glob("*.yaml")]
    assert (PACKAGE / f"{command}.py").is_file()
    scripts = (PACKAGE.parent / "pyproject.toml").read_text()
    assert f'mnv2-{command.replace("_", "-")} = "mnv2_lightning.{command}:main"' in scripts


@pytest.mark.parametrize("name", choices("experiment"))
def test_every_experiment_runs_a_step(name: str, configure: Configure) -> None:
    val_size = 0 if name.startswith("tutorial") else 100
    overrides = [f"experiment={name}", "trainer.fast_dev_run=true", f"data.val_size={val_size}"]
    assert train(configure(*overrides))["status"] == "finished"


@pytest.mark.parametrize("name", choices("experiment"))
def test_every_experiment_says_what_it_claims_and_costs(name: str) -> None:
    text = (config_dir() / "experiment" / f"{name}.yaml").read_text()
    for part in ("# Expected: ", "# Cost: ", "# Command: python -m mnv2_lightning.train"):
        assert part in text


@pytest.mark.parametrize("name", choices("study"))
def test_every_study_says_what_it_asks_claims_and_costs(name: str) -> None:
    header = conf_files.header(config_dir() / "study" / f"{name}.yaml")
    assert re.search(r"\?( |$)", header[1])
    for part in ("Claim: ", "Cost: ", f"Command: python -m mnv2_lightning.train -m study={name}"):
        assert any(line.startswith(part) for line in header)


@pytest.mark.parametrize("name", choices("study"))
def test_every_arm_of_every_study_composes(name: str, configure: Configure) -> None:
    """Also on other data, with few labels; those of equal multiply-adds have them."""
    with hydra_compat.initialize(str(config_dir())):
        params = compose_hydra("train", [f"study={name}"], return_hydra_config=True).hydra.sweeper
    multiply_adds: list[int] = []
    for arm in itertools.product(
        *(
            [f"{k}={v}" for v in values.split(",")]
            for k, values in params["params"].items()
            if k != "seed"
        )
    ):
        cfg = configure(f"study={name}", *arm, "data.train_size=1000", "data=fashion_mnist")
        check("train", plain(cfg))
        with torch.device("meta"):
            network = build.build_network(cfg)
        size = cfg.data.image_size
        multiply_adds.append(
            complexity.measure(network, in_channels=1, image_size=size).multiply_adds or 0
        )
    if name in ("expand_ratio_equal_macs", "v1_v2", "depthwise_activation"):
        assert max(multiply_adds) < 1.011 * min(multiply_adds)


def test_tutorial_is_the_tutorials_recipe(configure: Configure) -> None:
    cfg = configure("experiment=tutorial")
    assert (cfg.data.image_size, cfg.data.batch_size, cfg.data.val_size) == (224, 32, 0)
    assert (cfg.optimizer.lr, cfg.optimizer.momentum) == (0.05, 0.5)
    assert (cfg.optimizer.nesterov, cfg.optimizer.weight_decay) == (False, 0)
    assert (cfg.trainer.max_epochs, cfg.trainer.log_every_n_steps) == (5, 50)
    assert cfg.scheduler._target_ == "mnv2_lightning.schedules.constant"
    assert (cfg.data.mean, cfg.data.std) == (0.1307, 0.3081)
    assert not any(cfg.data.augment.values())


def test_trainer_config_has_every_argument_at_its_default(configure: Configure) -> None:
    """But for those that the file gives a reason for."""
    ours = plain(configure("experiment=tutorial"))["trainer"]
    theirs = inspect.signature(L.Trainer).parameters
    chosen = {
        "precision", "max_epochs", "num_sanity_val_steps", "log_every_n_steps",
        "enable_checkpointing", "enable_progress_bar", "enable_model_summary",
        "use_distributed_sampler",
    }  # fmt: skip
    for key in ours.keys() - chosen - {"_target_"}:
        assert ours[key] == theirs[key].default, key


def test_config_hash(configure: Configure, tmp_path: Path) -> None:
    """Changes with what changes the outcome, and with nothing else."""
    base = config_hash(plain(configure()))
    for override in ("seed=1", "optimizer.lr=0.3", "trainer.max_epochs=9", "model=tutorial"):
        assert config_hash(plain(configure(override))) != base, override
    assert config_hash(plain(configure("optimizer.lr=1"))) == config_hash(
        plain(configure("optimizer.lr=1.0"))
    )
    for override in (
        "trainer.enable_progress_bar=false",
        "trainer.log_every_n_steps=7",
        "logger.tensorboard=null",
        "callbacks.progress=null",
        "traceback=true",
        "data.dir=elsewhere",
    ):
        assert config_hash(plain(configure(override))) == base, override
    moved = plain(configure(run_dir=tmp_path / "other"))
    assert reproducibility_config(moved) == reproducibility_config(plain(configure()))


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [("optimzer.lr", "optimizer.lr"), ("lr", "optimizer.lr"), ("zzz", ""), ("sed", "seed")],
)
def test_nearest_key(wrong: str, expected: str) -> None:
    hint = did_you_mean(wrong, ["optimizer.lr", "seed", "model.width_mult"])
    assert hint == (f"; did you mean {expected}?" if expected else "")


def test_a_network_without_a_model_in_the_schema(configure: Configure) -> None:
    """Its signature is checked."""
    config = plain(configure())
    config["model"] = {"_target_": "mnv2_lightning.networks.blocks.conv_norm", "in_channels": 1}
    config["model"]["out_channels"] = 1
    check("train", config)
    check_targets(config)
    config["model"]["stide"] = 1
    with pytest.raises(ConfigError, match=r"stide: unknown key; did you mean model\.stride\?"):
        check_targets(config)
    del config["model"]["stide"], config["model"]["out_channels"]
    with pytest.raises(ConfigError, match=r"model\.out_channels: a value is required"):
        check_targets(config)


def test_yaml_is_all_there_is_in_conf() -> None:
    for path in config_dir().rglob("*"):
        assert path.is_dir() or isinstance(yaml.safe_load(path.read_text()), dict), path


def test_hyper_parameters_are_plain(configure: Configure) -> None:
    cfg = configure(*SMALL)
    classifier = build.build_classifier(cfg, build.build_network(cfg))

    def kinds(value: Any) -> set[type]:
        if isinstance(value, dict):
            return set().union(*map(kinds, value.values()))
        if isinstance(value, list):
            return set().union(*map(kinds, value))
        return {type(value)}

    assert kinds(dict(classifier.hparams)) <= {str, int, float, bool, type(None)}


def test_a_model_for_another_network(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the schema, with keys of its own and none of ours."""

    class Mine(TargetConfig):
        width: int

    monkeypatch.setitem(BY_TARGET, "mine.Mine", Mine)
    config = plain(configure())
    check("train", config | {"model": {"_target_": "mine.Mine", "width": 3}})
    with pytest.raises(ConfigError, match=r"model\.width=a: must be an integer"):
        check("train", config | {"model": {"_target_": "mine.Mine", "width": "a"}})


def test_an_optimizer_with_nesterov_and_no_momentum_in_its_config(configure: Configure) -> None:
    muon = {"_target_": "torch.optim.Muon", "_partial_": True, "nesterov": True}
    check("train", plain(configure()) | {"optimizer": muon})
