"""Which classes and functions a config may name, and whether a node fits its target.

Hydra's own block list is no security boundary (`torch.load` passes it), hence an allow-list.
"""

import inspect
from importlib import import_module
from typing import Any

from mnv2_lightning.schema.check import targeted_nodes
from mnv2_lightning.schema.errors import ConfigError
from mnv2_lightning.schema.nearest import did_you_mean

OURS = "mnv2_lightning"
# What of ours a config may call: classes in all of these, functions in some. The rest fetches,
# reads and writes files, which a stranger's config is not to do.
FUNCTIONS_IN = ("callbacks", "networks", "schedules")
CLASSES_IN = (
    *FUNCTIONS_IN,
    "classifier",
    "data",
    "runs.csv_logger",
    "runs.tensorboard_logger",
)
# Parameters that `build.py` gives, by the part of the config.
GIVEN = {
    "classifier": {"network", "optimizer", "scheduler"},
    "optimizer": {"params"},
    "scheduler": {"total_steps", "steps_per_epoch"},
}
# Lightning's and Optuna's, each with the part of a config that it belongs to: a logger or profiler
# that stands elsewhere would pass for harmless when a run goes on. Lightning's ModelCheckpoint is
# left out: it removes whatever file a checkpoint calls the best before.
OTHERS = {
    **{
        f"lightning.pytorch.{name}": part
        for part, names in {
            "trainer": ("Trainer",),
            "callbacks": (
                "callbacks.DeviceStatsMonitor",
                "callbacks.EarlyStopping",
                "callbacks.GradientAccumulationScheduler",
                "callbacks.LearningRateMonitor",
                "callbacks.RichModelSummary",
                "callbacks.StochasticWeightAveraging",
                "callbacks.Timer",
            ),
            "logger": (
                "loggers.CSVLogger",
                "loggers.MLFlowLogger",
                "loggers.TensorBoardLogger",
                "loggers.WandbLogger",
            ),
            "trainer.strategy": (
                "strategies.DDPStrategy",
                "strategies.SingleDeviceStrategy",
            ),
            "trainer.profiler": (
                "profilers.AdvancedProfiler",
                "profilers.PyTorchProfiler",
                "profilers.SimpleProfiler",
            ),
        }.items()
        for name in names
    },
    **{
        f"optuna.{part}s.{name}": f"search.{part}"
        for part, names in {
            "sampler": ("CmaEsSampler", "GPSampler", "QMCSampler", "RandomSampler", "TPESampler"),
            "pruner": (
                "HyperbandPruner",
                "MedianPruner",
                "NopPruner",
                "PercentilePruner",
                "SuccessiveHalvingPruner",
            ),
        }.items()
        for name in names
    },
}


def check_targets(config: dict[str, Any]) -> None:
    """ConfigError where a `_target_` is not allowed or its node does not fit its signature."""
    nodes = list(targeted_nodes(config))
    for path, node in nodes:  # all names first: imports take seconds
        target = node["_target_"]
        if not isinstance(target, str) or not _is_allowed(path, target):
            raise ConfigError(
                f"{path}._target_={target}: not allowed; a config may name what is in {OURS} "
                "(networks, data, callbacks, ...), torch.optim, and in their parts the classes "
                "of Lightning and Optuna in mnv2_lightning/schema/targets.py"
            )
        if "_args_" in node:  # no check of a key would see them
            raise ConfigError(f"{path}._args_: not allowed; give each value by its name")
    for path, node in nodes:
        _check_signature(path, node, resolve(path, node["_target_"]))


def resolve(path: str, target: str) -> Any:
    """The object that an allowed dotted name stands for."""
    module_name, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(module_name), name)
    except (ImportError, AttributeError):
        raise ConfigError(f"{path}._target_={target}: there is no such class or function") from None
    # A name may lead elsewhere: mnv2_lightning.networks.x.os.system is not ours.
    home = getattr(found, "__module__", "") or ""
    if not callable(found) or home.split(".")[0] != module_name.split(".")[0]:
        raise ConfigError(f"{path}._target_={target}: not allowed; it is {home or 'no class'}'s")
    if home.startswith(OURS) and not inspect.isclass(found) and not _is_in(target, FUNCTIONS_IN):
        raise ConfigError(f"{path}._target_={target}: not allowed; it is not a class")
    return found


def _is_allowed(path: str, target: str) -> bool:
    parts = target.split(".")
    if not all(part.isidentifier() and not part.startswith("_") for part in parts):
        return False
    if (part := OTHERS.get(target)) is not None:
        return f"{path}.".startswith(f"{part}.")
    if parts[:2] == ["torch", "optim"]:
        return len(parts) == 3 and parts[2][0].isupper()
    return parts[0] == OURS and _is_in(target, CLASSES_IN)


def _is_in(target: str, modules: tuple[str, ...]) -> bool:
    return target.startswith(tuple(f"{OURS}.{module}." for module in modules))


def _check_signature(path: str, node: dict[str, Any], found: Any) -> None:
    """Every key is a parameter; every parameter without a default has a key, or is ours to give."""
    parameters = inspect.signature(found).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
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
