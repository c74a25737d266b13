"""Reading a run's checkpoints: undamaged ones only, and plain data only, never code."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import os
import pickle
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mnv2_lightning.runs import config
from mnv2_lightning.runs.record import read_record
from mnv2_lightning.schema.errors import ConfigError, StorageError
from mnv2_lightning.system.durable_files import remove_unfinished

if TYPE_CHECKING:
    import lightning.pytorch as L

log = logging.getLogger(__name__)

NAMES = ("last", "previous", "best")
# Keys that every checkpoint has, and their types.
REQUIRED = {"epoch": int, "global_step": int, "state_dict": dict, "hyper_parameters": dict}


def read(path: Path) -> dict[str, Any]:
    """Load a checkpoint onto the CPU, as `read_plain`. ConfigError: it is not a checkpoint."""
    checkpoint = read_plain(path)
    for key, kind in REQUIRED.items():
        if not isinstance(checkpoint.get(key), kind):
            raise ConfigError(f"{path}: not a checkpoint (it has no {key} of type {kind.__name__})")
    return checkpoint


def read_plain(path: Path, *, sha256: str | None = None) -> dict[Any, Any]:
    """Load a dict that `torch.save` has written onto the CPU; code in it is not run.

    The file is a zip archive; the CRC-32 of its members detects damage. `sha256`: its expected
    checksum. StorageError: it cannot be read or is damaged. ConfigError: it holds more than plain
    data, or has another checksum.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror})") from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ConfigError(f"{path}: not the file of the run's config (its SHA-256 is another)")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if (member := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"wrong CRC-32 of {member}")
        checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(f"{path}: not a checkpoint ({_first_line(error)})") from error
    except Exception as error:  # damage raises errors of many types
        raise StorageError(f"{path}: damaged ({_first_line(error)})") from error
    if not isinstance(checkpoint, dict):
        raise ConfigError(f"{path}: not a checkpoint (it holds a {type(checkpoint).__name__})")
    return checkpoint


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def newest(folder: Path) -> Path | None:
    """The newest checkpoint from which the run in `folder` can resume bit-exactly.

    Such a checkpoint is undamaged and was written at the end of an epoch. None: the run has not
    finished an epoch. StorageError: all its checkpoints are damaged, another run's, or missing.
    """
    damaged, found = [], []
    for name in NAMES:
        path = folder / "checkpoints" / f"{name}.ckpt"
        if not path.is_file():
            continue
        try:
            checkpoint = _read_own(folder, path)
        except StorageError:
            damaged.append(path.name)
            continue
        if _is_end_of_epoch(checkpoint):
            found.append((checkpoint["global_step"], path))
            if name == "last":
                break
    if found:
        return max(found, key=lambda x: x[0])[1]  # the first of several from the same step
    if damaged:
        names = ", ".join(damaged)
        raise StorageError(f"{folder / 'checkpoints'}: no checkpoint is whole ({names})")
    if _has_trained(folder):
        raise StorageError(f"{folder / 'checkpoints'}: the run's checkpoints are gone")
    return None


def _is_end_of_epoch(checkpoint: dict[str, Any]) -> bool:
    """Whether the checkpoint was written after the last batch of an epoch or of the fit."""
    try:
        loops = checkpoint["loops"]["fit_loop"]
        epoch = loops["epoch_progress"]["current"]
        has_ended = epoch["processed"] == epoch["ready"]  # also if the fit ended within an epoch
        return has_ended or loops["epoch_loop.batch_progress"]["is_last_batch"]
    except (KeyError, TypeError):  # not written during a fit
        return False


def _read_own(folder: Path, path: Path) -> dict[str, Any]:
    """Load a checkpoint of the run in `folder`. StorageError: damaged, or of another config."""
    checkpoint = read(path)
    if (folder / "config.yaml").is_file():
        expected = config.read(folder / "config.yaml")
        found = config.rename_targets(checkpoint["hyper_parameters"])
        for key, old, new in config.forbidden_changes(expected, found):
            raise StorageError(f"{path}: another run's ({key}={new}, not {old})")
    return checkpoint


def _has_trained(folder: Path) -> bool:
    """Whether the run has finished an epoch, after which it writes checkpoints."""
    if not (folder / "config.yaml").is_file():
        return False
    if not config.saves_checkpoints(config.read(folder / "config.yaml")):
        return False
    if (path := folder / "metrics.csv").is_file():
        with path.open(encoding="utf-8", newline="") as stream:
            if any(int(row["epoch"] or 0) > 0 for row in csv.DictReader(stream)):
                return True
    return bool(read_record(folder).get("epochs"))


def tidy(folder: Path) -> None:
    """Clean up after a crash: delete temporary files, and rename damaged checkpoints, which the
    next save would keep as `previous`.
    """
    remove_unfinished(folder)
    remove_unfinished(folder / "checkpoints")
    for path in sorted((folder / "checkpoints").glob("*.ckpt")):
        try:
            _read_own(folder, path)
        except StorageError as error:
            damaged = path.with_suffix(".damaged")
            log.warning("%s; renamed to %s", error, damaged.name)
            os.replace(path, damaged)


def load_weights(module: L.LightningModule, path: Path) -> dict[str, float]:
    """Load the weights, and return the metrics of the validation before the checkpoint, if any.

    Not by the Trainer: with EMA it would load the weights that are not averaged. ConfigError: they
    are of another network.
    """
    checkpoint = read(path)
    try:
        module.load_state_dict(checkpoint["state_dict"])
    except (RuntimeError, AttributeError) as error:  # AttributeError: a key is not a string
        raise does_not_fit(path, error) from error
    return checkpoint.get("validation", {})


def does_not_fit(path: Path, error: Exception) -> ConfigError:
    """`error`: of `load_state_dict`. Its first line is a header; the last says enough."""
    why = " ".join(str(error).splitlines()[-1].split())[:200]
    return ConfigError(f"{path}: its weights do not fit the run's network ({why})")


def to_test(trainer: L.Trainer) -> Path | None:
    """After a fit: the best checkpoint, else the last. None: there are no checkpoints."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    saved = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    for callback in sorted(saved, key=lambda c: c.monitor is None):
        if callback.best_model_path and Path(callback.best_model_path).is_file():
            return Path(callback.best_model_path)
    return None
