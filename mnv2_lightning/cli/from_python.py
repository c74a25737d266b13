"""Calls of the commands from Python: their configs, checked as those of the command line are."""

import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from mnv2_lightning.cli import checks, composing
from mnv2_lightning.cli.command import Command, Job
from mnv2_lightning.runs import folder as folders
from mnv2_lightning.runs import pretrained, stored_config
from mnv2_lightning.runs.config import COMMAND_KEYS, plain
from mnv2_lightning.schema.check import check
from mnv2_lightning.schema.errors import ConfigError

# Parts of a config that a run's overrides do not describe.
NO_OVERRIDES = (*COMMAND_KEYS, "overrides", "search", "weights_sha256")


def compose(
    command: Command, overrides: Sequence[str] = (), config_dir: str | None = None
) -> DictConfig:
    """See `mnv2_lightning.compose`."""
    folders.run_id.cache_clear()
    own = []
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise ConfigError(f"config_dir={config_dir}: there is no such folder")
        own = [f"hydra.searchpath=[{composing.quoted(Path(config_dir).absolute())}]"]
    with composing.initialized(), composing.as_config_errors():
        config = composing.composed(command.name, [*own, *overrides])
        HydraConfig.instance().set_config(config)
        cfg = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        place = composing.unresolved(config.hydra.run)["dir"]
        for group, choice in config.hydra.runtime.choices.items():
            place = place.replace(f"${{hydra.runtime.choices.{group}}}", str(choice))
        for key in _folders(cfg):
            cfg[key] = place
        cfg = command.final_config(cfg, composing.unresolved(config.hydra.overrides.task))
    if "overrides" in cfg and not cfg.get("resume"):
        cfg.overrides = [*own, *cfg.overrides]
    if "command" in cfg:
        cfg.command = None  # the config may be changed
    return cfg


def checked(command: Command, cfg: DictConfig) -> DictConfig:
    """The config for the function of `command`: a resolved and checked copy of `cfg`.

    Where the command runs, it has been checked and is returned as it is. ConfigError, StorageError.
    """
    if command.is_checked:
        return cfg
    _show_messages()
    folders.run_id.cache_clear()
    cfg = cfg.copy()
    if not HydraConfig.initialized():  # composed by `hydra.compose` alone
        for key in _folders(cfg):
            cfg[key] = composing.unresolved(compose(command))[key]
    with composing.as_config_errors():
        checks.require_values(cfg)
        if "overrides" in cfg and not cfg.resume:
            _add_changes(command, cfg)
        OmegaConf.resolve(cfg)
    if "weights_sha256" in cfg and not cfg.resume:
        pretrained.identify(cfg)
    check(command.name, plain(cfg))
    folder = Path(cfg.get("out") or cfg.get("run_dir") or ".")
    if "resume" in cfg and stored_config.holds_this_run(folder, cfg):
        cfg.resume = cfg.run_dir
    with composing.initialized():
        checks.check_jobs(command, [Job(cfg, [], folder, is_swept=False)])
    return cfg


def _folders(cfg: DictConfig) -> list[str]:
    """The keys whose value is the folder that Hydra makes for a run of the command."""
    values = composing.unresolved(cfg)
    return [key for key, value in values.items() if value == "${hydra:runtime.output_dir}"]


def _add_changes(command: Command, cfg: DictConfig) -> None:
    """Add an override for each value that was changed after `compose`."""
    before, after = map(composing.unresolved, (compose(command, cfg.overrides), cfg))
    for config in (before, after):
        for key in NO_OVERRIDES:
            config.pop(key, None)
    changes = list(_changes(before, after))
    changed = set(map(folders.key_of, changes))
    cfg.overrides = [o for o in cfg.overrides if folders.key_of(o) not in changed] + changes


def _changes(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The overrides that make `after` of `before`."""
    for key in before | after:
        name, old, new = f"{prefix}{key}", before.get(key), after.get(key)
        if key not in after:
            yield f"~{name}"
        elif isinstance(old, dict) and isinstance(new, dict):
            yield from _changes(old, new, f"{name}.")
        elif key not in before or old != new:
            yield f"{'' if key in before else '+'}{name}={composing.as_override(new)}"


def _show_messages() -> None:
    """Print messages where logging is not set up."""
    log = logging.getLogger("mnv2_lightning")
    if not log.hasHandlers():
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
    if log.level == logging.NOTSET:
        log.setLevel(logging.INFO)
