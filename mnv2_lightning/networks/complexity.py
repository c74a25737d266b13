"""Costs of a network: parameters, multiply-adds, sizes of its feature maps."""

import copy
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Complexity:
    """Costs of the forward pass of one image. `map_sizes`: stage -> width of its output, in px."""

    parameters: int
    multiply_adds: int
    map_sizes: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(network: nn.Module, *, in_channels: int, image_size: int) -> Complexity:
    """Costs of `network` for a (1, in_channels, image_size, image_size) image.

    The forward pass runs on the meta device, where nothing is computed. Multiply-adds are those of
    convolutions and linear layers.
    """
    on_meta = copy.deepcopy(network).to("meta", torch.float32).eval()
    map_sizes: dict[str, int] = {}

    def record(name: str, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if output.ndim == 4:
            map_sizes[name] = output.shape[-1]

    for name, module in _stages(on_meta):
        module.register_forward_hook(partial(record, name))
    image = torch.empty(1, in_channels, image_size, image_size, device="meta")
    with torch.inference_mode(), FlopCounterMode(display=False) as flops:
        on_meta(image)
    return Complexity(
        parameters=sum(p.numel() for p in network.parameters()),
        multiply_adds=flops.get_total_flops() // 2,
        map_sizes=map_sizes,
    )


def _stages(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """The network's children by name; of `stages` and `layers` their children instead."""
    found: list[tuple[str, nn.Module]] = []
    for name, child in network.named_children():
        if name in ("stages", "layers"):
            found += [(f"{name}.{key}", stage) for key, stage in child.named_children()]
        else:
            found.append((name, child))
    return found
