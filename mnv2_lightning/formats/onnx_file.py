"""ONNX: written by PyTorch's exporter, quantized and run by ONNX Runtime."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnv2_lightning.formats import onnx_graph, suppress_output
from mnv2_lightning.formats.outputs import Outputs, Run
from mnv2_lightning.schema.errors import ConfigError, root_cause
from mnv2_lightning.system import durable_files

if TYPE_CHECKING:
    import onnx
    import onnxruntime

    from mnv2_lightning.trained import PictureClassifier

CALIBRATION_BATCH = 100


def write(
    model: PictureClassifier,
    path: Path,
    metadata: Mapping[str, Any],
    quantize: str,
    calibration: np.ndarray,
) -> None:
    """Write the model with an input `pictures`, (batch, height, width) uint8, and the outputs
    `logits`, (batch, num_classes), and `seen`, (batch, 28, 28).

    Without the preparation, height and width are those of `calibration`, (N, H, W) uint8 training
    images, which int8 is calibrated on. `metadata` becomes the model's, each value as text or
    JSON. The bytes depend on the model, the metadata and the versions of the libraries only.
    ConfigError: the network cannot be exported. StorageError.
    """
    graph = _export(model, calibration[:2])
    onnx_graph.strip(graph)
    if quantize == "int8":
        graph = _quantize(graph, calibration)
        onnx_graph.strip(graph)
        onnx_graph.compact(graph)
    del graph.metadata_props[:]
    for key, value in metadata.items():
        text = value if isinstance(value, str) else json.dumps(value)
        graph.metadata_props.add(key=key, value=text)
    durable_files.write_bytes(path, graph.SerializeToString(deterministic=True))


def open_session(path: Path, *, optimize: bool = True) -> onnxruntime.InferenceSession:
    """ONNX Runtime's session, on one CPU. `optimize`: let it fuse operators."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # As bytes, so that the file cannot name others.
    return onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )


def load(path: Path, *, optimize: bool = True) -> Run:
    """A function of (B, H, W) uint8 that gives the logits and what the network saw."""
    session = open_session(path, optimize=optimize)

    def run(pictures: np.ndarray) -> Outputs:
        logits, seen = session.run(["logits", "seen"], {"pictures": pictures})
        return logits, seen

    return run


def _export(model: PictureClassifier, pictures: np.ndarray) -> onnx.ModelProto:
    """`pictures`: two, of the size that a model without preparation takes."""
    import torch

    dimensions = ("batch", "height", "width") if model.preparation else ("batch",)
    if model.preparation is not None:  # a height and a width that differ from all other sizes
        pictures = np.zeros((2, 37, 53), np.uint8)
    dynamic = {axis: torch.export.Dim(name, min=1 + axis) for axis, name in enumerate(dimensions)}
    try:
        # The layers of networks/small_maps.py take other paths while gradients are on.
        with torch.no_grad(), suppress_output.of_libraries():
            program = torch.onnx.export(
                model,
                (torch.tensor(pictures),),
                dynamo=True,
                dynamic_shapes=(dynamic,),
                input_names=["pictures"],
                output_names=["logits", "seen"],
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        cause = root_cause(error)
        raise ConfigError(f"format=onnx: the network cannot be exported ({cause})") from error
    assert program is not None  # of dynamo=True
    return program.model_proto


def _quantize(graph: onnx.ModelProto, images: np.ndarray) -> onnx.ModelProto:
    """Convolutions and linear layers with int8 weights, one scale per channel, and uint8 inputs.

    `reduce_range` leaves weights of 7 bits: processors without VNNI add products of 8 bits in pairs
    in 16 bits, which overflow.
    """
    import onnx
    from onnxruntime import quantization

    class Images(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            starts = range(0, len(images), CALIBRATION_BATCH)
            self.batches: Iterator[np.ndarray] = (
                images[start : start + CALIBRATION_BATCH] for start in starts
            )

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"pictures": batch}

    # Without this mark of `quant_pre_process`, which changes nothing here, a warning advises it.
    graph.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "int8.onnx")
        quantization.quantize_static(
            graph,
            path,
            Images(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm"],
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )
        return onnx.load(path)
