"""The operators of core ATen that `network.js` computes, and their arguments there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable


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
    _require(isinstance(x, Value), isinstance(y, Value), x.shape == y.shape, alpha == 1)
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
