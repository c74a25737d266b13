"""A run's config: as plain data, as a file, and the part of it that makes the outcome."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from mnv2_lightning.data.sets import DATA_DIR
from mnv2_lightning.schema.check import targeted_nodes
from mnv2_lightning.schema.errors import ConfigError
from mnv2_lightning.system.durable_files import write_text

# Keys of a command, and not of a run.
COMMAND_KEYS = ("command", "resume", "run_dir", "sweep", "traceback")
# What a run's outcome does not depend on: where things are, what is shown and logged.
IGNORED_KEYS = (
    *(*COMMAND_KEYS, "overrides", "logger", "data.dir", "data.classes"),
    *("trainer.enable_autolog_hparams", "trainer.enable_model_summary"),
    *("trainer.enable_progress_bar", "trainer.log_every_n_steps"),
    *("trainer.model_registry", "trainer.profiler"),
    *("callbacks.last", "callbacks.non_finite_guard", "callbacks.progress"),
    *("callbacks.test_images", "callbacks.throughput"),
    *("callbacks.divergence", "callbacks.pictures"),  # earlier names of two of them
)
# May change when a run goes on, though the outcome depends on it.
MAY_CHANGE = tuple(
    f"trainer.{key}" for key in ("max_epochs", "accelerator", "devices", "strategy", "num_nodes")
)

FOLDERS = ("run_dir", "dirpath", "save_dir", "log_dir")  # keys of what is written into
# `last`, `{epoch}-{val/loss:.3f}`: no more, as a format can make a slash of a number.
FILENAME = re.compile(r"([\w =,+.-]|\{\w+(/\w+)*(:[\d.]*[defg%]?)?\})+")

# Classes under the names that earlier versions wrote into a run's config.
RENAMED_TARGETS = {
    "mnv2_lightning.callbacks.checkpoint.Checkpoint": (
        "mnv2_lightning.callbacks.model_checkpoint.Checkpoint"
    ),
    "mnv2_lightning.callbacks.divergence.Divergence": (
        "mnv2_lightning.callbacks.non_finite_guard.NonFiniteGuard"
    ),
    "mnv2_lightning.callbacks.non_finite_guard.Divergence": (
        "mnv2_lightning.callbacks.non_finite_guard.NonFiniteGuard"
    ),
    "mnv2_lightning.callbacks.pictures.Pictures": "mnv2_lightning.callbacks.test_images.TestImages",
}

# What reading a config raises where it is none: no YAML, no text, not of JSON types or our keys.
NOT_A_CONFIG = (yaml.YAMLError, ValueError, AttributeError, LookupError, TypeError, RecursionError)


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Resolved, of JSON types only."""
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def save(path: Path, config: dict[str, Any]) -> None:
    """As YAML, without what holds for this command only; paths in the run's folder relative to it.

    A folder of data that was typed is kept, whole; one that the environment named is not.
    """
    kept = {k: v for k, v in config.items() if k not in COMMAND_KEYS}
    run_dir = Path(config["run_dir"]).resolve()
    kept = _with_paths(kept, lambda p: os.path.relpath(Path(p).resolve(), run_dir))
    typed = kept["data"]["dir"]
    if typed == os.environ.get(DATA_DIR):
        typed = None
    kept["data"] = kept["data"] | {"dir": typed and str(Path(typed).expanduser().resolve())}
    write_text(path, to_yaml(kept))


def read(path: Path) -> dict[str, Any]:
    """What `save` wrote, for the folder that the file lies in now. ConfigError: it did not."""
    run_dir = path.parent.resolve()
    try:
        text = json.dumps(yaml.safe_load(path.read_text(encoding="utf-8")))
        if "${" in text:  # `save` resolves them; what they stand for could change after a check
            raise ValueError("it holds an interpolation")
        config = _with_paths(
            rename_targets(json.loads(text)), lambda p: os.path.normpath(run_dir / p)
        )
        config["data"]["dir"] = os.environ.get(DATA_DIR) or config["data"]["dir"]
    except NOT_A_CONFIG as error:
        raise ConfigError(f"{path}: not a run's config ({str(error).splitlines()[0]})") from error
    of_the_command = dict.fromkeys(COMMAND_KEYS) | {"run_dir": str(run_dir), "traceback": False}
    return {"overrides": []} | config | of_the_command


def rename_targets(config: dict[str, Any]) -> dict[str, Any]:
    """`config`, changed in place, with the present names of classes."""
    for _, node in targeted_nodes(config):
        node["_target_"] = RENAMED_TARGETS.get(str(node["_target_"]), node["_target_"])
    return config


class _Dumper(yaml.SafeDumper):
    """Lists of plain values on one line, as `conf/` has them."""


_Dumper.add_representer(
    list,
    lambda dumper, value: dumper.represent_sequence(
        "tag:yaml.org,2002:seq",
        value,
        flow_style=not any(isinstance(item, dict | list) for item in value),
    ),
)


def to_yaml(config: dict[str, Any]) -> str:
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _with_paths(config: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """`config` with the keys that name a folder to write into changed."""
    return {
        key: _with_paths(value, change)
        if isinstance(value, dict)
        else change(value)
        if key in FOLDERS and value is not None
        else value
        for key, value in config.items()
    }


def require_inside(config: dict[str, Any]) -> None:
    """ConfigError where a folder that the run writes into, or a checkpoint's name, leads out."""
    run_dir = Path(config["run_dir"]).resolve()
    for path, node in targeted_nodes(config):
        for key in FOLDERS:
            value = node.get(key)
            if value is not None and not Path(str(value)).resolve().is_relative_to(run_dir):
                raise ConfigError(f"{path}.{key}={value}: leads out of the run's folder {run_dir}")
        name = str(node.get("filename") or "last")
        if ".." in name or not FILENAME.fullmatch(name):
            raise ConfigError(
                f"{path}.filename={name}: must be a name without a folder, its fields like "
                "{epoch} or {val/loss:.3f}"
            )


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`; lists stay."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _is_ignored(key: str) -> bool:
    return any(f"{key}.".startswith(f"{out}.") for out in IGNORED_KEYS) or key.endswith(".dirpath")


def reproducibility_config(config: dict[str, Any]) -> dict[str, Any]:
    """The flat part of a config on which the outcome depends."""
    return {key: value for key, value in flatten(config).items() if not _is_ignored(key)}


def differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(key, old value, new value) of each key that differs; None stands for a missing value."""
    for key in old | new:
        if old.get(key) != new.get(key):
            yield key, old.get(key), new.get(key)


def forbidden_changes(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """The differences by which the second config is not one to resume a run of the first with."""
    return (
        x
        for x in differences(reproducibility_config(old), reproducibility_config(new))
        if x[0] not in MAY_CHANGE
    )


def override_values(overrides: Sequence[str]) -> dict[str, Any]:
    """Overrides that the outcome depends on, as values by key."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return {o.key_or_group: o.value() for o in parsed if not _is_ignored(o.key_or_group)}


def config_hash(config: dict[str, Any]) -> str:
    text = json.dumps(
        {
            key: int(value) if isinstance(value, float) and value.is_integer() else value
            for key, value in reproducibility_config(config).items()
        },
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]
