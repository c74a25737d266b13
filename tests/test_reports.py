"""Tables and figures from arrays."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from mnv2_lightning.reports import figures, tables
from mnv2_lightning.runs.csv_logger import CSVLogger
from mnv2_lightning.runs.record import EMPTY, Record, read_dict
from mnv2_lightning.system.durable_files import write_json, write_text

LABELS = np.array([0, 0, 0, 1, 1, 2])
# Said: 0 0 1 1 1 1
PROBABILITIES = np.array(
    [[0.9, 0.1, 0], [0.8, 0.2, 0], [0.3, 0.7, 0], [0, 1, 0], [0.1, 0.9, 0], [0, 0.99, 0.01]]
)


def test_confusion_matrix_by_hand() -> None:
    matrix = figures.confusion_matrix(LABELS, PROBABILITIES)
    assert matrix.tolist() == [[2, 1, 0], [0, 2, 0], [0, 1, 0]]


def test_per_class_by_hand() -> None:
    """Class 1: right twice, said four times, there twice; class 2 is never said."""
    matrix = figures.confusion_matrix(LABELS, PROBABILITIES)
    zero, one, two = tables.per_class(matrix, ["a", "b", "c"])
    assert (zero["precision"], zero["recall"]) == (1, pytest.approx(2 / 3))
    assert zero["f1"] == pytest.approx(4 / 5)
    assert (one["precision"], one["recall"]) == (0.5, 1)
    assert (two["precision"], two["recall"], two["f1"]) == (None, 0, 0)


def test_matrix_csv() -> None:
    text = tables.matrix_csv(np.array([[1, 2], [3, 4]]), ["a", "b"])
    assert text == "true,a,b\na,1,2\nb,3,4\n"


def test_confusion_figure_says_how_many_are_wrong() -> None:
    matrix = figures.confusion_matrix(LABELS, PROBABILITIES)
    figure = figures.draw_confusion(matrix, ["a", "b", "c"])
    assert figure.axes[0].get_title() == "2 of 6 wrong (66.67% right)"
    figure.savefig(io.BytesIO())


def test_most_confidently_wrong_come_first() -> None:
    """The 2 said to be a 1 at 99 %, then the 0 said to be a 1 at 70 %."""
    images = np.zeros((6, 28, 28), np.uint8)
    figure = figures.draw_wrong(images, LABELS, PROBABILITIES, ["a", "b", "c"], count=9)
    titles = [text.get_text() for text in figure.axes[0].texts]
    assert titles == ["c, not b (99%)", "a, not b (70%)"]


def test_none_is_wrong() -> None:
    images = np.zeros((1, 28, 28), np.uint8)
    figure = figures.draw_wrong(images, LABELS[:1], PROBABILITIES[:1], ["a", "b", "c"], count=9)
    figure.savefig(io.BytesIO())


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


def test_csv_goes_on_and_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    logger = CSVLogger(run_dir=str(tmp_path))
    for step in range(6):
        logger.log_metrics({"a": step, "epoch": step // 3}, step)
    logger.finalize("failed")
    logger = CSVLogger(run_dir=str(tmp_path), purge_step=3)
    logger.log_metrics({"b": 7.5}, 3)
    logger.save()
    got = rows(tmp_path / "metrics.csv")
    assert [r["step"] for r in got] == ["0", "1", "2", "3"]
    assert [r["a"] for r in got] == ["0", "1", "2", ""]
    assert [r["b"] for r in got] == ["", "", "", "7.5"]


def test_csv_joins_what_is_logged_at_one_step(tmp_path: Path) -> None:
    logger = CSVLogger(run_dir=str(tmp_path))
    logger.log_metrics({"a": 1}, 5)
    logger.log_metrics({"b": 2}, 5)
    logger.save()
    assert rows(tmp_path / "metrics.csv") == [{"step": "5", "epoch": "", "a": "1", "b": "2"}]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"x": float("nan")})
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_record_keeps_to_its_keys(tmp_path: Path) -> None:
    record = Record(tmp_path)
    with pytest.raises(AssertionError):
        record.update(tset_accuracy=1)
    record.update(status="running")
    assert read_dict(tmp_path / "result.json") == EMPTY | {"status": "running"}
