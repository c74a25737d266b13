"""The config in the folder of a run: read, checked, and resumed from."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2_lightning.data.sets import DATA_DIR, DATA_SETS
from mnv2_lightning.runs import config, pretrained
from mnv2_lightning.runs.config import COMMAND_KEYS, LENGTH_KEYS, MAY_CHANGE, plain
from mnv2_lightning.runs.folder import check_links, key_of, require_run
from mnv2_lightning.runs.record import EMPTY, RECORD, read_record
from mnv2_lightning.schema.check import check, has_idx_files, targeted_nodes
from mnv2_lightning.schema.errors import ConfigError
from mnv2_lightning.schema.nearest import did_you_mean, dotted_keys
from mnv2_lightning.schema.targets import require_trusted
from mnv2_lightning.system import ranks

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

_MISSING: Any = object()


def is_finished(folder: Path, trainer: DictConfig) -> bool:
    """Whether the run has finished, with the same `max_epochs` and `max_steps`."""
    if read_record(folder).get("status") != "finished":
        return False
    before = read_config(folder).trainer
    return all(before[key] == trainer[key] for key in LENGTH_KEYS)


def read_config(folder: Path) -> DictConfig:
    """The config of the run in `folder`. ConfigError."""
    from omegaconf import OmegaConf

    return OmegaConf.create(config.read(folder / "config.yaml"))


def config_to_evaluate(folder: Path, trust: Any) -> DictConfig:
    """The config of the run in `folder`, without what an evaluation does not use.

    ConfigError: it is wrong, or names a class that is neither ours nor of a package in `trust`.
    """
    cfg = _read_checked(folder)
    cfg.callbacks, cfg.logger, cfg.trainer.profiler = {}, {}, None
    require_trusted(plain(cfg), trust, folder / "config.yaml")
    return cfg


def _read_checked(folder: Path) -> DictConfig:
    """The config of the run in `folder`, checked like one from the command line. ConfigError.

    Its `data.dir` is used only if the files are there: nothing is downloaded into it.
    """
    from mnv2_lightning.data import idx_files  # late: imports NumPy

    cfg = read_config(folder)
    try:
        check("train", plain(cfg))
    except ConfigError as error:
        raise ConfigError(f"{folder / 'config.yaml'}: {error}") from None
    if not has_idx_files(cfg.data) or cfg.data.dataset not in DATA_SETS:
        return cfg  # nothing is ever downloaded
    named = cfg.data.dir
    if named not in (None, os.environ.get(DATA_DIR)) and not idx_files.has(cfg.data.dataset, named):
        log.info("data.dir=%s, as in the run's config, lacks the files: not used", named)
        cfg.data.dir = None
    return cfg


def resumed_config(composed: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The config of the run `composed.resume` with `overrides` applied.

    ConfigError: there is no such run, an override changes what its result depends on, or the run's
    config names a class that is neither ours, nor trusted, nor in `overrides`.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import DictConfig, OmegaConf

    folder = require_run("resume", composed.resume)
    cfg = _read_checked(folder)
    before, changed = plain(cfg), set()
    named: list[tuple[str, Any]] = []  # path and class of the nodes in `overrides`
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if key in COMMAND_KEYS or key.startswith("hydra."):
            continue
        old, value = OmegaConf.select(cfg, key, default=_MISSING), override.value()
        changed.add(key)
        if key == "experiment":
            raise ConfigError("experiment: cannot change when a run is resumed")
        if old is _MISSING:
            raise ConfigError(f"{key}: unknown key{did_you_mean(key, dotted_keys(plain(cfg)))}")
        if key == "logger":
            cfg.logger = composed.logger
            value = plain(cfg)["logger"]
        elif isinstance(old, DictConfig) and not (value is None or isinstance(value, dict)):
            raise ConfigError(f"{key}={value}: a group cannot change when a run is resumed")
        else:  # a class takes the place of the run's, with all its keys
            is_class = isinstance(value, dict) and "_target_" in value
            OmegaConf.update(cfg, key, value, merge=not is_class)
        if key.endswith("._target_"):
            named.append((key.removesuffix("._target_"), value))
        named += [(path, node["_target_"]) for path, node in targeted_nodes(value, key)]
    kept = [o for o in cfg.overrides if key_of(o) not in changed]
    cfg.overrides = kept + [o for o in overrides if key_of(o) in changed and "${" not in o]
    require_trusted(plain(cfg), composed.get("trust"), folder / "config.yaml", named)
    if "model.weights" in changed:  # the file may have been moved
        pretrained.identify(cfg)
    registry = cfg.trainer.model_registry  # to which checkpoints are sent
    if registry and "trainer.model_registry" not in changed:
        raise ConfigError(
            f"trainer.model_registry={registry}: is not taken from a run's config; set it again, "
            "or trainer.model_registry=null"
        )
    for key, old, new in config.forbidden_changes(before, plain(cfg)):
        raise ConfigError(
            f"{key}={new}: cannot change when a run is resumed (it is {old}); what can: "
            f"{', '.join(MAY_CHANGE)}, logger, progress bar, paths"
        )
    cfg.resume = str(folder)
    return cfg


def holds_this_run(folder: Path, cfg: DictConfig, *, is_swept: bool = False) -> bool:
    """Whether the folder holds a run of this config, which the same command resumes.

    ConfigError: it holds another run, or a link that leads out of it.
    """
    if ranks.rank():  # the first, which has looked at it, may be writing into the folder
        return any((folder / "checkpoints").glob("*.ckpt"))
    check_links(folder)
    if not (folder / "config.yaml").is_file():
        is_begun = read_record(folder).keys() == EMPTY.keys()  # killed before it wrote its config
        if (folder / RECORD).exists() and not is_begun:
            raise ConfigError(f"{folder}: holds a result.json of something else")
        return False
    for key, old, _ in config.forbidden_changes(plain(read_config(folder)), plain(cfg)):
        other = f"take another folder, or resume that run with resume={folder}"
        raise ConfigError(
            f"{folder}: holds a run with {key}={old} already; "
            + ("take another name for the sweep" if is_swept else other)
        )
    return True
