"""Whether an exported file computes what the network does, on the test images."""

from __future__ import annotations

import logging
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import nn

    from mnv2_lightning.formats.outputs import Run
    from mnv2_lightning.trained import PictureClassifier

log = logging.getLogger(__name__)

BATCH = 50  # images
TOLERANCE = 1e-4  # of logits in float32; the formats that were tried differ by 1.3e-5 at most
AGREEMENT = 0.998  # least share of images on which an int8 file agrees with the network
WARMUP, TIMED = 10, 100  # images, one at a time
LOG_SECONDS = 5.0  # between lines of progress


@dataclass(frozen=True)
class Reference:
    """What the network computes in PyTorch.

    `logits`: (N, num_classes), of pictures as the exported file prepares them. `plain_accuracy`:
    without the preparation, as in training.
    """

    logits: np.ndarray
    accuracy: float
    plain_accuracy: float


@dataclass(frozen=True)
class Comparison:
    """An exported file beside the reference: the worst over several ways to run it."""

    accuracy: float
    agreement: float  # share of images with the same class
    largest_difference: float  # of a logit


def compute_reference(
    model: PictureClassifier, images: np.ndarray, labels: np.ndarray
) -> Reference:
    """`images`: (N, H, W) uint8. `labels`: (N,)."""
    with torch.inference_mode():
        batches = _batches(images, "PyTorch")
        logits = np.concatenate([model(torch.tensor(batch))[0].numpy() for batch in batches])
        accuracy = plain = _accuracy(logits, labels)
        if model.preparation is not None:
            network: nn.Module = torch.nn.Sequential(model.transform, model.network)
            batches = _batches(images, "PyTorch without preparation")
            pixels = (torch.tensor(batch)[:, None] / 255 for batch in batches)
            plain = _accuracy(np.concatenate([network(x).numpy() for x in pixels]), labels)
    return Reference(logits, accuracy, plain)


def compare(
    reference: Reference,
    runs: Mapping[str, Run],
    images: np.ndarray,
    labels: np.ndarray,
    batch_size: int = BATCH,
) -> Comparison:
    """`runs`: ways to run the exported file, by their names."""
    expected, results = reference.logits.argmax(1), []
    for name, run in runs.items():
        logits = np.concatenate([run(batch)[0] for batch in _batches(images, name, batch_size)])
        agreement = float(np.mean(logits.argmax(1) == expected))
        difference = float(np.abs(logits - reference.logits).max())  # NaN where a logit is NaN
        results.append((_accuracy(logits, labels), agreement, difference))
    accuracies, agreements, differences = zip(*results, strict=True)
    return Comparison(min(accuracies), min(agreements), float(np.max(differences)))


def find_problem(
    reference: Reference, found: Comparison, quantize: str, max_loss: float
) -> str | None:
    """Why the file must not be used; None if it may. `max_loss`: percentage points."""
    if quantize == "none":
        if found.largest_difference <= TOLERANCE:
            return None
        difference = f"{found.largest_difference:.1e}; at most {TOLERANCE:.0e} is allowed"
        return f"logits differ from PyTorch's by up to {difference}"
    loss = 100 * (reference.accuracy - found.accuracy)
    if not loss <= max_loss + 1e-9:
        accuracies = f"from {100 * reference.accuracy:.2f} % to {100 * found.accuracy:.2f} %"
        allowed = f"max_loss={max_loss:g} allows less"
        return f"accuracy falls {accuracies}, by {loss:.2f} points; {allowed}"
    if found.agreement < AGREEMENT:
        agreement = f"{100 * found.agreement:.2f} %"
        least = f"at least {100 * AGREEMENT:.1f} % is required"
        return f"gives PyTorch's class on {agreement} of the test images; {least}"
    return None


def measure_latency(run: Run, images: np.ndarray) -> float:
    """Median time for one image, in milliseconds."""
    times = []
    for index in range(WARMUP + TIMED):
        picture = images[index % len(images)][None]
        started = time.perf_counter()
        run(picture)
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times[WARMUP:])


def _accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(logits.argmax(1) == labels))


def _batches(images: np.ndarray, name: str, size: int = BATCH) -> Iterator[np.ndarray]:
    """Batches of the images, with a bar on a terminal and lines of progress elsewhere."""
    from rich.progress import track

    starts = range(0, len(images), size)
    what = f"{name} on {len(images):,} test images"
    if sys.stdout.isatty():
        for start in track(starts, what, transient=True):
            yield images[start : start + size]
        return
    log.info("%s ...", what)
    logged = time.monotonic()
    for start in starts:
        if time.monotonic() - logged > LOG_SECONDS:
            logged = time.monotonic()
            log.info("  %d %%", 100 * start / len(images))
        yield images[start : start + size]
