"""test_predictions.csv: what a run's network answers to each test image."""

import csv
from pathlib import Path

import numpy as np

from mnv2_lightning.system.durable_files import write_text

PREDICTIONS = "test_predictions.csv"


def write_predictions(path: Path, labels: np.ndarray, probabilities: np.ndarray) -> None:
    """A line for each image, in the order of the test set: label, prediction, its probability.

    `labels`: (N,) classes; `probabilities`: (N, C). StorageError.
    """
    predicted = probabilities.argmax(1)
    rows = zip(labels.tolist(), predicted.tolist(), probabilities.max(1).tolist(), strict=True)
    lines = [f"{label},{answer},{probability:.4f}\n" for label, answer, probability in rows]
    write_text(path, "label,prediction,probability\n" + "".join(lines))


def read_predictions(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Labels and predictions, (N,) each; None if there is no such file, or it is another."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = [(int(row["label"]), int(row["prediction"])) for row in csv.DictReader(stream)]
    except (OSError, LookupError, TypeError, ValueError, csv.Error):
        return None
    labels, predictions = np.array(rows, int).reshape(-1, 2).T
    return labels, predictions
