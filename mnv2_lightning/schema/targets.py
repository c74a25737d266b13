"""The classes and functions that a config may name, and checks of their arguments.

What a user types or has in a `--config-dir` may name anything that can be imported. The config in a
run's folder may be a stranger's: it may name what is in the lists here and in trusted packages.
Hydra's block list is no security boundary (`torch.load` passes it).
"""

import ast
import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, Field, create_model

from mnv2_lightning.schema.check import targeted_nodes, validate
from mnv2_lightning.schema.errors import ConfigError, one_line
from mnv2_lightning.schema.models import BY_TARGET
from mnv2_lightning.schema.nearest import did_you_mean

OURS = "mnv2_lightning"
TRUST = "MNV2_TRUST"  # environment variable: names of trusted packages, separated by commas
# Modules of ours whose functions, and modules whose classes, a run's config may name. The others
# read, write and download files, which a stranger's config must not do. The loggers for MLflow and
# wandb take the run's folder alone: where they send to is said by the user's environment.
FUNCTIONS_IN = ("callbacks", "networks", "schedules")
LOGGERS = tuple(f"runs.{name}_logger" for name in ("csv", "mlflow", "tensorboard", "wandb"))
CLASSES_IN = (*FUNCTIONS_IN, *LOGGERS, "classifier", "data")
# Lightning's classes that a run's config may name, by part. Not its loggers and profilers, which
# can write anywhere or send data, nor its ModelCheckpoint, which deletes any file that a checkpoint
# names as the previous best.
OTHERS = {
    "trainer": ["lightning.pytorch.Trainer"],
    "trainer.strategy": [
        "lightning.pytorch.strategies.DDPStrategy",
        "lightning.pytorch.strategies.SingleDeviceStrategy",
    ],
    "callbacks": [
        "lightning.pytorch.callbacks.DeviceStatsMonitor",
        "lightning.pytorch.callbacks.EarlyStopping",
        "lightning.pytorch.callbacks.GradientAccumulationScheduler",
        "lightning.pytorch.callbacks.LearningRateMonitor",
        "lightning.pytorch.callbacks.RichModelSummary",
        "lightning.pytorch.callbacks.StochasticWeightAveraging",
        "lightning.pytorch.callbacks.Timer",
    ],
}
# Arguments that `build.py` passes, by part of the config.
GIVEN = {
    "classifier": {"network", "optimizer", "scheduler", "num_classes"},
    "optimizer": {"params"},
    "scheduler": {"total_steps", "steps_per_epoch"},
}
# Keys that this project uses itself, by part; a class gets those that it has parameters for.
OWN_KEYS = {"data": ("classes", "image_size", "channels"), "model": ("weights",)}
PARTIAL = ("optimizer", "scheduler")  # parts that are called later, with what is given
OF_HYDRA = ("_target_", "_partial_", "_convert_", "_recursive_")  # keys that are no arguments
PLAIN = (int, float, bool, str, type(None))  # types of values in YAML
# Modules that Lightning's loggers import when they are built.
NEEDED = {
    "CometLogger": "comet_ml",
    "LitLogger": "litlogger",
    "MLFlowLogger": "mlflow",
    "NeptuneLogger": "neptune",
    "WandbLogger": "wandb",
}


def require_trusted(
    config: dict[str, Any],
    trust: Any,
    path_of_config: Path,
    overridden: Sequence[tuple[str, Any]] = (),
) -> None:
    """Check the names in the config of a run's folder; nothing foreign is imported.

    `trust`: packages that the user trusts, besides those in TRUST. `overridden`: path and name of
    the nodes that the command's overrides name. ConfigError: another name is not allowed.
    """
    if isinstance(trust, str) or not isinstance(trust, Sequence | None):
        raise ConfigError(f"trust={trust}: must be a list of packages, such as trust=[{trust}]")
    trusted = [*map(str, trust or ()), *os.environ.get(TRUST, "").split(",")]
    foreign = []
    for path, node in targeted_nodes(config):
        target = _require_name(path, node)
        is_trusted = any(_is_below(target, name.strip()) for name in trusted)
        if not is_trusted and (path, target) not in overridden and not _is_allowed(path, target):
            foreign.append((f"{path}._target_={target}", target.partition(".")[0]))
    if foreign:
        names = ",".join(dict.fromkeys([*(trust or ()), *(package for _, package in foreign)]))
        raise ConfigError(
            f"{path_of_config}: {foreign[0][0]}: not one of ours; if you trust this folder, add "
            f"trust=[{names}]"
        )


def check_targets(config: dict[str, Any]) -> None:
    """ConfigError: a `_target_` cannot be imported, or the node does not fit its signature."""
    nodes = [(path, node, _require_name(path, node)) for path, node in targeted_nodes(config)]
    for path, node, target in nodes:
        found = resolve(path, target)
        if target not in BY_TARGET:  # `check` knows the others
            _check_signature(path, node, found)


def resolve(path: str, target: str) -> Any:
    """Import what `target` names. ConfigError: it cannot be imported or called."""
    key, names = f"{path}._target_={target}", target.split(".")
    found, rest = _import(key, names)
    for name in rest:
        try:
            found = getattr(found, name)
        except AttributeError:
            modules = (module.name for module in iter_modules(getattr(found, "__path__", ())))
            near = did_you_mean(name, [*dir(found), *modules])
            raise ConfigError(f"{key}: there is no such class or function{near}") from None
    if not callable(found):
        raise ConfigError(f"{key}: not a class or function")
    for base in getattr(found, "__mro__", ()):
        if base.__module__.startswith("lightning.pytorch.loggers."):
            needed = NEEDED.get(base.__name__)
            if needed is not None and find_spec(needed) is None:
                is_ours = _is_below(target, OURS)
                pip = f'-e ".[{needed}]"' if is_ours else needed.replace("_", "-")
                raise ConfigError(f"{key}: there is no package {needed}; pip install {pip}")
    return found


