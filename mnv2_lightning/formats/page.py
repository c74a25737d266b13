"""A page on which one draws a picture and sees what the network answers: one HTML file."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnv2_lightning.formats.verification import TIMED, WARMUP
from mnv2_lightning.schema.errors import ConfigError
from mnv2_lightning.system import durable_files

if TYPE_CHECKING:
    from mnv2_lightning.trained import TrainedNetwork

SCRIPTS = ("network.js", "preparation.js")  # without the DOM, so that node runs them too


def write(
    model: TrainedNetwork,
    path: Path,
    metadata: dict[str, Any],
    examples: np.ndarray,
    labels: np.ndarray,
) -> None:
    """Write the page: it needs no other file, and no network. Equal models give equal bytes.

    `metadata`, for the last line: run, checkpoint, torch_accuracy (from 0 to 1), and the versions
    of mnv2_lightning and torch; each may be missing. `examples`: pictures to choose from,
    (N, 28, 28) uint8, light on dark; `labels`: their classes, (N,). ConfigError: the network uses
    an operator that `network.js` does not have.
    """
    from jinja2 import Template
    from markupsafe import Markup
    from torch import nn

    from mnv2_lightning.formats.program import convert

    classifier = model.picture_classifier()
    network = nn.Sequential(classifier.transform, classifier.network).eval()
    content = {
        "classes": model.classes,
        "prepare": model.prepare,
        "program": convert(network, (1, *examples.shape[1:])),
        "examples": base64.b64encode(examples.astype(np.uint8).tobytes()).decode(),
        "labels": labels.tolist(),
    }
    is_digits = all(len(name) == 1 and name.isdigit() for name in model.classes)
    template = Template(_read("drawing.html"), autoescape=True)
    page = template.render(
        noun="digit" if is_digits else "picture",
        description=_describe(model, metadata),
        model=Markup(json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")),
        classifier=Markup("\n".join(_read(name) for name in SCRIPTS)),
        drawing=Markup(_read("drawing.js")),
    )
    durable_files.write_text(path, page)


def _describe(model: TrainedNetwork, metadata: dict[str, Any]) -> list[str]:
    parts = [type(model.network).__name__]
    if isinstance(parameters := model.record.get("parameters"), int):
        parts.append(f"{parameters:,} parameters")
    if (accuracy := metadata.get("torch_accuracy")) is not None:
        parts.append(f"test accuracy {100 * accuracy:.2f} %")
    names = ("run", "checkpoint", "mnv2_lightning", "torch")
    return parts + [f"{name} {metadata[name]}" for name in names if metadata.get(name)]


def is_available() -> bool:
    """Whether `run` finds node."""
    return shutil.which("node") is not None


def run(path: Path, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the page computes, by its own script in node: logits (N, C), and what the network saw,
    (N, 28, 28) from 0 to 255, both float32.

    `pictures`: (N, H, W) uint8. The script of the page runs with the user's rights: run pages of
    `write` only. ConfigError: there is no node, or the script fails.
    """
    results = _run_script(path, pictures)[:, :-1]
    seen = results[:, -28 * 28 :].reshape(-1, 28, 28)
    return results[:, : -28 * 28], seen


def measure_latency(path: Path, images: np.ndarray) -> float:
    """Median time for one image, in milliseconds. `images`: (N, H, W) uint8."""
    pictures = np.resize(images, (WARMUP + TIMED, *images.shape[1:]))
    return float(np.median(_run_script(path, pictures)[WARMUP:, -1]))


def _run_script(path: Path, pictures: np.ndarray) -> np.ndarray:
    """What `driver.js` writes, a row for each picture."""
    if (node := shutil.which("node")) is None:
        raise ConfigError("format=page: node, which runs the page's script, is not installed")
    page = path.read_text(encoding="utf-8")
    script, model = (
        re.findall(rf'<script id="{name}"[^>]*>(.*?)</script>', page, re.S)[0]
        for name in ("classifier", "model")
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "script.js").write_text(f"{script}\n{_read('driver.js')}", encoding="utf-8")
        (folder / "model.json").write_text(model, encoding="utf-8")
        (folder / "pictures.bin").write_bytes(pictures.astype(np.uint8).tobytes())
        command = [node, "script.js", *map(str, pictures.shape[1:])]
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if ended.returncode != 0:
            lines = ended.stderr.splitlines()
            message = next((line for line in lines if "Error" in line), f"{ended.returncode}")
            raise ConfigError(f"{path}: the page's script failed in node: {message}")
        return np.fromfile(folder / "results.bin", "<f4").reshape(len(pictures), -1)


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
