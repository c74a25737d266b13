"""From overrides to composed configs: Hydra's grammar, and its errors in one line."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra  # holds the loader that `glob()` looks files up by
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mnv2_lightning.cli.report_error import one_line
from mnv2_lightning.runs import folder
from mnv2_lightning.schema.errors import ConfigError
from mnv2_lightning.schema.nearest import did_you_mean, dotted_keys
from mnv2_lightning.system import hydra_compat

ERRORS = (HydraException, OmegaConfBaseException)
# Overrides of a sweep's command that its jobs do not have.
OF_A_SWEEP = (
    *("hydra.mode", "hydra.sweep", "hydra/sweeper", "hydra.launcher", "hydra/launcher"),
    *("hydra.run", "hydra.job.config"),
)


def config_dir() -> Path:
    """`conf/`: inside the package where it was installed from a wheel, else beside it."""
    package = Path(__file__).resolve().parents[1]
    return next(p for p in (package / "conf", package.parent / "conf") if p.is_dir())


# The `${name:...}` that `conf/` uses beyond Hydra's; on import, as workers of launchers need them.
for resolver in (folder.folder_name, folder.run_folder, folder.report_folder, folder.job_folder):
    hydra_compat.register_resolver(resolver.__name__, resolver, replace=True)


def quoted(value: Any) -> str:
    """As a value in Hydra's grammar."""
    return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"


def key_of(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def as_typed(overrides: Any) -> list[str]:
    """A list of overrides in Hydra's config, where `${...}` in them would be resolved."""
    return OmegaConf.to_container(overrides, resolve=False)  # type: ignore[return-value]


def composed(command: str, overrides: Sequence[str]) -> DictConfig:
    """The config of `command` with Hydra's own part, `hydra`; while Hydra runs. ConfigError."""
    try:
        return compose(command, list(overrides), return_hydra_config=True)
    except ERRORS as error:
        raise ConfigError(explain(error, command)) from error


def parse(overrides: Sequence[str]) -> list[Override]:
    """ConfigError."""
    try:
        loader = GlobalHydra.instance().config_loader()
        return OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    except HydraException as error:
        raise ConfigError(one_line(error)) from error


def jobs(config: DictConfig) -> list[list[str]]:
    """The overrides of each job of a multirun: the product of all sweeps. ConfigError."""
    values: dict[str, list[str]] = {}  # of a key that is given twice the last counts
    for override in parse(_of_multirun(config)):
        key = override.get_key_element()
        try:
            sweeps = override.is_sweep_override()
            found = override.sweep_string_iterator() if sweeps else [_value(override)]
            values[key] = [f"{key}={value}" for value in found]
        except HydraException as error:
            raise ConfigError(f"{override.input_line}: {one_line(error)}") from error
    return [list(job) for job in itertools.product(*values.values())]


def _value(override: Override) -> str:
    return override.get_value_element_as_str()


def _of_multirun(config: DictConfig) -> list[str]:
    """As Hydra's sweeper takes them: those of the config first."""
    params = config.hydra.sweeper.get("params") or {}
    in_config = [f"{key}={value}" for key, value in params.items()]
    return [*in_config, *as_typed(config.hydra.overrides.task)]


def shared_keys(config: DictConfig) -> list[str]:
    """The keys that all jobs share, which are no part of a job's name: where no key differs, only
    the sweep's name.
    """
    is_swept = {o.key_or_group: o.is_sweep_override() for o in parse(_of_multirun(config))}
    if not any(is_swept.values()):
        return ["sweep"]
    return [key for key, swept in is_swept.items() if not swept] or ["sweep"]


def arguments(
    hydra: Any, command: str, overrides: Sequence[str], run_dir: Path | None = None
) -> list[str]:
    """The arguments by which a job of a sweep, or a rank of a run, is a command of its own."""
    sources = hydra.runtime.config_sources
    user = [f"--config-dir={s.path}" for s in sources if s.provider == "command-line"]
    name = [f"--config-name={hydra.job.config_name}"] if hydra.job.config_name != command else []
    task = [override for override in overrides if key_of(override) != "sweep"]
    kept = [o for o in as_typed(hydra.overrides.hydra) if not key_of(o).startswith(OF_A_SWEEP)]
    place = [] if run_dir is None else [f"hydra.run.dir={quoted(run_dir)}"]
    return [*user, *name, *task, *kept, *place]


def explain(error: Exception, command: str) -> str:
    """One line on a config that Hydra could not compose, with the nearest right key or file."""
    message = one_line(error)
    if isinstance(error, MissingConfigException):
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        if group and error.options:
            options = sorted(error.options)
            near = did_you_mean(choice, options)
            return f"{group}={choice}: there is none such{near} (there are: {', '.join(options)})"
        return message
    if sweep := re.search(r"(?:Ambiguous value for argument|Sweep parameters) '(.+?)' ", message):
        return f"{sweep[1]}: several values need -m, for a sweep"
    known = dotted_keys(OmegaConf.to_container(compose(command)))
    for key in re.findall(r"'([\w./@-]+)'", message):
        if key not in known:
            return f"{key}: unknown key{did_you_mean(key, known)}"
    return message
