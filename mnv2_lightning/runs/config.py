"""The config of a run: as a dict, as a file, and the part that its result depends on."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mnv2_lightning.data.sets import DATA_DIR, DATA_SETS
from mnv2_lightning.schema.check import has_idx_files, targeted_nodes
from mnv2_lightning.schema.errors import ConfigError
from mnv2_lightning.system.durable_files import write_text

if TYPE_CHECKING:
    from omegaconf import DictConfig

# Keys that belong to a command, not to the run; config.yaml does not hold them.
COMMAND_KEYS = ("command", "fail_fast", "resume", "run_dir", "sweep", "traceback", "trust")
# Keys that neither the result of a run depends on nor a comparison of runs shows.
HIDDEN_KEYS = (*COMMAND_KEYS, "overrides", "hydra", "logger", "data.dir", "data.classes")
# Keys that the result of a run does not depend on: paths, logging, progress.
IGNORED_KEYS = (
    *HIDDEN_KEYS,
    *("trainer.enable_autolog_hparams", "trainer.enable_model_summary"),
    *("trainer.enable_progress_bar", "trainer.log_every_n_steps"),
    *("trainer.model_registry", "trainer.profiler"),
    *("callbacks.last", "callbacks.non_finite_guard", "callbacks.progress"),
    *("callbacks.test_images", "callbacks.throughput"),
    *("callbacks.divergence", "callbacks.pictures"),  # in runs of earlier versions
)
LENGTH_KEYS = ("max_epochs", "max_steps")  # of `trainer`
# Keys that the result depends on, but that may change when a run is resumed.
MAY_CHANGE = tuple(
    f"trainer.{key}" for key in (*LENGTH_KEYS, "accelerator", "devices", "strategy", "num_nodes")
)

LONG = 40  # characters; names show the hash of a longer value
FOLDERS = ("run_dir", "dirpath", "save_dir", "log_dir")  # keys of folders that are written to
# File names such as `last` and `{epoch}-{val/loss:.3f}`. Other format specs could yield a slash.
FILENAME = re.compile(r"([\w =,+.-]|\{\w+(/\w+)*(:[\d.]*[defg%]?)?\})+")

# Class names in configs of earlier versions, and their present names.
RENAMED_TARGETS = {
    f"mnv2_lightning.callbacks.{earlier}": f"mnv2_lightning.callbacks.{present}"
    for earlier, present in (
        ("checkpoint.Checkpoint", "model_checkpoint.Checkpoint"),
        ("divergence.Divergence", "non_finite_guard.NonFiniteGuard"),
        ("non_finite_guard.Divergence", "non_finite_guard.NonFiniteGuard"),
        ("pictures.Pictures", "test_images.TestImages"),
    )
}

# Errors of reading a file that is not a config: not YAML, other types than JSON's, missing keys.
NOT_A_CONFIG = (yaml.YAMLError, ValueError, AttributeError, LookupError, TypeError, RecursionError)


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config as a dict of JSON types."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def saves_checkpoints(config: Mapping[Any, Any]) -> bool:
    """Whether a run of this config writes checkpoints, without which it cannot be resumed."""
    return bool(config["trainer"]["enable_checkpointing"] and config["callbacks"])


def save(path: Path, config: dict[str, Any]) -> None:
    """Write `config` as YAML, without COMMAND_KEYS.

    Paths in the run's folder become relative to it, so that the folder can be moved. `data.dir` is
    written as an absolute path, unless it comes from the environment.
    """
    kept = {k: v for k, v in config.items() if k not in COMMAND_KEYS}
    run_dir = Path(config["run_dir"]).resolve()
    kept = _with_paths(kept, lambda p: os.path.relpath(Path(p).resolve(), run_dir))
    if has_idx_files(kept["data"]):
        data_dir = kept["data"]["dir"]
        if data_dir == os.environ.get(DATA_DIR):
            data_dir = None
        kept["data"] |= {"dir": data_dir and str(Path(data_dir).expanduser().resolve())}
    write_text(path, to_yaml(kept))


def read(path: Path) -> dict[str, Any]:
    """Read what `save` wrote, with paths in the folder of the file. ConfigError: not a config."""
    run_dir = path.parent.resolve()
    try:
        text = json.dumps(yaml.safe_load(path.read_text(encoding="utf-8")))
        if "${" in text:  # `save` writes none, and its value could change after the checks
            raise ValueError("it holds an interpolation")
        config = rename_targets(json.loads(text))
        config = _with_paths(config, lambda p: os.path.normpath(run_dir / p))
        if has_idx_files(data := config["data"]):
            folders = os.environ.get(DATA_DIR), data["dir"]
            is_listed = data["dataset"] in DATA_SETS
            data["dir"] = next(filter(None, folders[:: 1 if is_listed else -1]), None)
    except NOT_A_CONFIG as error:
        raise ConfigError(f"{path}: not a run's config ({str(error).splitlines()[0]})") from error
    of_command = dict.fromkeys(COMMAND_KEYS) | {"run_dir": str(run_dir)}
    return {"overrides": []} | config | of_command | {"fail_fast": False, "traceback": False}


def rename_targets(config: dict[str, Any]) -> dict[str, Any]:
    """Replace the class names of earlier versions in place, and return `config`."""
    for _, node in targeted_nodes(config):
        node["_target_"] = RENAMED_TARGETS.get(str(node["_target_"]), node["_target_"])
    return config


class _Dumper(yaml.SafeDumper):
    """Writes lists of scalars on one line, as in `conf/`."""


_Dumper.add_representer(
    list,
    lambda dumper, data: dumper.represent_sequence(
        "tag:yaml.org,2002:seq", data, flow_style=not any(isinstance(x, dict | list) for x in data)
    ),
)


def to_yaml(config: dict[str, Any]) -> str:
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _with_paths(config: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """A copy of `config`, with `change` applied to the value of each key in FOLDERS."""
    changed: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            changed[key] = _with_paths(value, change)
        else:
            is_path = key in FOLDERS and isinstance(value, str) and "://" not in value
            changed[key] = change(value) if is_path else value
    return changed


def require_inside(config: dict[str, Any]) -> None:
    """Check that what is ours or Lightning's writes into the run's folder only. ConfigError."""
    run_dir = Path(config["run_dir"]).resolve()
    for path, node in targeted_nodes(config):
        if not str(node["_target_"]).startswith(("mnv2_lightning.", "lightning.")):
            continue
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
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`; lists stay as they are."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _is_in(key: str, groups: Sequence[str]) -> bool:
    return any(f"{key}.".startswith(f"{group}.") for group in groups)


def reproducibility_config(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a config that the result depends on, flat.

    `model.weights` is the checksum of the file, wherever that is.
    """
    flat = flatten(config)
    weights = flat.pop("weights_sha256", None) or flat.pop("model.weights", None)
    if weights is not None:
        flat["model.weights"] = weights
    return {
        key: value
        for key, value in flat.items()
        if not _is_in(key, IGNORED_KEYS) and key.rpartition(".")[2] not in FOLDERS
    }


