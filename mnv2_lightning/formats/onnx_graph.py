"""Make ONNX files small and reproducible."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def strip(model: onnx.ModelProto) -> None:
    """Remove what describes where the model comes from: stack traces, paths, comments."""
    graph = model.graph
    model.ClearField("doc_string")
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("value_info")


def compact(model: onnx.ModelProto) -> None:
    """Remove what makes an int8 file large: zero points of 0, copies of constants, long names."""
    _remove_zero_points(model.graph)
    _share_constants(model.graph)
    _remove_unused(model.graph)
    _shorten_names(model.graph)


def _remove_zero_points(graph: onnx.GraphProto) -> None:
    """A zero point that is left out is 0; it is uint8 where a tensor is quantized."""
    from onnx import TensorProto, numpy_helper

    is_zero = {i.name: i for i in graph.initializer if not numpy_helper.to_array(i).any()}
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 3:
            continue
        point = is_zero.get(node.input[2])
        if point is None:
            continue
        if node.op_type == "DequantizeLinear" or point.data_type == TensorProto.UINT8:
            del node.input[2]


def _share_constants(graph: onnx.GraphProto) -> None:
    """Use one name for constants of the same type, shape and content."""
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    same = {
        i.name: first.setdefault((i.data_type, tuple(i.dims), _content(i)), i.name)
        for i in graph.initializer
    }
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]


def _content(constant: onnx.TensorProto) -> bytes:
    from onnx import numpy_helper

    return numpy_helper.to_array(constant).tobytes()


def _remove_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [i for i in graph.initializer if i.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _shorten_names(graph: onnx.GraphProto) -> None:
    """Number the tensors that are neither inputs nor outputs, and leave nodes unnamed."""
    short = {value.name: value.name for value in (*graph.input, *graph.output)} | {"": ""}
    for constant in graph.initializer:
        constant.name = short.setdefault(constant.name, str(len(short)))
    for node in graph.node:
        node.name = ""
        for names in (node.input, node.output):
            names[:] = [short.setdefault(name, str(len(short))) for name in names]
