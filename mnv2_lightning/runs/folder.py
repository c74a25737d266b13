"""The folders of runs: their names, and what is in them."""

import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from mnv2_lightning.runs.config import short_value
from mnv2_lightning.runs.record import LOCK, SWEEP, TRIAL_LOCKS
from mnv2_lightning.schema.errors import ConfigError
from mnv2_lightning.system import ranks
from mnv2_lightning.system.durable_files import make_folder

# File in the folder of a sweep or a search -> the key that names it.
MARKERS = {SWEEP: "sweep", TRIAL_LOCKS: "search.name"}
MAX_LENGTH = 120  # characters of a folder's name


@lru_cache(maxsize=1)
def run_id() -> str:
    """The run ID of this command; `run_id.cache_clear()` begins another run.

    Unique, also for two runs that start in the same second. The ranks of a run share the ID that
    SLURM or torchrun gives it, and a run that they restart gets the same ID.
    """
    return ranks.shared_id() or f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def folder_name(*names: Any) -> str:
    """The folder's name for a sweep or search: the first of `names` that is set, or the run ID."""
    name = next((name for name in names if name is not None), None)
    return run_id() if name is None else _safe_name(name)


def run_folder(resume: str | None, experiment: Any) -> str:
    """The folder of the run to resume, or else a new one."""
    return resume or f"outputs/runs/{_safe_name(experiment) or 'none'}/{run_id()}"


def report_folder(run_dir: str | None) -> str:
    """A folder in `run_dir`, or else a new one, for a report on several folders."""
    return f"{run_dir}/report" if run_dir else f"outputs/reports/{run_id()}"


def job_folder(overrides: Sequence[str], shared: Sequence[str] = ()) -> str:
    """The folder's name of a job of a sweep: `[optimizer.lr=0.1, seed=1]` -> `lr-0.1_seed-1`.

    `shared`: keys with the same value in all jobs, which are left out. A long value is named by its
    hash.
    """
    parts = []
    for key, _, value in (override.partition("=") for override in overrides):
        if key.lstrip("+~") not in shared:
            # Hydra writes 1e18 as 1e+18; without the +, it does not become 1e-18.
            text = re.sub(r"(?<=\de)\+(?=\d)", "", short_value(value))
            parts.append(f"{re.split(r'[./@+~]', key)[-1]}-{text}")
    return _safe_name("_".join(parts)) or "job"


def _safe_name(name: Any) -> str:
    """`name` without characters that need quoting; a long name is cut and ends in its hash."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", str(name)).strip("-.")
    if len(safe) <= MAX_LENGTH:
        return safe
    return f"{safe[:MAX_LENGTH]}-{hashlib.sha256(safe.encode()).hexdigest()[:8]}"


def require_run(key: str, path: str) -> Path:
    """The folder `path`, the value of `key`. ConfigError: it is not the folder of a run."""
    folder = Path(path)
    if "://" in path:
        raise ConfigError(f"{key}={path}: must be a folder on this machine")
    if not folder.is_dir():
        why = "is a file, not a run's folder" if folder.is_file() else "there is no such folder"
        raise ConfigError(f"{key}={path}: {why}")
    if not (folder / "config.yaml").is_file():
        jobs = sorted(p.parent.name for p in folder.glob("*/config.yaml"))
        why = f"it holds runs, such as {jobs[0]}" if jobs else "it has no config.yaml"
        raise ConfigError(f"{key}={path}: not a run's folder ({why})")
    check_links(folder)
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder. ConfigError: another process trains there."""
    from filelock import FileLock, Timeout

    make_folder(folder)
    lock = FileLock(folder / LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError(f"{folder}: another process is training there") from None
    try:
        yield
    finally:
        lock.release()


def check_links(folder: Path) -> None:
    """ConfigError: a link in the folder leads out of it, so that a run would write elsewhere.

    To be called before Hydra opens the log.
    """
    for link in (p for p in folder.rglob("*") if p.is_symlink()):
        # Path.resolve() fails if a link leads to itself.
        if not Path(os.path.realpath(link)).is_relative_to(folder.resolve()):
            raise ConfigError(f"{link}: leads out of the run's folder")


def resume_hint(folder: Path | None) -> str:
    """For the message after an interruption: how to resume the run, sweep or search."""
    if folder is None:
        return ""
    for marker, key in MARKERS.items():
        for place in (folder, folder.parent):
            if (place / marker).exists():
                name = f"{key}={place.name}"
                return f"; the same command resumes it (add {name} if it had no name)"
    saved = any((folder / "checkpoints").glob("*.ckpt"))
    return f"; resume it with resume={folder}" if saved else "; it has no checkpoint"


def require_checkpoint(key: str, folder: Path, name: str | None) -> Path:
    """The checkpoint called `name`, by default `best` if there is one, else `last`. ConfigError."""
    checkpoints = folder / "checkpoints"
    name = name or ("best" if (checkpoints / "best.ckpt").is_file() else "last")
    path = checkpoints / f"{name}.ckpt"
    if not path.is_file():
        there = sorted(p.stem for p in checkpoints.glob("*.ckpt")) or ["none"]
        raise ConfigError(f"{key}={folder}: has no {name} checkpoint (there: {', '.join(there)})")
    return path


def key_of(override: str) -> str:
    """`+optimizer.lr=0.1` -> `optimizer.lr`."""
    return override.partition("=")[0].lstrip("+~")
