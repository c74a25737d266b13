"""Classify image files: `python -m mnv2_lightning.predict run_dir=RUN images=PATH`."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2_lightning.cli import answers
from mnv2_lightning.cli.command import Command, Job, announce_imports
from mnv2_lightning.runs import folder, stored_config
from mnv2_lightning.schema.errors import ConfigError, PictureError

if TYPE_CHECKING:
    import numpy as np
    from omegaconf import DictConfig

    from mnv2_lightning.predictors import Predictor
    from mnv2_lightning.reports.contact_sheet import Entry

log = logging.getLogger(__name__)
BATCH = 64
SHEET = "contact_sheet.png"


def predict(cfg: DictConfig) -> dict[str, Any]:
    """The class of each of `cfg.images`, its probability, and the second best; or the reason why
    there is none.

    Prints them on standard output, and writes the pictures beside what the network saw of them into
    `cfg.out`. ConfigError, StorageError. PictureError: no picture has a class.
    """
    from mnv2_lightning.cli import from_python
    from mnv2_lightning.images import image_paths
    from mnv2_lightning.reports import contact_sheet, prediction_tables
    from mnv2_lightning.system import durable_files

    cfg = from_python.checked(COMMAND, cfg)
    paths = image_paths.find(cfg.images)
    predictor = _predictor(cfg)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # what is wrong becomes a reason
    entries = list(_predictions(paths, predictor, cfg.photo))
    rows = [entry.row for entry in entries]
    _show(prediction_tables.to_text(rows, cfg.format))
    stream = io.BytesIO()
    contact_sheet.draw(entries).save(stream, "PNG")
    path = Path(cfg.out) / SHEET
    durable_files.write_bytes(path, stream.getvalue())
    shown = min(len(rows), contact_sheet.MOST)
    of_all = "" if shown == len(rows) else f" (the first {shown} of {len(rows)} images)"
    log.info("written: %s%s", path, of_all)
    if all(row["reason"] is not None for row in rows):
        raise PictureError(
            f"images: {len(rows)} of {len(rows)} have no class, for the reasons above"
        )
    return {"predictions": rows, "contact_sheet": str(path)}


def _predictor(cfg: DictConfig) -> Predictor:
    """ConfigError, StorageError."""
    from mnv2_lightning import predictors

    if cfg.onnx is not None:
        predictor = predictors.from_onnx(cfg.onnx)
    else:
        predictor = predictors.from_run(cfg.run_dir, cfg.checkpoint, cfg.prepare, cfg.trust)
        if predictor.status != "finished":
            name = predictor.source.name
            log.info("%s: the run is %s; uses %s", cfg.run_dir, predictor.status, name)
    if cfg.photo and predictor.prepare == "plain":
        raise ConfigError("photo=true: needs prepare=mnist; with plain, pictures are only resized")
    return predictor


def _predictions(
    paths: Sequence[Path], predictor: Predictor, photo: bool | None
) -> Iterator[Entry]:
    """Read each picture, and classify those of a batch together."""
    import numpy as np
    from rich.console import Console
    from rich.progress import track

    from mnv2_lightning.reports.contact_sheet import MOST, Entry

    console = Console(stderr=True)
    progress = track(
        range(len(paths)), "", console=console, transient=True, disable=not console.is_terminal
    )
    read = (_read(paths[i], predictor.prepare, photo, is_shown=i < MOST) for i in progress)
    while batch := list(islice(read, BATCH)):
        greys = [grey for _, grey in batch if grey is not None]
        found: Iterator[tuple[np.ndarray, np.ndarray]] = iter(())
        if greys:
            logits, seen = predictor.classify(greys)
            shares = np.exp(logits - logits.max(1, keepdims=True))
            found = zip(shares / shares.sum(1, keepdims=True), seen, strict=True)
        for entry, grey in batch:
            if grey is None:
                yield entry
                continue
            probabilities, image = next(found)
            second, first = np.argsort(probabilities, kind="stable")[-2:]
            entry.row.update(
                {
                    "class": predictor.classes[first],
                    "probability": round(float(probabilities[first]), 6),
                    "second": predictor.classes[second],
                    "second_probability": round(float(probabilities[second]), 6),
                }
            )
            yield Entry(entry.given, image, entry.row)


def _read(
    path: Path, prepare: str, photo: bool | None, *, is_shown: bool
) -> tuple[Entry, np.ndarray | None]:
    """An entry that is not classified yet, and its grey picture; None if it was refused."""
    from mnv2_lightning.images import image_files
    from mnv2_lightning.reports.contact_sheet import Entry, thumbnail
    from mnv2_lightning.reports.prediction_tables import COLUMNS

    given = grey = None
    row: dict[str, Any] = dict.fromkeys(COLUMNS) | {"image": str(path)}
    try:
        picture = image_files.read(path)
        given = thumbnail(picture) if is_shown else None
        grey = image_files.to_grey(picture, prepare, photo)
    except PictureError as error:
        row["reason"] = str(error)
    return Entry(given, None, row), grey


def _show(text: str) -> None:
    """Print on standard output; characters that it cannot hold are escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    answers.show(text.encode(encoding, "backslashreplace").decode(encoding))


def check_job(job: Job) -> None:
    """Check what needs the disk. ConfigError."""
    from mnv2_lightning.images import image_paths

    cfg = job.cfg
    if cfg.run_dir is None and cfg.onnx is None:
        raise ConfigError("run_dir: the folder of a run is needed, or onnx=PATH in its place")
    if cfg.run_dir is not None and cfg.onnx is not None:
        raise ConfigError("onnx: takes the place of run_dir; leave one of them out")
    image_paths.find(cfg.images)
    if cfg.onnx is not None:
        for key in ("checkpoint", "prepare", "trust"):
            if cfg[key] is not None:
                raise ConfigError(f"{key}: is for run_dir=; the file of onnx= has its own")
        if not Path(cfg.onnx).is_file():
            beside = Path(cfg.onnx).parent.glob("*.onnx*")
            others = ", ".join(sorted(path.name for path in beside if path.suffix != ".json"))
            there = f"; beside it: {others}" if others else ""
            raise ConfigError(f"onnx={cfg.onnx}: there is no such file{there}")
        return
    run = folder.require_run("run_dir", cfg.run_dir)
    folder.require_checkpoint("run_dir", run, cfg.checkpoint)
    stored_config.config_to_evaluate(run, cfg.trust)
    announce_imports("torch", sys.stderr)


COMMAND = Command("predict", predict, check_job=check_job)
main = COMMAND.main

if __name__ == "__main__":
    main()
