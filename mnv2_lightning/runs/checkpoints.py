"""Reading checkpoints: whole ones only, and plain data only, never code."""

import csv
import io
import logging
import os
import zipfile
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from mnv2_lightning.runs import checksums, config
from mnv2_lightning.runs.config import MAY_CHANGE, outcome
from mnv2_lightning.runs.folder import read_record
from mnv2_lightning.schema.errors import ConfigError, StorageError
from mnv2_lightning.system.durable_files import remove_unfinished

log = logging.getLogger(__name__)

NAMES = ("last", "previous", "best")


# What a checkpoint holds at least, of Lightning's keys.
HOLDS = {"epoch": int, "global_step": int, "state_dict": dict}


def read(path: Path) -> dict[str, Any]:
    """The checkpoint's content, on the CPU.

    StorageError: it cannot be read, is damaged or another run's. ConfigError: it holds more than
    data, or not what a checkpoint does.
    """
    whole = _whole(path)
    try:
        content = torch.load(io.BytesIO(whole), map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigError(f"{path}: not a checkpoint ({_why(error)})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: not a checkpoint (it holds a {type(content).__name__})")
    for key, kind in HOLDS.items():
        if not isinstance(content.get(key), kind):
            raise ConfigError(f"{path}: not a checkpoint (it has no {key} of type {kind.__name__})")
    return content


def _whole(path: Path) -> bytes:
    """The bytes that the run wrote. StorageError: these are others."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror})") from error
    if (written := checksums.known(path.parent)) is not None:
        if checksums.sha256(content) not in {x["sha256"] for x in written}:
            raise StorageError(f"{path}: damaged, or of another run: its SHA-256 is not known")
        return content
    try:  # by the sums that are in it
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            bad = archive.testzip()
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, as the damage
        raise StorageError(f"{path}: damaged ({_why(error)})") from error
    if bad is not None:
        raise StorageError(f"{path}: damaged ({bad})")
    return content


def _why(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def newest(folder: Path) -> Path | None:
    """The newest checkpoint that the run in `folder` can resume from exactly: an undamaged one,
    written at the end of an epoch. None: there is none yet.

    StorageError: those that it wrote are damaged, another run's, or gone.
    """
    damaged, whole = [], []
    for name in NAMES:
        path = folder / "checkpoints" / f"{name}.ckpt"
        if path.is_file():
            try:
                content = _require_of_run(folder, path)
            except StorageError:
                damaged.append(path.name)
                continue
            if _is_end_of_epoch(content):
                whole.append((content["global_step"], path))
                if name == "last":
                    break
    if whole:
        return max(whole, key=lambda x: x[0])[1]  # the first of equals
    if damaged:
        names = ", ".join(damaged)
        raise StorageError(f"{folder / 'checkpoints'}: no checkpoint is whole ({names})")
    if _has_trained(folder):
        raise StorageError(f"{folder / 'checkpoints'}: the run's checkpoints are gone")
    return None


def _is_end_of_epoch(content: dict[str, Any]) -> bool:
    """Whether the checkpoint was written after the last batch of an epoch or of the fit."""
    try:
        loops = content["loops"]["fit_loop"]
        epoch = loops["epoch_progress"]["current"]
        is_over = epoch["processed"] == epoch["ready"]  # after a fit that ended within an epoch too
        return is_over or loops["epoch_loop.batch_progress"]["is_last_batch"]
    except (KeyError, TypeError):  # not written by a fit
        return False


def _require_of_run(folder: Path, path: Path) -> dict[str, Any]:
    """What is in it. StorageError: it is damaged, or was written by a run of another config."""
    content = read(path)
    if (folder / "config.yaml").is_file():
        mine = outcome(config.read(folder / "config.yaml"))
        its = outcome(config.moved(content.get("hyper_parameters", {})))
        for key in mine.keys() & its.keys():
            if mine[key] != its[key] and key not in MAY_CHANGE:
                raise StorageError(f"{path}: another run's ({key}={its[key]}, not {mine[key]})")
    return content


def _has_trained(folder: Path) -> bool:
    """Whether the run in `folder` came past its first epoch, after which it writes checkpoints."""
    if not (folder / "config.yaml").is_file():
        return False
    if not config.read(folder / "config.yaml")["trainer"]["enable_checkpointing"]:
        return False
    if (path := folder / "metrics.csv").is_file():
        with path.open(encoding="utf-8", newline="") as stream:
            if any(int(row["epoch"] or 0) > 0 for row in csv.DictReader(stream)):
                return True
    return bool(read_record(folder).get("epochs"))


def tidy(folder: Path) -> None:
    """Remove what a crash left half-written or unwritten, and rename checkpoints that are damaged,
    lest the next save keeps one as `previous`.
    """
    remove_unfinished(folder)
    remove_unfinished(folder / "checkpoints")
    whole, checkpoints = {}, folder / "checkpoints"
    is_lost = checksums.known(checkpoints) is None
    for path in sorted(checkpoints.glob("*.ckpt")):
        try:
            _require_of_run(folder, path)
            whole[path.name] = checksums.sha256(path.read_bytes())
        except StorageError as error:
            damaged = path.with_suffix(".damaged")
            log.warning("%s; it is now %s", error, damaged.name)
            os.replace(path, damaged)
    if is_lost and whole:
        log.warning("%s: cannot be read; made anew", checkpoints / checksums.NAME)
    if whole or not is_lost:
        checksums.settle(checkpoints, whole)


def global_step(path: Path) -> int:
    """The optimizer steps that were made before it was written."""
    return read(path)["global_step"]


def epochs(path: Path) -> int:
    """The whole epochs that were trained before it was written."""
    return read(path)["epoch"] + 1


def load_weights(module: L.LightningModule, path: Path) -> dict[str, float]:
    """Returns what the validation before it measured; none without validation.

    Not by the Trainer: under EMA it would put the weights before averaging in their place.
    ConfigError: they are another network's.
    """
    content = read(path)
    try:
        module.load_state_dict(content["state_dict"])
    except (RuntimeError, AttributeError) as error:  # the latter where a name is no text
        # Of torch's lines the first says only that there are more; each is long.
        why = " ".join(str(error).splitlines()[-1].split())[:200]
        raise ConfigError(f"{path}: its weights do not fit the run's network ({why})") from error
    return content.get("validation", {})


def to_test(trainer: L.Trainer) -> Path | None:
    """After a fit: the best checkpoint, or the last where there is no best.

    None where none was written: the weights are tested as they are.
    """
    saved = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    for callback in sorted(saved, key=lambda c: c.monitor is None):
        if callback.best_model_path and Path(callback.best_model_path).is_file():
            return Path(callback.best_model_path)
    return None
