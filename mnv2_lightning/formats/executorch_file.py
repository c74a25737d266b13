"""ExecuTorch, for phones: XNNPACK's kernels, one picture at a time."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mnv2_lightning.formats import suppress_output
from mnv2_lightning.formats.outputs import Outputs, Run
from mnv2_lightning.schema.errors import ConfigError, root_cause
from mnv2_lightning.system import durable_files

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from mnv2_lightning.trained import PictureClassifier

LARGEST = 1024  # px: the largest height and width; memory for the activations is planned by it


def write(
    model: PictureClassifier,
    path: Path,
    metadata: Mapping[str, Any],
    quantize: str,
    calibration: np.ndarray,
) -> None:
    """Write the model for one picture, (1, height, width) uint8, with the outputs logits,
    (1, num_classes), and what the network saw, (1, 28, 28).

    Height and width are up to LARGEST; without the preparation, those of `calibration`, (N, H, W)
    uint8 training images, which int8 is calibrated on. Each key of `metadata` becomes a method
    that returns its value, as a number, or as text or JSON. ConfigError: the network cannot be
    exported. StorageError.
    """
    with suppress_output.of_libraries(), suppress_output.standard_error():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        try:
            if quantize == "int8":
                model = _quantized(model, torch.tensor(calibration))
            exported = _export(model, calibration[:1])
            constants = {
                key: value if isinstance(value, str | int | float) else json.dumps(value)
                for key, value in metadata.items()
            }
            lowered = to_edge_transform_and_lower(
                exported, partitioner=[XnnpackPartitioner()], constant_methods=constants
            )
            content = lowered.to_executorch().buffer
        except Exception as error:  # of torch.export, of each pass, of XNNPACK
            cause = root_cause(error)
            raise ConfigError(
                f"format=executorch: the network cannot be exported ({cause})"
            ) from error
    durable_files.write_bytes(path, content)


def load(path: Path) -> Run:
    """A function of (B, H, W) uint8 that gives the logits and what the network saw."""
    # Loading the first program prints which files of ARM processors are not there.
    with suppress_output.of_libraries(), suppress_output.standard_error():
        from executorch.runtime import Runtime

        method = Runtime.get().load_program(path).load_method("forward")

    def run(pictures: np.ndarray) -> Outputs:
        outputs = []
        for picture in pictures:  # the next call overwrites the outputs of a call
            logits, seen = method.execute([torch.tensor(picture[None])])
            outputs.append((logits.clone(), seen.clone()))
        logits, seen = (torch.cat(parts).numpy() for parts in zip(*outputs, strict=True))
        return logits, seen

    return run


def _export(model: PictureClassifier, picture: np.ndarray) -> ExportedProgram:
    """`picture`: one, of the size that a model without preparation takes."""
    sizes = None
    if model.preparation is not None:
        picture = np.zeros((1, 37, 53), np.uint8)  # both sizes are unlike any other in the graph
        names = enumerate(("height", "width"), start=1)
        sizes = ({axis: torch.export.Dim(name, min=2, max=LARGEST) for axis, name in names},)
    # The layers of networks/small_maps.py take other paths while gradients are on.
    with torch.no_grad():
        return torch.export.export(model, (torch.tensor(picture),), dynamic_shapes=sizes)


def _quantized(model: PictureClassifier, images: Tensor) -> PictureClassifier:
    """The model with int8 weights, one scale per channel, and activations, of its network."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    settings = get_symmetric_quantization_config(is_per_channel=True)
    with torch.no_grad():
        inputs = model.inputs(model.prepare(images))
        network: nn.Module = torch.export.export(model.network, (inputs[:1],)).module()
        network = prepare_pt2e(network, XNNPACKQuantizer().set_global(settings))
        for x in inputs.split(1):
            network(x)
        model = copy.deepcopy(model)
        model.network = convert_pt2e(network)
    return model
