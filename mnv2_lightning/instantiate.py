"""An object from a node of a config."""

from typing import Any

from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from mnv2_lightning.runs.config import plain
from mnv2_lightning.schema.errors import ConfigError, is_of_storage, one_line
from mnv2_lightning.schema.targets import class_arguments
from mnv2_lightning.system import hydra_compat


def instantiate(kind: type, key: str, node: DictConfig, **kwargs: Any) -> Any:
    """The object that `node`, the value of `key`, describes.

    ConfigError: its class refuses the values, or is not a `kind`.
    """
    if len(taken := class_arguments(key, plain(node))) < len(node):
        node = OmegaConf.create(taken)
    try:
        built = hydra_compat.instantiate(node, _convert_="all", **kwargs)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if is_of_storage(cause):
            raise cause from None
        message = one_line(cause)
        is_of_a_key = message.partition("=")[0] in node  # "strides=[1, 2]: ..."
        raise ConfigError(f"{key}{'.' if is_of_a_key else ': '}{message}") from error
    if not isinstance(built, kind):
        needed = f"{kind.__module__}.{kind.__name__}"
        raise ConfigError(f"{key}._target_={node._target_}: makes no {needed}")
    return built
