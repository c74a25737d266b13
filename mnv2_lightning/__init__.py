"""MobileNetV2 on MNIST with PyTorch Lightning and Hydra."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mnv2_lightning.trained import load

__all__ = ["compose", "load"]


def compose(
    command: str, overrides: Sequence[str] = (), config_dir: str | None = None
) -> "DictConfig":
    """The config of a command, such as `train(compose("train", ["experiment=fast"]))` takes it.

    `overrides` are those of the command line; `config_dir` is a folder of your own with files for
    `conf/`. Each call with the config makes a new run, unless `hydra.run.dir=PATH` or `resume=PATH`
    names a folder. ConfigError.
    """
    from importlib import import_module

    from mnv2_lightning.cli import from_python

    found = import_module(f"mnv2_lightning.{command}").COMMAND
    return from_python.compose(found, overrides, config_dir)


def __getattr__(name: str) -> Any:
    if name == "load":  # late: imports torch
        from mnv2_lightning.trained import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
