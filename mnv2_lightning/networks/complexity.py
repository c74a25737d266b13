"""What a network costs: parameters, multiply-adds, map sizes, activation memory."""

import copy
import weakref
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Complexity:
    """Costs of one image's forward pass. `map_sizes`: stage name -> height of its output, px."""

    parameters: int
    multiply_adds: int
    map_sizes: dict[str, int]
    peak_activation_bytes: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(network: nn.Module, *, in_channels: int, image_size: int) -> Complexity:
    """Trace `network` on a (1, in_channels, image_size, image_size) image; computes nothing.

    Multiply-adds are those of convolutions and linear layers. Peak activation memory is the
    largest sum of tensors alive at once in inference, the image included, in float32.
    """
    shadow = copy.deepcopy(network).to(device="meta", dtype=torch.float32).eval()
    map_sizes: dict[str, int] = {}

    def record(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            if output.ndim == 4:
                map_sizes[name] = output.shape[-1]

        return hook

    for name, module in _stages(shadow):
        module.register_forward_hook(record(name))
    image = torch.empty(1, in_channels, image_size, image_size, device="meta")
    with torch.inference_mode(), FlopCounterMode(display=False) as flops:
        shadow(image)
    with torch.no_grad(), _LiveMemory() as memory:
        shadow(memory.track(image))
    return Complexity(
        parameters=sum(p.numel() for p in network.parameters()),
        multiply_adds=flops.get_total_flops() // 2,
        map_sizes=map_sizes,
        peak_activation_bytes=memory.peak,
    )


def _stages(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """The direct children that keep a map, with a list of stages opened one level."""
    found: list[tuple[str, nn.Module]] = []
    for name, child in network.named_children():
        if name in ("stages", "layers"):
            found += [(f"{name}.{key}", stage) for key, stage in child.named_children()]
        else:
            found.append((name, child))
    return found


class _LiveMemory(TorchDispatchMode):
    """Sums the storages of all tensors that operations make, from birth to death."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def track(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if (key := storage._cdata) not in self.known:
            self.known.add(key)
            self.live += (size := storage.nbytes())
            self.peak = max(self.peak, self.live)
            weakref.finalize(tensor, self._release, key, size)
        return tensor

    def _release(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.track(leaf)
        return out
