"""Costs of a network: parameters, multiply-adds, sizes of its feature maps."""

import copy
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

DTYPES = {"64-true": torch.float64, "bf16-true": torch.bfloat16, "16-true": torch.float16}


@dataclass(frozen=True)
class Complexity:
    """Costs of the forward pass of one image. `map_sizes`: stage -> width of its output, in px."""

    parameters: int
    multiply_adds: int | None
    map_sizes: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(network: nn.Module, *, in_channels: int, image_size: int) -> Complexity:
    """Costs of `network` for a (1, in_channels, image_size, image_size) image.

    Multiply-adds are those of convolutions and linear layers; None if the network takes other
    images. The forward pass runs on the meta device, where nothing is computed, if it can.
    """
    shape = (1, in_channels, image_size, image_size)
    multiply_adds: int | None = None
    map_sizes: dict[str, int] = {}
    for device in ("meta", "cpu"):
        with suppress(Exception):  # of any type, from a network of the user's own
            multiply_adds, map_sizes = _run(network, shape, device)
            break
    parameters = sum(p.numel() for p in network.parameters())
    return Complexity(parameters, multiply_adds, map_sizes)


def training_bytes(
    network: nn.Module, *, in_channels: int, image_size: int, batch_size: int, precision: str
) -> int | None:
    """Estimated memory of training on a batch: what the forward pass keeps for the backward pass,
    and each parameter's value, gradient and two values of the optimizer.

    None: the network does not run on the meta device. `precision`: Lightning's; with a mixed one,
    the estimate is that of 32-true.
    """
    kept: dict[int, torch.UntypedStorage] = {}  # by identity, as views share theirs

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[id(storage)] = storage
        return tensor

    try:
        copied = copy.deepcopy(network).to("meta", DTYPES.get(precision, torch.float32)).train()
        own = [x.untyped_storage() for x in (*copied.parameters(), *copied.buffers())]
        dtype = next(copied.parameters()).dtype
        images = torch.zeros(2, in_channels, image_size, image_size, device="meta", dtype=dtype)
        with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            copied(images)
    except Exception:  # of any type, from a network of the user's own
        return None
    activations = sum(x.nbytes() for x in kept.values()) - sum(
        x.nbytes() for x in own if id(x) in kept
    )
    parameters = sum(x.nbytes for x in copied.parameters())
    return activations * batch_size // 2 + 4 * parameters


def _run(network: nn.Module, shape: tuple[int, ...], device: str) -> tuple[int, dict[str, int]]:
    """Multiply-adds and map sizes of a forward pass."""
    copied = copy.deepcopy(network).to(device, torch.float32).eval()
    map_sizes: dict[str, int] = {}

    def record(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            map_sizes[name] = output.shape[-1]

    for name, module in _stages(copied):
        module.register_forward_hook(partial(record, name))
    with torch.inference_mode(), FlopCounterMode(display=False) as flops:
        copied(torch.zeros(shape, device=device))
    return flops.get_total_flops() // 2, map_sizes


def _stages(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """The network's children by name; of `stages` and `layers` their children instead."""
    found: list[tuple[str, nn.Module]] = []
    for name, child in network.named_children():
        if name in ("stages", "layers"):
            found += [(f"{name}.{key}", stage) for key, stage in child.named_children()]
        else:
            found.append((name, child))
    return found
