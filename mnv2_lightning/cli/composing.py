"""From what is typed to composed configs: Hydra's grammar, its mistakes told in one line."""

import argparse
import itertools
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mnv2_lightning.cli.report_error import one_line
from mnv2_lightning.runs.folder import (
    job_folder,
    report_folder,
    run_folder,
    run_id,
    search_folder,
    sweep_folder,
)
from mnv2_lightning.schema.errors import ConfigError
from mnv2_lightning.schema.nearest import did_you_mean, dotted_keys


def config_dir() -> Path:
    """`conf/`: inside the package where it was installed from a wheel, else beside it."""
    package = Path(__file__).resolve().parents[1]
    return next(p for p in (package / "conf", package.parent / "conf") if p.is_dir())


# The `${name:...}` that `conf/` uses beyond what Hydra has; on import, as a process that
# a launcher starts for a job of a sweep does no more.
for resolver in (run_id, run_folder, sweep_folder, search_folder, report_folder, job_folder):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)


def quoted(value: Any) -> str:
    """As a value in Hydra's grammar."""
    return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"


def composing() -> initialize_config_dir:
    """The block in which `composed` is called."""
    return initialize_config_dir(str(config_dir()), version_base="1.3")


def jobs(args: argparse.Namespace) -> list[list[str]]:
    """The overrides of each job: the product of all sweeps in a multirun, else one list."""
    if not args.multirun:
        for o in _parse(args.overrides):
            if o.is_sweep_override():
                raise ConfigError(f"{o.input_line}: several values need -m, for a sweep")
        return [args.overrides]
    choices = {  # of a key that is typed twice the last counts, as for Hydra
        o.get_key_element(): [f"{o.get_key_element()}={v}" for v in o.sweep_string_iterator()]
        if o.is_sweep_override()
        else [f"{o.get_key_element()}={o.get_value_element_as_str()}"]
        for o in _parse(args.overrides)
    }
    return [list(job) for job in itertools.product(*choices.values())]


def fixed(overrides: list[str]) -> str:
    """The override that names the keys which are no part of a job's name: those that all jobs
    of a sweep share, or only the sweep's name where no key differs.
    """
    is_swept = {o.key_or_group: o.is_sweep_override() for o in _parse(overrides)}
    is_one = not any(is_swept.values())
    left_out = [key for key, swept in is_swept.items() if not swept and not is_one] or ["sweep"]
    keys = ",".join(f"'{key}'" for key in left_out)
    return f"hydra.job.config.override_dirname.exclude_keys=[{keys}]"


def _parse(overrides: list[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        raise ConfigError(one_line(error)) from error


def composed(verb: str, args: argparse.Namespace, overrides: list[str]) -> DictConfig:
    """With Hydra's own part, `hydra`; `args` may name a folder beside `conf/`. ConfigError."""
    if args.config_dir:
        overrides = [*overrides, f"hydra.searchpath=[{Path(args.config_dir).resolve()}]"]
    try:
        return compose(args.config_name or verb, overrides, return_hydra_config=True)
    except MissingConfigException as error:
        raise ConfigError(_missing_choice(error)) from error
    except (ConfigCompositionException, HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_bad_override(verb, error, overrides)) from error


def _missing_choice(error: MissingConfigException) -> str:
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    options = sorted(error.options or [])
    if not group or not options:
        return one_line(error)
    near = did_you_mean(choice, options)
    return f"{group}={choice}: there is none such{near} (there are: {', '.join(options)})"


def _bad_override(verb: str, error: Exception, overrides: list[str]) -> str:
    """Hydra names the key; add the nearest right one."""
    message = one_line(error)
    known = dotted_keys(OmegaConf.to_container(compose(verb)))
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if f"'{key}'" in message and key not in known:
            return f"{key}: unknown key{did_you_mean(key, known)}"
    return message