def of_run(folder: Path) -> dict[str, Any]:
    """`reproducibility_config` of the run in `folder`; empty if its config cannot be read."""
    try:
        return reproducibility_config(read(folder / "config.yaml"))
    except (ConfigError, OSError):
        return {}


def override_values(overrides: Sequence[str]) -> dict[str, Any]:
    """The values by key of the overrides in which runs can be compared."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return {o.key_or_group: o.value() for o in parsed if not _is_in(o.key_or_group, HIDDEN_KEYS)}


def short_value(text: str) -> str:
    """The text of a value for names and narrow tables: itself, or the hash of a long one.

    Spaces and quotes do not count: Hydra writes `[a,1]` what Python writes as `['a', 1]`.
    """
    bare = re.sub(r"[\s'\"\\]", "", text)
    return text if len(bare) <= LONG else hashlib.sha256(bare.encode()).hexdigest()[:8]


def config_hash(config: dict[str, Any]) -> str:
    """A hash of the part that the result depends on; 1 and 1.0 are equal."""
    values = {
        key: int(value) if isinstance(value, float) and value.is_integer() else value
        for key, value in reproducibility_config(config).items()
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(key, old value, new value) of each key that differs between two flat configs.

    A missing key is the same as None.
    """
    for key in old | new:
        if old.get(key) != new.get(key):
            yield key, old.get(key), new.get(key)


def forbidden_changes(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """The differences between two configs that prevent resuming a run of one with the other."""
    for change in differences(reproducibility_config(old), reproducibility_config(new)):
        if change[0] not in MAY_CHANGE:
            yield change
