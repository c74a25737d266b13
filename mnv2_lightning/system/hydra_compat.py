"""The differences between Hydra 1.3 and 1.4."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import hydra
from hydra import initialize_config_dir, utils
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

IS_1_3 = hydra.__version__.startswith("1.3.")
_BASE: dict[str, Any] = {"version_base": "1.3"} if IS_1_3 else {}
# Which targets may be instantiated is checked before, by schema/targets.py.
_UNCHECKED: Any = None if IS_1_3 else vars(utils)["UNSAFE_DISABLE_EXECUTION_CHECKS"]
_MAIN = _BASE or {"execution_whitelist": _UNCHECKED}
_NODE = {} if IS_1_3 else {"_execution_whitelist_": _UNCHECKED}
# Options of Hydra that take a value; argparse accepts their beginnings.
_WITH_VALUE = (
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"),
    *("--config-dir", "-cd", "--experimental-rerun"),
)
_INFO = ("--info", "-i")  # the value may be left out


def main(config_dir: str, config_name: str) -> Callable[[Callable[..., None]], Any]:
    return hydra.main(config_path=config_dir, config_name=config_name, **_MAIN)


def overrides_first(arguments: Sequence[str]) -> list[str]:
    """The overrides, then the options. Hydra 1.3 refuses overrides on both sides of an option."""
    overrides: list[str] = []
    options: list[str] = []
    left = list(arguments)
    while left:
        argument = left.pop(0)
        is_option = argument.startswith("-")
        (options if is_option else overrides).append(argument)
        if is_option and left and _takes(argument, left[0]):
            options.append(left.pop(0))
    return overrides + options


def _takes(option: str, following: str) -> bool:
    """Whether the argument that follows an option is its value."""
    if option == "--":
        return False
    if any(name.startswith(option) for name in _INFO):
        return "=" not in following and not following.startswith(("-", "~"))
    return any(name.startswith(option) for name in _WITH_VALUE)


def initialize(config_dir: str) -> initialize_config_dir:
    return initialize_config_dir(config_dir, **_BASE)


def instantiate(node: Any, **kwargs: Any) -> Any:
    """InstantiationException, whose cause is what the class raised; Hydra 1.4 raises the latter."""
    try:
        return utils.instantiate(node, **_NODE, **kwargs)
    except InstantiationException:
        raise
    except Exception as error:
        raise InstantiationException(str(error)) from error


# OmegaConf 2.4, which Hydra 1.4 requires, deprecates the name that the Ray plugin calls it by.
register_resolver: Callable[..., None] = getattr(
    OmegaConf, "register_new_resolver" if IS_1_3 else "register_resolver"
)
warnings.filterwarnings("ignore", r"register_new_resolver\(\)", module="hydra_plugins")
