"""result.json: what a run is, how far it came, and what it reached."""

import math
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mnv2_lightning.schema.errors import Diverged, Pruned, StorageError, is_of_storage
from mnv2_lightning.system import signals
from mnv2_lightning.system.durable_files import write_json

PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "numpy")
# Everything that a record holds; what does not exist is null.
EMPTY: dict[str, Any] = dict.fromkeys(
    (
        "status",
        "error",
        "overrides",
        "test_accuracy",
        "test_loss",
        "val_accuracy",
        "tested_checkpoint",
        "epochs",
        "train_seconds",
        "images_per_second",
        "peak_rss_bytes",
        "parameters",
        "multiply_adds",
        "map_sizes",
        "precision",
        "seed",
        "config_hash",
        "versions",
        "hardware",
        "git_commit",
    )
)


class Record:
    """The record of the run in `folder`; only the process that is to write it does."""

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self.path = folder / "result.json"
        self.writes = writes
        self.data = dict(EMPTY)

    def update(self, **values: Any) -> None:
        """Set `values` and write the file, whole or not at all. StorageError."""
        self.note(**values)
        if self.writes:
            write_json(self.path, self.data)

    def note(self, **values: Any) -> None:
        """Set `values`, for the next `update` to write."""
        unknown = values.keys() - EMPTY.keys()
        assert not unknown, unknown
        self.data |= {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()
        }

    @contextmanager
    def following(self) -> Iterator[None]:
        """Status "running", and how the block ended where it did not by itself."""
        self.update(status="running", error=None)
        try:
            with signals.last_word(partial(self._end, status="interrupted")):
                yield
        except BaseException as error:
            first = _first(error)
            if (kind := signals.ended_by(first)) is not None:
                self._end(status="interrupted")
                hint = signals.resume_hint(self.path.parent) or "; no epoch was finished"
                raise kind(f"{kind.__name__.lower()}{hint}") from None
            if isinstance(first, SystemExit):
                first = RuntimeError(f"sys.exit({first.code!r}) was called")
            if isinstance(first, Diverged | Pruned):
                self._end(status=first.record_status, error=str(first))
            else:
                self._end(status="failed", error=f"{type(first).__name__}: {first}")
            if first is not error:
                raise first from first.__cause__ or error
            raise

    def _end(self, **values: Any) -> None:
        with suppress(StorageError):  # which may be what ended the run
            self.update(**values)


def _first(error: BaseException) -> BaseException:
    """What ended the run, where a disk that does not take what a logger has of it came on top."""
    while is_of_storage(error):
        root = error
        while root.__cause__ is not None:
            root = root.__cause__
        if root.__context__ is None or root.__suppress_context__:
            break
        error = root.__context__
    return error


def versions() -> dict[str, str | None]:
    """Of Python and of the packages that the outcome depends on."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def git_commit() -> str | None:
    """Of the checkout that this code runs from, "+changes" where it differs; None: no checkout."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None

    def git(*args: str) -> str:
        command = ["git", "-C", str(here), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
