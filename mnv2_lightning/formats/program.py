"""A network as a list of operations in JSON, which `network.js` computes."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from mnv2_lightning.schema.errors import ConfigError, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True)
class Value:
    """A tensor that is known when the program runs, by the position of its operation; 0: the input.

    Its shape is without the batch, which is one image.
    """

    index: int
    shape: tuple[int, ...]


Operation = dict[str, Any]  # its "type", a function of `network.js`, and the arguments


class UnsupportedError(Exception):
    """`network.js` cannot compute an operator with these arguments."""


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


def _require(*conditions: bool) -> None:
    if not all(conditions):
        raise UnsupportedError


def _convolution(
    x: Value,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    *,
    shape: tuple[int, ...],
) -> Operation:
    _require(isinstance(weight, Tensor), not isinstance(bias, Value))
    _require(not transposed, len(shape) == 3)
    return {
        "type": "convolution",
        "x": x,
        "from": list(x.shape),
        "weight": weight,
        "bias": bias,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
    }


def _linear(bias: Tensor | None, x: Value, weight: Tensor, *, shape: tuple[int, ...]) -> Operation:
    """Of weights (inputs, outputs): a convolution of one pixel."""
    _require(isinstance(x, Value), isinstance(weight, Tensor), not isinstance(bias, Value))
    pixel, outputs = Value(x.index, (*x.shape, 1, 1)), (*shape, 1, 1)
    weight = weight.T[:, :, None, None]
    operation = _convolution(
        pixel, weight, bias, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, shape=outputs
    )
    return {**operation, "shape": list(outputs)}


def _clamp(
    x: Value, low: float | None = None, high: float | None = None, *, shape: tuple[int, ...]
) -> Operation:
    return {"type": "clamp", "x": x, "low": low, "high": high}


def _hardtanh(
    x: Value, low: float = -1.0, high: float = 1.0, *, shape: tuple[int, ...]
) -> Operation:
    return _clamp(x, low, high, shape=shape)


def _affine(x: Value, factor: float, summand: float) -> Operation:
    return {"type": "affine", "x": x, "factor": factor, "summand": summand}


def _add(x: Value, y: Any, *, shape: tuple[int, ...], alpha: float = 1) -> Operation:
    if isinstance(y, int | float):
        return _affine(x, 1, alpha * y)
    _require(x.shape == y.shape, alpha == 1)
    return {"type": "add", "x": x, "y": y}


def _subtract(x: Value, y: Any, *, shape: tuple[int, ...], alpha: float = 1) -> Operation:
    _require(isinstance(y, int | float))
    return _affine(x, 1, -alpha * y)


def _multiply(x: Value, y: Any, *, shape: tuple[int, ...]) -> Operation:
    _require(isinstance(y, int | float))
    return _affine(x, y, 0)


def _divide(x: Value, y: Any, *, shape: tuple[int, ...]) -> Operation:
    _require(isinstance(y, int | float))
    return _affine(x, 1 / y, 0)


def _mean(x: Value, axes: list[int], keepdim: bool = False, *, shape: tuple[int, ...]) -> Operation:
    """Of each channel."""
    _require(len(x.shape) == 3, sorted(axis % 4 for axis in axes) == [2, 3])
    return {"type": "mean", "x": x}


def _slice(
    x: Value, axis: int = 0, start: int = 0, end: int = 0, step: int = 1, *, shape: tuple[int, ...]
) -> Operation:
    _require(axis > 0, start >= 0, step == 1)
    return {"type": "slice", "x": x, "from": list(x.shape), "axis": axis - 1, "start": start}


def _resize(
    x: Value, size: list[int], align_corners: bool, *scales: None, shape: tuple[int, ...]
) -> Operation:
    """As rows times x times the columns' transpose."""
    _require(not align_corners)
    rows, columns = (
        F.interpolate(torch.eye(old)[None, None], (new, old), mode="bilinear", antialias=True)[0, 0]
        for old, new in zip(x.shape[1:], size, strict=True)
    )
    return {"type": "resize", "x": x, "from": list(x.shape), "rows": rows, "columns": columns}


def _same(x: Value, *args: Any, shape: tuple[int, ...]) -> None:
    _require(math.prod(x.shape) == math.prod(shape))


OPERATORS: dict[str, Callable[..., Operation | None]] = {
    "aten.convolution.default": _convolution,
    "aten.addmm.default": _linear,
    "aten.mm.default": partial(_linear, None),
    "aten.hardtanh.default": _hardtanh,
    "aten.clamp.default": _clamp,
    "aten.relu.default": partial(_clamp, low=0.0),
    "aten.add.Tensor": _add,
    "aten.sub.Tensor": _subtract,
    "aten.mul.Tensor": _multiply,
    "aten.div.Tensor": _divide,
    "aten.mean.dim": _mean,
    "aten.slice.Tensor": _slice,
    "aten._upsample_bilinear2d_aa.default": _resize,
    "aten.view.default": _same,
    "aten.clone.default": _same,
    "aten.squeeze.dims": _same,
    "aten.unsqueeze.default": _same,
}
