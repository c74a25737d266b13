"""The classes and functions that a config may name, and checks of their arguments.

Hydra's block list is no security boundary (`torch.load` passes it), hence this allow-list.
"""

import inspect
from importlib import import_module
from typing import Any

from mnv2_lightning.schema.check import targeted_nodes
from mnv2_lightning.schema.errors import ConfigError
from mnv2_lightning.schema.nearest import did_you_mean

OURS = "mnv2_lightning"
# Modules of ours whose functions, and modules whose classes, a config may name. The others read,
# write and download files, which a stranger's config must not do.
FUNCTIONS_IN = ("callbacks", "networks", "schedules")
CLASSES_IN = (*FUNCTIONS_IN, "classifier", "data", "runs.csv_logger", "runs.tensorboard_logger")
# Arguments that `build.py` passes, by part of the config.
GIVEN = {
    "classifier": {"network", "optimizer", "scheduler", "num_classes"},
    "optimizer": {"params"},
    "scheduler": {"total_steps", "steps_per_epoch"},
}
# Classes of Lightning and Optuna by the part of the config in which they may stand. Resuming checks
# loggers and profilers by their part. Lightning's ModelCheckpoint is not allowed because it deletes
# any file that a checkpoint names as the previous best.
OTHERS = {
    "trainer": ["lightning.pytorch.Trainer"],
    "trainer.strategy": [
        "lightning.pytorch.strategies.DDPStrategy",
        "lightning.pytorch.strategies.SingleDeviceStrategy",
    ],
    "trainer.profiler": [
        "lightning.pytorch.profilers.AdvancedProfiler",
        "lightning.pytorch.profilers.PyTorchProfiler",
        "lightning.pytorch.profilers.SimpleProfiler",
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
    "logger": [
        "lightning.pytorch.loggers.CSVLogger",
        "lightning.pytorch.loggers.MLFlowLogger",
        "lightning.pytorch.loggers.TensorBoardLogger",
        "lightning.pytorch.loggers.WandbLogger",
    ],
    "search.sampler": [
        "optuna.samplers.CmaEsSampler",
        "optuna.samplers.GPSampler",
        "optuna.samplers.QMCSampler",
        "optuna.samplers.RandomSampler",
        "optuna.samplers.TPESampler",
    ],
    "search.pruner": [
        "optuna.pruners.HyperbandPruner",
        "optuna.pruners.MedianPruner",
        "optuna.pruners.NopPruner",
        "optuna.pruners.PercentilePruner",
        "optuna.pruners.SuccessiveHalvingPruner",
    ],
}


def check_targets(config: dict[str, Any]) -> None:
    """ConfigError: a `_target_` is not allowed, or the node does not fit its signature."""
    nodes = list(targeted_nodes(config))
    for path, node in nodes:  # all names before the first import, which takes seconds
        target = node["_target_"]
        if not isinstance(target, str) or not _is_allowed(path, target):
            raise ConfigError(
                f"{path}._target_={target}: not allowed; a config may name what is in {OURS} "
                "(networks, data, callbacks, ...), torch.optim, and in their parts the classes "
                "of Lightning and Optuna in mnv2_lightning/schema/targets.py"
            )
        if "_args_" in node:  # positional arguments would pass the checks of keys
            raise ConfigError(f"{path}._args_: not allowed; give each value by its name")
    for path, node in nodes:
        _check_signature(path, node, resolve(path, node["_target_"]))


def resolve(path: str, target: str) -> Any:
    """Import an allowed target. ConfigError: it does not exist, or is defined elsewhere."""
    module_name, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(module_name), name)
    except (ImportError, AttributeError):
        raise ConfigError(f"{path}._target_={target}: there is no such class or function") from None
    # An allowed name may lead elsewhere: mnv2_lightning.networks.x.os.system.
    home = getattr(found, "__module__", "") or ""
    if not callable(found) or home.split(".")[0] != module_name.split(".")[0]:
        raise ConfigError(
            f"{path}._target_={target}: not allowed; it is defined in {home or 'no module'}"
        )
    if home.startswith(OURS) and not inspect.isclass(found) and not _is_in(target, FUNCTIONS_IN):
        raise ConfigError(f"{path}._target_={target}: not allowed; it is not a class")
    return found


def _is_allowed(path: str, target: str) -> bool:
    names = target.split(".")
    if not all(name.isidentifier() and not name.startswith("_") for name in names):
        return False
    if names[:2] == ["torch", "optim"]:
        return len(names) == 3 and names[2][0].isupper()
    if names[0] == OURS:
        return _is_in(target, CLASSES_IN)
    return any(f"{path}.".startswith(f"{p}.") for p, found in OTHERS.items() if target in found)


def _is_in(target: str, modules: tuple[str, ...]) -> bool:
    return target.startswith(tuple(f"{OURS}.{module}." for module in modules))


def _check_signature(path: str, node: dict[str, Any], found: Any) -> None:
    """ConfigError: a key is no parameter, or a parameter without a default has no key."""
    parameters = inspect.signature(found).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for key in node:
        if not key.startswith("_") and key not in parameters:
            raise ConfigError(
                f"{path}.{key}: {found.__name__} has no such option{did_you_mean(key, parameters)}"
            )
    given = node.keys() | GIVEN.get(path, set())
    for name, parameter in parameters.items():
        required = parameter.default is parameter.empty
        if required and parameter.kind is not parameter.VAR_POSITIONAL and name not in given:
            raise ConfigError(f"{path}.{name}: {found.__name__} needs a value for it")
