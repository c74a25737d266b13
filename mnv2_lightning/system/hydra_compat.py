"""The differences between Hydra 1.3 and 1.4."""

import warnings
from collections.abc import Callable
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


def main(config_dir: str, config_name: str) -> Callable[[Callable[..., None]], Any]:
    return hydra.main(config_path=config_dir, config_name=config_name, **_MAIN)


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
