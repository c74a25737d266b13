"""A network as a list of operations in JSON, which `network.js` computes."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from mnv2_lightning.formats.operators import OPERATORS, Operation, UnsupportedError, Value
from mnv2_lightning.schema.errors import ConfigError, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence


def convert(module: nn.Module, shape: Sequence[int]) -> dict[str, Any]:
    """The program of a module in evaluation mode, for one image of `shape`.

    "input": that shape. "operations": in their order; each has a "type", the "shape" of its result,
    and arguments: numbers, positions of operations, counted from 1, or weights, by the offset of
    the first and their shape. "output": a position. "weights": float32, little-endian, in base64.
    ConfigError: torch.export fails, or the module uses an operator that `network.js` does not have.
    """
    exported = _export(module, torch.zeros(1, *shape))
    signature = exported.graph_signature
    stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    tensors = {name: exported.state_dict[key] for name, key in stored.items()}
    for name, key in signature.inputs_to_lifted_tensor_constants.items():
        tensors[name] = exported.constants[key]
    weights, operations = _Weights(), list[Operation]()
    known: dict[fx.Node, Any] = {}
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            known[node] = tensors.get(node.name, Value(0, tuple(shape)))
        elif node.op == "call_function":
            known[node] = _append(operations, node, known, weights)
        else:
            (output,) = fx.map_arg(node.args[0], known.__getitem__)
    return {
        "input": list(shape),
        "operations": operations,
        "output": output.index,
        "weights": weights.base64(),
    }


def _export(module: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """The graph of a module, in core ATen operators."""
    try:
        with torch.no_grad():  # the layers of small_maps.py have other paths for training
            return torch.export.export(module, (example,)).run_decompositions()
    except Exception as error:  # of any type, from a network of the user's own
        message = f"format=page: torch.export cannot export the network ({one_line(error)})"
        raise ConfigError(message) from error


class _Weights:
    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.count = 0

    def place(self, tensor: Tensor) -> dict[str, Any]:
        self.tensors.append(tensor.detach().float().flatten())
        self.count += tensor.numel()
        return {"offset": self.count - tensor.numel(), "shape": list(tensor.shape)}

    def base64(self) -> str:
        flat = torch.cat([torch.zeros(0), *self.tensors]).numpy()
        return base64.b64encode(flat.astype("<f4").tobytes()).decode()


def _append(
    operations: list[Operation], node: fx.Node, known: dict[fx.Node, Any], weights: _Weights
) -> Any:
    """Append the operation of a node. Its value: a tensor if it depends on weights alone."""
    args: list[Any] = [fx.map_arg(arg, known.__getitem__) for arg in node.args]
    kwargs = {key: fx.map_arg(arg, known.__getitem__) for key, arg in node.kwargs.items()}
    assert callable(node.target)
    if not any(isinstance(known[argument], Value) for argument in node.all_input_nodes):
        return node.target(*args, **kwargs)
    name = str(node.target)
    shape = tuple(node.meta["val"].shape[1:]) if isinstance(node.meta["val"], Tensor) else ()
    message = f"format=page: no operator for {name.removesuffix('.default')}"
    if name not in OPERATORS:
        raise ConfigError(f"{message}; use another format")
    try:
        operation = OPERATORS[name](*args, shape=shape, **kwargs)
    except (TypeError, UnsupportedError):
        raise ConfigError(f"{message} with these arguments; use another format") from None
    if operation is None:  # the same numbers in another shape
        return Value(args[0].index, shape)
    for key, value in operation.items():
        if isinstance(value, Tensor):
            operation[key] = weights.place(value)
        elif isinstance(value, Value):
            operation[key] = value.index
    operations.append({"shape": list(shape), **operation})
    return Value(len(operations), shape)