def class_arguments(path: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """`node` without the keys of OWN_KEYS that its class does not take. ConfigError."""
    own = [key for key in OWN_KEYS.get(path, ()) if key in node]
    if not own:
        return dict(node)
    taken: Mapping[str, Any] = {}
    with suppress(TypeError, ValueError):  # of a builtin
        taken = inspect.signature(resolve(path, node["_target_"])).parameters
    return {k: v for k, v in node.items() if k not in own or k in taken}


def _import(key: str, names: list[str]) -> tuple[Any, list[str]]:
    """The longest part of `names` that is a module, imported, and the rest. ConfigError.

    What is not installed is searched for in the current folder, which is not on the path of console
    scripts.
    """
    if names[0] not in sys.modules and find_spec(names[0]) is None:
        sys.path.append(os.getcwd())
    for count in range(len(names) - 1, 0, -1):
        module = ".".join(names[:count])
        try:
            return import_module(module), names[count:]
        except ModuleNotFoundError as error:
            missing = error.name or ""
            if missing and _is_below(module, missing):
                continue
            package = missing.partition(".")[0]
            hint = f"; pip install {package}" if package not in ("", names[0]) else ""
            raise ConfigError(f"{key}: {module}: {one_line(error)}{hint}") from error
        except Exception as error:  # of any type, from the module's own code
            why = f"{type(error).__name__}: {one_line(error)}"
            raise ConfigError(f"{key}: {module} cannot be imported ({why})") from error
    raise ConfigError(
        f"{key}: there is no package {names[0]}; pip install {names[0]}, or start in the folder "
        "that holds your own"
    )


def _require_name(path: str, node: dict[str, Any]) -> str:
    """The node's `_target_`. ConfigError: it is no dotted name, or there are `_args_`."""
    target = node["_target_"]
    names = target.split(".") if isinstance(target, str) else []
    if len(names) < 2 or not all(name.isidentifier() for name in names):
        raise ConfigError(f"{path}._target_={target}: must be a name such as package.module.Class")
    if "_args_" in node:  # positional arguments would pass the checks of keys
        raise ConfigError(f"{path}._args_: not allowed; give each value by its name")
    return target


def _is_allowed(path: str, target: str) -> bool:
    """Whether `target` is in the lists above, for a node at `path`."""
    module, _, name = target.rpartition(".")
    if module == "torch.optim":
        return name[0].isupper()
    if _is_below(target, OURS):
        return _is_defined(module, name)
    return any(_is_below(path, part) and target in names for part, names in OTHERS.items())


def _is_defined(module: str, name: str) -> bool:
    """Whether one of our modules defines the class itself: it may import others, such as `os`."""
    if not any(_is_below(module, f"{OURS}.{part}") for part in CLASSES_IN):
        return False
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        return False
    if spec is None or spec.origin is None:
        return False
    has_functions = any(_is_below(module, f"{OURS}.{part}") for part in FUNCTIONS_IN)
    kinds = ast.ClassDef | ast.FunctionDef if has_functions else ast.ClassDef
    body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    defined = {node.name for node in body if isinstance(node, kinds)}
    return name in defined and not name.startswith("_")


def _is_below(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


def _check_signature(path: str, node: dict[str, Any], found: Any) -> None:
    """ConfigError: a key is no parameter, a required one has no key, or a type is wrong."""
    if path in PARTIAL and node.get("_partial_") is not True:
        raise ConfigError(f"{path}._partial_: must be true; it is called with more arguments later")
    try:
        parameters = inspect.signature(found, eval_str=True).parameters.values()
    except Exception:  # such as names that are imported for type checking only
        try:
            parameters = inspect.signature(found).parameters.values()
        except (TypeError, ValueError):  # of a builtin
            return
    fields: dict[str, Any] = {}
    for parameter in parameters:
        name, value = parameter.name, node.get(parameter.name)
        is_keyword = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if not is_keyword or name in GIVEN.get(path, ()):
            continue
        is_object = isinstance(value, dict) and "_target_" in value
        is_default = value is None and parameter.default is None
        is_checked = _is_plain(parameter.annotation) and not is_object and not is_default
        is_required = parameter.default is parameter.empty and not node.get("_partial_")
        # By an alias: a field's name must not begin with an underscore, or be pydantic's own.
        field = Field(... if is_required else None, alias=name)
        fields[f"field_{len(fields)}"] = (parameter.annotation if is_checked else Any, field)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    config = ConfigDict(strict=True, extra="allow" if takes_any else "forbid")
    model = create_model("Signature", __config__=config, **fields)
    values = {k: v for k, v in class_arguments(path, node).items() if k not in OF_HYDRA}
    validate(model, values, f"{path}.")


def _is_plain(annotation: Any) -> bool:
    """Whether a value from YAML can be checked against it."""
    if get_origin(annotation) in (Union, UnionType):
        return all(map(_is_plain, get_args(annotation)))
    if get_origin(annotation) is Literal:
        return all(type(value) in PLAIN for value in get_args(annotation))
    return annotation in PLAIN
