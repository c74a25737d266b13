"""A run's folder, and going on with the run in it."""

import re
import secrets
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from mnv2_lightning.runs.config import MAY_CHANGE, outcome, plain
from mnv2_lightning.runs.files import read_json
from mnv2_lightning.schema.errors import ConfigError
from mnv2_lightning.schema.nearest import did_you_mean, dotted_keys

_ABSENT: Any = object()
# The time and chance: no two runs share a folder, not if they start within one second.
RUN_ID = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def run_id() -> str:
    """Of this process: a run, or a whole sweep."""
    return RUN_ID


def run_folder(resume: str | None, experiment: str) -> str:
    """Where a run goes: on in the folder of the one that it resumes, or into a new one."""
    return resume or f"outputs/runs/{experiment}/{RUN_ID}"


def job_folder(overrides: str) -> str:
    """A sweep job's folder from its overrides, `optimizer.lr-0.1_seed-1` -> `lr-0.1_seed-1`."""
    parts = [re.sub(r"^[+~]*[\w./@]*[./@](?=\w+-)", "", part) for part in overrides.split(";")]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "_".join(parts)).strip("-.") or "job"


def require_run(key: str, path: str) -> Path:
    """The run folder that `key` names. ConfigError: it is none."""
    folder = Path(path)
    if "://" in path:
        raise ConfigError(f"{key}={path}: must be a folder on this machine")
    if not folder.is_dir():
        raise ConfigError(f"{key}={path}: there is no such folder")
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{key}={path}: not a run's folder (it has no config.yaml)")
    return folder


def require_checkpoint(key: str, folder: Path, name: str) -> Path:
    path = folder / "checkpoints" / f"{name}.ckpt"
    if not path.is_file():
        there = sorted(p.stem for p in path.parent.glob("*.ckpt")) or ["none"]
        raise ConfigError(f"{key}={folder}: has no {name} checkpoint (there: {', '.join(there)})")
    return path


def is_finished(folder: Path, config_hash: str) -> bool:
    """Whether its run has ended with the config of this hash: more epochs are another one."""
    path = folder / "result.json"
    record = read_json(path) if path.is_file() else {}
    return record.get("status") == "finished" and record.get("config_hash") == config_hash


def read_config(folder: Path) -> DictConfig:
    """The config that the run in `folder` was started with."""
    cfg = OmegaConf.load(folder / "config.yaml")
    assert isinstance(cfg, DictConfig)
    return OmegaConf.merge(cfg, {"run_dir": str(folder), "resume": None, "traceback": False})  # type: ignore[return-value]


def resumed_config(path: str, overrides: Sequence[str]) -> DictConfig:
    """The run's own config with `overrides` on top, for `train` to go on with it.

    ConfigError: no such run, or an override that changes what the run means.
    """
    folder = require_run("resume", path)
    cfg = read_config(folder)
    before = outcome(plain(cfg))
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if key in ("resume", "traceback") or key.startswith("hydra."):
            continue
        if OmegaConf.select(cfg, key, default=_ABSENT) is _ABSENT:
            raise ConfigError(f"{key}: unknown key{did_you_mean(key, dotted_keys(plain(cfg)))}")
        if isinstance(OmegaConf.select(cfg, key), DictConfig):
            raise ConfigError(f"{key}={override.value()}: a group cannot change when a run goes on")
        OmegaConf.update(cfg, key, override.value())
    after = outcome(plain(cfg))
    for key, value in after.items():
        if value != before[key] and key not in MAY_CHANGE:
            raise ConfigError(
                f"{key}={value}: cannot change when a run goes on (it is {before[key]}); "
                f"what can: {', '.join(MAY_CHANGE)}, logging, paths"
            )
    cfg.resume = str(folder)
    return cfg


def refuse_occupied(path: str) -> None:
    """ConfigError where a fresh run would land in a folder that holds one already."""
    if (Path(path) / "result.json").exists():
        raise ConfigError(f"hydra.run.dir={path}: holds a run already; go on with resume={path}")
