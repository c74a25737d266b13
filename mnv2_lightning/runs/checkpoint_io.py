"""Writes and reads the Trainer's checkpoints."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from mnv2_lightning.runs import checkpoints
from mnv2_lightning.schema.errors import StorageError
from mnv2_lightning.system.durable_files import sync_folder, write_bytes


class DurableCheckpointIO(CheckpointIO):
    """Replaces a checkpoint only when the new one is complete on disk.

    Lightning's writer never calls fsync, and moves its file from $TMPDIR, which between file
    systems is a copy over the old checkpoint. The old `last.ckpt` is kept as `previous.ckpt`.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """StorageError: it was not written; the old checkpoint is still there."""
        path, stream = Path(path), io.BytesIO()
        torch.save(checkpoint, stream)
        previous = path.with_stem("previous") if path.stem == "last" else None
        with stream.getbuffer() as content:
            write_bytes(path, content, keep=previous)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """As `checkpoints.read`: always `weights_only`, onto the CPU."""
        return checkpoints.read(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """StorageError: it cannot be removed."""
        try:
            Path(path).unlink(missing_ok=True)
            sync_folder(Path(path).parent)
        except OSError as error:
            raise StorageError(f"{path}: cannot be removed ({error.strerror})") from error
