"""result.json: the status, results and provenance of a run."""

import json
import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mnv2_lightning.schema.errors import Diverged, Interrupted, Pruned, StorageError, is_of_storage
from mnv2_lightning.system import signals
from mnv2_lightning.system.durable_files import write_json

RECORD = "result.json"
SWEEP, SEARCH = "sweep.json", "search.json"  # in the folder of a sweep or a search
TRIAL_LOCKS = ".locks"  # a folder, in that of a search
LOCK = ".lock"  # locked by the process that trains in the folder
LAST_RANK_SECONDS = 5.0  # to wait for the other ranks of a run whose process was killed
# The keys of every record; a missing value is null.
EMPTY: dict[str, Any] = dict.fromkeys(
    (
        *("status", "error", "overrides", "command"),
        *("test_accuracy", "test_loss", "val_accuracy", "tested_checkpoint"),
        *("epochs", "train_seconds", "images_per_second", "peak_rss_bytes"),
        *("parameters", "multiply_adds", "map_sizes", "precision"),
        *("seed", "config_hash", "weights_sha256", "versions", "hardware", "git_commit"),
    )
)


class Record:
    """The record of the run in `folder`.

    `writes`: whether this process writes the file; only one rank does.
    """

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self.path = folder / RECORD
        self.writes = writes
        self.data = dict(EMPTY)

    def update(self, **values: Any) -> None:
        """Set `values` and replace the file. StorageError."""
        self.note(**values)
        if self.writes:
            write_json(self.path, self.data)

    def note(self, **values: Any) -> None:
        """Set `values` without writing; NaN and infinity become null."""
        unknown = values.keys() - EMPTY.keys()
        assert not unknown, unknown
        self.data |= {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()
        }

    @contextmanager
    def tracking(self) -> Iterator[None]:
        """Record the status "running", and the error if the block raises one.

        A SystemExit that no signal has raised becomes a RuntimeError.
        """
        self.update(status="running", error=None)
        try:
            yield
        except BaseException as error:
            first = _root_error(error)
            if (interruption := signals.interruption(first)) is not None:
                self._end(status="interrupted")
                # Of Ctrl-C Lightning makes SystemExit, which would end a caller's Python too.
                raise (KeyboardInterrupt() if interruption is Interrupted else first) from None
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
        with suppress(StorageError):  # a full disk may have ended the run
            self.update(**values)


def read_record(folder: Path) -> dict[str, Any]:
    """The record of the run in `folder`; empty if it is missing or cannot be read."""
    return read_dict(folder / RECORD)


def read_dict(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if it is missing or cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        return {}
    return found if isinstance(found, dict) else {}


def record_death(folder: Path, status: int) -> str | None:
    """Record that the process of a run died without recording an error, and return the reason.

    `status`: its exit status, or minus the signal that killed it. None: it recorded its end.
    """
    from filelock import FileLock, Timeout

    record = read_record(folder)
    if status == 0 or (status > 0 and record.get("status") != "running"):
        return None
    if status < 0:
        error = f"killed by {(name := signal.Signals(-status).name)}"
        if name == "SIGKILL":  # Windows has none
            error += ", as the system does where memory runs out"
    else:
        error = f"its process exited with status {status}"
    with suppress(OSError, Timeout), FileLock(folder / LOCK, timeout=LAST_RANK_SECONDS):
        pass
    with suppress(StorageError):
        record = EMPTY | read_record(folder) | {"status": "failed", "error": error}
        write_json(folder / RECORD, record)
    return error


def _root_error(error: BaseException) -> BaseException:
    """The error that ended the run, where a logger failed on a full disk while it was closed."""
    while is_of_storage(error):
        root = error
        while root.__cause__ is not None:
            root = root.__cause__
        if root.__context__ is None or root.__suppress_context__:
            break
        error = root.__context__
    return error
