"""What `predict` classifies pictures with: the network of a run, or an exported ONNX file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from mnv2_lightning.schema.errors import ConfigError, one_line

# Of grey pictures, each (H, W) uint8: the logits, (N, num_classes), and what the network saw,
# (N, 28, 28), from 0 to 255.
Classify = Callable[[Sequence[np.ndarray]], tuple[np.ndarray, np.ndarray]]
GROUP_PIXELS = 1 << 22  # of pictures of one size that ONNX Runtime gets at a time


@dataclass(frozen=True)
class Predictor:
    """`prepare`: "mnist" or "plain". `classify`: see `Classify`. `status`: of the run's record;
    None for an ONNX file.
    """

    classes: list[str]
    prepare: str
    classify: Classify
    source: Path
    status: str | None = None


def from_run(
    run_dir: str, checkpoint: str | None, prepare: str | None, trust: Sequence[str] | None
) -> Predictor:
    """See `trained.load`. ConfigError, StorageError."""
    import torch

    from mnv2_lightning import trained

    loaded = trained.load(run_dir, checkpoint=checkpoint, prepare=prepare, trust=trust)
    classifier = loaded.picture_classifier()

    @torch.inference_mode()
    def classify(pictures: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        seen = torch.cat([classifier.prepare(torch.as_tensor(x)[None]) for x in pictures])
        logits = classifier.network(classifier.inputs(seen))
        return logits.numpy(), seen.numpy()

    status = str(loaded.record.get("status"))
    if not status.isalpha() or status == "None":  # a stranger's record may hold anything
        status = "unfinished"
    return Predictor(loaded.classes, loaded.prepare, classify, loaded.checkpoint, status)


def from_onnx(path: str) -> Predictor:
    """A file that `export` wrote, by ONNX Runtime. ConfigError."""
    from mnv2_lightning.formats import onnx_file

    try:
        session = onnx_file.open_session(Path(path))
    except ImportError:
        raise ConfigError(
            f'onnx={path}: ONNX Runtime is not installed; pip install -e ".[onnx]"'
        ) from None
    except Exception as error:  # ONNX Runtime has a class for each of its status codes
        raise ConfigError(f"onnx={path}: cannot be loaded ({one_line(error)})") from error
    classes, prepare = _metadata(path, session)

    def classify(pictures: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        by_shape = sorted(range(len(pictures)), key=lambda i: pictures[i].shape)
        logits: dict[int, np.ndarray] = {}
        seen: dict[int, np.ndarray] = {}
        for shape, same in groupby(by_shape, key=lambda i: pictures[i].shape):
            indices = list(same)
            size = max(1, GROUP_PIXELS // (shape[0] * shape[1]))
            for start in range(0, len(indices), size):
                group = indices[start : start + size]
                batch = np.stack([pictures[i] for i in group])
                results = session.run(["logits", "seen"], {"pictures": batch})
                logits |= zip(group, results[0], strict=True)
                seen |= zip(group, results[1], strict=True)
        order = range(len(pictures))
        return np.stack([logits[i] for i in order]), np.stack([seen[i] for i in order])

    return Predictor(classes, prepare, classify, Path(path))


def _metadata(path: str, session: Any) -> tuple[list[str], str]:
    """The classes and the preparation that `export` wrote into the file. ConfigError."""
    inputs = [node.name for node in session.get_inputs()]
    outputs = {node.name: node.shape for node in session.get_outputs()}
    metadata = session.get_modelmeta().custom_metadata_map
    try:
        classes = json.loads(metadata.get("classes", "null"))
    except ValueError:
        classes = None
    is_ours = inputs == ["pictures"] and {"logits", "seen"} <= outputs.keys()
    is_list = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    prepare = metadata.get("prepare")
    if not is_ours or not is_list or prepare not in ("mnist", "plain"):
        raise ConfigError(f"onnx={path}: was not written by mnv2_lightning.export")
    if outputs["logits"][-1] != len(classes):
        found = outputs["logits"][-1]
        raise ConfigError(f"onnx={path}: names {len(classes)} classes but has {found} logits")
    return classes, prepare
