"""`model.weights`: a trained network to start from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2_lightning.runs.config import plain
from mnv2_lightning.runs.folder import require_checkpoint, require_run
from mnv2_lightning.schema.errors import ConfigError, empty
from mnv2_lightning.schema.targets import class_arguments

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from torch import Tensor, nn

KEY = "model.weights"


def identify(cfg: DictConfig) -> None:
    """Set `model.weights` to the absolute path of a file, and `weights_sha256` to its checksum.

    Of a run, the file is its best checkpoint, or the last if there is none. A class that has a
    parameter `weights` gets it as it is. ConfigError: there is no such file or run.
    """
    cfg.weights_sha256 = None
    if (given := _given(cfg)) is None:
        return
    if not given:
        raise empty(KEY)
    path = Path(given).expanduser()
    if path.is_dir():
        path = require_checkpoint(KEY, require_run(KEY, str(path)), None)
    if not path.is_file():
        raise ConfigError(f"{KEY}={given}: there is no such file or folder")
    cfg.model.weights = str(path.resolve())
    with path.open("rb") as stream:
        cfg.weights_sha256 = hashlib.sha256(stream.read()).hexdigest()


def load(network: nn.Module, cfg: DictConfig) -> str | None:
    """Load the weights, and return a message that says how many; None if there are none to load.

    The names in the file may have a common prefix. The last layer keeps its initial values if it
    has another number of classes. ConfigError: the file is not the one that `identify` found, or
    has other weights. StorageError: it is damaged.
    """
    import torch

    from mnv2_lightning.runs import checkpoints

    if (given := _given(cfg)) is None:
        return None
    path = Path(given)
    if not path.is_file():
        raise ConfigError(
            f"{KEY}={path}: there is no such file, and the run has no checkpoint to resume from; "
            f"set {KEY}=PATH to where it is"
        )
    content = checkpoints.read_plain(path, sha256=cfg.get("weights_sha256") or "")
    found = content.get("state_dict", content)
    if not isinstance(found, dict):
        raise ConfigError(f"{KEY}={path}: its state_dict is a {type(found).__name__}")
    hint = "; choose the same by model= or experiment="
    saved, prefix = weights_of(network, found, f"{KEY}={path}", hint)
    initial = {k: v for k, v in network.state_dict().items() if torch.is_tensor(v)}
    head, classes = _head(network), len(cfg.data.classes)
    differing = [name for name, tensor in initial.items() if saved[name].shape != tensor.shape]
    for name in differing:
        old, new = saved[name].shape, initial[name].shape
        if name.rpartition(".")[0] != head or (classes, *old[1:]) != new:
            raise ConfigError(
                f"{KEY}={path}: {prefix}{name} has the shape {tuple(old)}, and the network's "
                f"{tuple(new)}"
            )
    with torch.no_grad():
        for name in initial.keys() - set(differing):
            initial[name].copy_(saved[name])
    message = f"{KEY}: {len(initial) - len(differing)} of {len(initial)} tensors from {path}"
    if differing:
        was = len(saved[differing[0]])
        message += f"; {head} keeps its initial values, as it has {classes} classes, not {was}"
    return message


def weights_of(
    network: nn.Module, state_dict: Mapping[Any, Any], source: str, hint: str = ""
) -> tuple[dict[str, Tensor], str]:
    """The tensors of `network` by its own names, and the prefix that they have in `state_dict`.

    ConfigError: it holds another network; the message begins with `source` and ends with `hint`.
    """
    import torch

    saved = {k: v for k, v in state_dict.items() if isinstance(k, str) and torch.is_tensor(v)}
    initial = {k: v for k, v in network.state_dict().items() if torch.is_tensor(v)}
    prefix = _prefix(saved, initial)
    saved = {k.removeprefix(prefix): v for k, v in saved.items() if k.startswith(prefix)}
    for name in initial | saved:
        if name not in saved or name not in initial:
            has = "the network" if name in saved else "the file"
            raise ConfigError(f"{source}: holds another network ({has} has no {name}){hint}")
    return saved, prefix


def _given(cfg: DictConfig) -> str | None:
    """The value of `model.weights`; None if there is none, or it is the class's own parameter."""
    model: Any = cfg.get("model")
    is_node = isinstance(model, Mapping) and "_target_" in model
    if not is_node or model.get("weights") is None:
        return None
    return None if "weights" in class_arguments("model", plain(model)) else str(model.weights)


def _prefix(saved: Mapping[str, Any], initial: Mapping[str, Any]) -> str:
    """The prefix, such as `network.`, with which most names of the network are in the file."""
    prefixes = {
        key.removesuffix(name)
        for key in saved
        for name in initial
        if f".{key}".endswith(f".{name}")
    }
    shortest_first = sorted(prefixes, key=lambda prefix: (len(prefix), prefix))
    return max(
        shortest_first,
        key=lambda prefix: sum(prefix + name in saved for name in initial),
        default="",
    )


def _head(network: nn.Module) -> str | None:
    """The name of the last linear or convolutional layer."""
    from torch import nn

    layers = [name for name, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return layers[-1] if layers else None
