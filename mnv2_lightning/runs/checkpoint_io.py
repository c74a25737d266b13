"""How the Trainer writes and reads checkpoints."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.types import _PATH

from mnv2_lightning.runs import checkpoints, checksums
from mnv2_lightning.schema.errors import StorageError
from mnv2_lightning.system.durable_files import sync_folder, write_bytes


class DurableCheckpointIO(CheckpointIO):
    """A checkpoint is on the disk, whole, before the one that it replaces is gone.

    Lightning's writer never calls fsync, and moves its file from $TMPDIR: across file systems that
    is a copy over the live file. The `last` before the last is kept as `previous`.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any = None
    ) -> None:
        """StorageError: the checkpoint before it is still there."""
        path, stream = Path(path), io.BytesIO()
        torch.save(checkpoint, stream)
        content = stream.getbuffer()
        about = {key: checkpoint[key] for key in ("epoch", "global_step") if key in checkpoint}
        checksums.add(path, content, **about)
        previous = path.with_stem("previous") if path.stem == "last" else None
        write_bytes(path, content, keep=previous)

    def load_checkpoint(
        self, path: _PATH, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Always plain data. StorageError: damaged."""
        return checkpoints.read(Path(path))

    def remove_checkpoint(self, path: _PATH) -> None:
        """StorageError."""
        try:
            Path(path).unlink(missing_ok=True)
            sync_folder(Path(path).parent)
        except OSError as error:
            raise StorageError(f"{path}: cannot be removed ({error.strerror})") from error
