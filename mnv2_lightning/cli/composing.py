"""Composes configs from overrides, and explains Hydra's errors in one line."""

import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra  # whose loader expands `glob()`; to be put back
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import (
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mnv2_lightning.cli.arguments import is_open
from mnv2_lightning.cli.conf_files import config_dir
from mnv2_lightning.runs import folder
from mnv2_lightning.schema.errors import ConfigError, one_line
from mnv2_lightning.schema.models import BY_TARGET
from mnv2_lightning.schema.nearest import did_you_mean, dotted_keys, no_such_choice
from mnv2_lightning.system import hydra_compat

ERRORS = (HydraException, OmegaConfBaseException)
LAUNCHERS = ("joblib", "ray", "submitit")  # of Hydra's, those with an extra in pyproject.toml
SWEEP_KEYS = ("sweep", "fail_fast")  # of `train`; a sweep's jobs do not get them
# Prefixes of Hydra's keys that the jobs of a multirun do not get.
OF_A_SWEEP = (
    *("hydra.mode", "hydra.sweep", "hydra/sweeper", "hydra.launcher", "hydra/launcher"),
    *("hydra.run", "hydra.job.config"),
)


def lookup(key: Any, table: dict[Any, Any]) -> Any:
    """`table[key]`, for a value of a study that follows from another. ValueError: no such key."""
    if key not in table:
        raise ValueError(f"{key} is not in the study's table: {', '.join(map(str, table))}")
    return table[key]


# Resolvers that `conf/` uses, registered on import because workers of launchers need them too.
for resolver in (
    folder.folder_name,
    folder.run_folder,
    folder.report_folder,
    folder.job_folder,
    len,
    lookup,
):
    hydra_compat.register_resolver(resolver.__name__, resolver, replace=True)


def quoted(value: Any) -> str:
    """Quote a value in Hydra's grammar, in which a backslash escapes only before a quote."""
    text = re.sub(r"\\+(?='|\Z)", lambda backslashes: 2 * backslashes[0], str(value))
    return "'" + text.replace("'", "\\'") + "'"


def as_override(value: Any) -> str:
    """`value` in the grammar of Hydra's overrides."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{as_override(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(as_override, value)) + "]"
    if value is None:
        return "null"
    return quoted(value) if isinstance(value, str) else str(value).lower()


def unresolved(node: Any) -> Any:
    """The list or dict in a config, without resolving the `${...}` in it."""
    return OmegaConf.to_container(node, resolve=False)


@contextmanager
def initialized() -> Iterator[None]:
    """Hydra with `conf/` for a call from Python; a Hydra of the caller's own is put back."""
    hydra, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    try:
        with hydra_compat.initialize(str(config_dir())):
            yield
    finally:
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = hydra, config


@contextmanager
def as_config_errors() -> Iterator[None]:
    """ConfigError: Hydra or OmegaConf refuses a value, such as an interpolation."""
    try:
        yield
    except ERRORS as error:
        raise ConfigError(one_line(error)) from error


def composed(command: str, overrides: Sequence[str]) -> DictConfig:
    """The config of `command`, including `hydra`. Only while Hydra runs. ConfigError."""
    try:
        return compose(command, list(overrides), return_hydra_config=True)
    except (*ERRORS, ValueError) as error:
        raise ConfigError(explain(error, command)) from error


def parse(overrides: Sequence[str]) -> list[Override]:
    """ConfigError."""
    try:
        loader = GlobalHydra.instance().config_loader()
        return OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    except OverrideParseException as error:
        raise ConfigError(not_parsed(error)) from error


def is_group(key: str) -> bool:
    """Whether `key` is a folder of `conf/` or of the user's `--config-dir`."""
    return bool(GlobalHydra.instance().config_loader().get_group_options(key))


def jobs(config: DictConfig) -> list[list[str]]:
    """The overrides of each job of a multirun: all combinations of swept values. ConfigError."""
    values: dict[str, list[str]] = {}  # of a key that is given twice the last counts
    for override in parse(_of_multirun(config)):
        key = override.get_key_element()
        try:
            swept, plain = override.sweep_string_iterator, override.get_value_element_as_str
            found = swept() if override.is_sweep_override() else [plain()]
            values[key] = [f"{key}={value}" for value in found]
        except HydraException as error:
            raise ConfigError(f"{override.input_line}: {one_line(error)}") from error
    return [list(job) for job in itertools.product(*values.values())]


def _of_multirun(config: DictConfig) -> list[str]:
    """The overrides of a multirun as Hydra's sweeper reads them."""
    params = config.hydra.sweeper.get("params") or {}
    return [*(f"{k}={v}" for k, v in params.items()), *unresolved(config.hydra.overrides.task)]


def shared_keys(config: DictConfig) -> list[str]:
    """The keys that are not swept, which job names leave out. If none is swept, only SWEEP_KEYS."""
    is_swept = {o.key_or_group: o.is_sweep_override() for o in parse(_of_multirun(config))}
    shared = [key for key, swept in is_swept.items() if not swept]
    return shared if 0 < len(shared) < len(is_swept) else [*SWEEP_KEYS]


def command_line(
    hydra: Any, command: str, overrides: Sequence[str], run_dir: Path | None = None
) -> list[str]:
    """Arguments that start a job of a sweep, or a rank of a run, as a command of its own."""
    sources = hydra.runtime.config_sources
    user = [f"--config-dir={s.path}" for s in sources if s.provider == "command-line"]
    name = [f"--config-name={hydra.job.config_name}"] if hydra.job.config_name != command else []
    task = [override for override in overrides if folder.key_of(override) not in SWEEP_KEYS]
    typed = unresolved(hydra.overrides.hydra)
    kept = [o for o in typed if not folder.key_of(o).startswith(OF_A_SWEEP)]
    place = [] if run_dir is None else [f"hydra.run.dir={quoted(run_dir)}"]
    return [*user, *name, *task, *kept, *place]


def not_parsed(error: OverrideParseException) -> str:
    """The message for an override that is not in Hydra's grammar."""
    key, _, value = error.override.partition("=")
    if is_open(value):
        return f"{error.override}: a bracket or quote is not closed"
    return f"{error.override}: not a value; put other characters in quotes: {key}='\"...\"'"


def explain(error: Exception, command: str) -> str:
    """Explain an error of composition in one line, with the nearest key or file."""
    message = one_line(error)
    if isinstance(error, OverrideParseException):
        return not_parsed(error)
    if isinstance(error, MissingConfigException):
        missing = re.search(r"Could not load '(.+)'", message)  # of a list, without options
        name = error.missing_cfg_file or (missing[1] if missing else "")
        group, _, choice = name.rpartition("/")
        if (extra := choice.partition("_")[0]) in LAUNCHERS and group == "hydra/launcher":
            return f'{group}={choice}: is not installed; pip install -e ".[{extra}]"'
        loader = GlobalHydra.instance().config_loader()
        options = error.options or loader.get_group_options(group, ObjectType.CONFIG)
        return no_such_choice(group, choice, options) if group and options else message
    if message.startswith("Config group override must be a string or a list"):
        return "null: cannot be chosen from a group; KEY=[] chooses none of its files"
    if sweep := re.search(r"(?:Ambiguous value for argument|Sweep parameters) '(.+?)' ", message):
        return f"{sweep[1]}: several values need -m, for a sweep"
    return _unknown_key(error, message, command)


def _unknown_key(error: Exception, message: str, command: str) -> str:
    """The message about a key that the config lacks; `message` where that is not the error."""
    known = dotted_keys(OmegaConf.to_container(compose(command)))
    beside: list[str] = []
    adds_one = False  # to a class whose parameters are not all in its file
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and isinstance(cause.parent_node, DictConfig):
        # The keys beside an unknown one, such as those of another model than the default one.
        part = str(cause.full_key).rpartition(".")[0]
        prefix = f"{part}." if part else ""
        keys = dotted_keys(unresolved(cause.parent_node), prefix)
        target = cause.parent_node.get("_target_")
        adds_one = target is not None and target not in BY_TARGET
        beside = [key for key in keys if "." not in key.removeprefix(prefix)] if part else []
        known = keys + [key for key in known if not key.startswith(prefix)]
    for key in re.findall(r"'([\w./@-]+)'", message):
        if key not in known:
            adds = f"; +{key}=VALUE adds one" if adds_one else ""
            there = f" (there are: {', '.join(beside)}{adds})" if beside else ""
            return f"{key}: unknown key{did_you_mean(key, known) or there}"
    return message
