"""A run's config: as plain data, as a file, and the part of it that makes the outcome."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from mnv2_lightning.runs.files import write_text

# What a run's outcome does not depend on: where things are, what is shown and logged.
OUTSIDE = ("run_dir", "resume", "traceback", "logger", "data.dir", "data.classes")
OUTSIDE_TRAINER = (
    "enable_autolog_hparams",
    "enable_model_summary",
    "enable_progress_bar",
    "log_every_n_steps",
    "model_registry",
    "profiler",
)
OUTSIDE_CALLBACKS = ("last", "pictures", "progress", "throughput")
# May change when a run goes on, though the outcome depends on it.
MAY_CHANGE = tuple(
    f"trainer.{key}" for key in ("max_epochs", "accelerator", "devices", "strategy", "num_nodes")
)

DATA_DIR = "MNV2_DATA_DIR"  # the variable that conf/data/ reads


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Resolved, of JSON types only."""
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def save(path: Path, config: dict[str, Any]) -> None:
    """As YAML, without what holds for this command only.

    A data folder that the environment named is looked up there again when the file is read.
    """
    kept = {k: v for k, v in config.items() if k not in ("run_dir", "resume", "traceback")}
    kept = _relocate(kept, config["run_dir"])
    if kept["data"]["dir"] == os.environ.get(DATA_DIR):
        kept["data"]["dir"] = f"${{oc.env:{DATA_DIR},null}}"
    write_text(path, to_yaml(kept))


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


def _relocate(value: Any, run_dir: str) -> Any:
    """Paths inside the run's folder become `${run_dir}/...` again, so that it can be moved."""
    if isinstance(value, dict):
        return {k: _relocate(v, run_dir) for k, v in value.items()}
    if isinstance(value, list):
        return [_relocate(v, run_dir) for v in value]
    if isinstance(value, str) and (value == run_dir or value.startswith(f"{run_dir}/")):
        return "${run_dir}" + value[len(run_dir) :]
    return value


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`; lists stay."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def outcome(config: dict[str, Any]) -> dict[str, Any]:
    """The flat part of a config on which the outcome depends."""
    outside = [
        *OUTSIDE,
        *(f"trainer.{key}" for key in OUTSIDE_TRAINER),
        *(f"callbacks.{key}" for key in OUTSIDE_CALLBACKS),
    ]
    return {
        key: value
        for key, value in flatten(config).items()
        if not any(key == out or key.startswith(f"{out}.") for out in outside)
        and not key.endswith(".dirpath")
    }


def outcome_hash(config: dict[str, Any]) -> str:
    text = json.dumps(outcome(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
