"""The folder of a run: its name, the checks when it is read, and resuming the run in it."""

import hashlib
import logging
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from mnv2_lightning.data.sets import DATA_DIR
from mnv2_lightning.runs import config
from mnv2_lightning.runs.config import COMMAND_KEYS, MAY_CHANGE, plain, short_value
from mnv2_lightning.runs.record import EMPTY, LOCK, RECORD, SWEEP, TRIAL_LOCKS, read_record
from mnv2_lightning.schema.check import check, targeted_nodes
from mnv2_lightning.schema.errors import ConfigError
from mnv2_lightning.schema.nearest import did_you_mean, dotted_keys
from mnv2_lightning.schema.targets import require_trusted
from mnv2_lightning.system import ranks
from mnv2_lightning.system.durable_files import make_folder

log = logging.getLogger(__name__)

_MISSING: Any = object()
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


def folder_name(name: Any = None) -> str:
    """The folder's name for a sweep or search called `name`; the run ID by default."""
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
        raise ConfigError(f"{key}={path}: there is no such folder")
    if not (folder / "config.yaml").is_file():
        jobs = sorted(p.parent.name for p in folder.glob("*/config.yaml"))
        why = f"it holds runs, such as {jobs[0]}" if jobs else "it has no config.yaml"
        raise ConfigError(f"{key}={path}: not a run's folder ({why})")
    check_links(folder)
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder. ConfigError: another process trains there."""
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


def is_finished(folder: Path, max_epochs: int | None) -> bool:
    """Whether the run has finished, with the same `max_epochs`."""
    status = read_record(folder).get("status")
    return status == "finished" and read_config(folder).trainer.max_epochs == max_epochs


def read_config(folder: Path) -> DictConfig:
    """The config of the run in `folder`. ConfigError."""
    return OmegaConf.create(config.read(folder / "config.yaml"))


def config_to_evaluate(folder: Path, trust: Any) -> DictConfig:
    """The config of the run in `folder`, without what an evaluation does not use.

    ConfigError: it is wrong, or names a class that is neither ours nor of a package in `trust`.
    """
    cfg = _read_checked(folder)
    cfg.callbacks, cfg.logger, cfg.trainer.profiler = {}, {}, None
    require_trusted(plain(cfg), trust, folder / "config.yaml")
    return cfg


def _read_checked(folder: Path) -> DictConfig:
    """The config of the run in `folder`, checked like one from the command line. ConfigError.

    Its `data.dir` is used only if the files are there: nothing is downloaded into it.
    """
    from mnv2_lightning.data import idx_files  # late: imports NumPy

    cfg = read_config(folder)
    try:
        check("train", plain(cfg))
    except ConfigError as error:
        raise ConfigError(f"{folder / 'config.yaml'}: {error}") from None
    named = cfg.data.dir
    if named not in (None, os.environ.get(DATA_DIR)) and not idx_files.has(cfg.data.dataset, named):
        log.info("data.dir=%s, as in the run's config, lacks the files: not used", named)
        cfg.data.dir = None
    return cfg


def resumed_config(composed: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The config of the run `composed.resume` with `overrides` applied.

    ConfigError: there is no such run, an override changes what its result depends on, or the run's
    config names a class that is neither ours, nor trusted, nor in `overrides`.
    """
    folder = require_run("resume", composed.resume)
    cfg = _read_checked(folder)
    before, changed = plain(cfg), set()
    named: list[tuple[str, Any]] = []  # path and class of the nodes in `overrides`
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if key in COMMAND_KEYS or key.startswith("hydra."):
            continue
        old, value = OmegaConf.select(cfg, key, default=_MISSING), override.value()
        changed.add(key)
        if key == "experiment":
            raise ConfigError("experiment: cannot change when a run is resumed")
        if old is _MISSING:
            raise ConfigError(f"{key}: unknown key{did_you_mean(key, dotted_keys(plain(cfg)))}")
        if key == "logger":
            cfg.logger = composed.logger
            value = plain(cfg)["logger"]
        elif isinstance(old, DictConfig) and not (value is None or isinstance(value, dict)):
            raise ConfigError(f"{key}={value}: a group cannot change when a run is resumed")
        else:  # a class takes the place of the run's, with all its keys
            is_class = isinstance(value, dict) and "_target_" in value
            OmegaConf.update(cfg, key, value, merge=not is_class)
        if key.endswith("._target_"):
            named.append((key.removesuffix("._target_"), value))
        named += [(path, node["_target_"]) for path, node in targeted_nodes(value, key)]
    kept = [o for o in cfg.overrides if key_of(o) not in changed]
    cfg.overrides = kept + [o for o in overrides if key_of(o) in changed and "${" not in o]
    require_trusted(plain(cfg), composed.get("trust"), folder / "config.yaml", named)
    registry = cfg.trainer.model_registry  # to which checkpoints are sent
    if registry and "trainer.model_registry" not in changed:
        raise ConfigError(
            f"trainer.model_registry={registry}: is not taken from a run's config; set it again, "
            "or trainer.model_registry=null"
        )
    for key, old, new in config.forbidden_changes(before, plain(cfg)):
        raise ConfigError(
            f"{key}={new}: cannot change when a run is resumed (it is {old}); what can: "
            f"{', '.join(MAY_CHANGE)}, logger, progress bar, paths"
        )
    cfg.resume = str(folder)
    return cfg


def key_of(override: str) -> str:
    """`+optimizer.lr=0.1` -> `optimizer.lr`."""
    return override.partition("=")[0].lstrip("+~")


def holds_this_run(folder: Path, cfg: DictConfig, *, is_swept: bool = False) -> bool:
    """Whether the folder holds a run of this config, which the same command resumes.

    ConfigError: it holds another run, or a link that leads out of it.
    """
    if ranks.rank():  # the first, which has looked at it, may be writing into the folder
        return any((folder / "checkpoints").glob("*.ckpt"))
    check_links(folder)
    if not (folder / "config.yaml").is_file():
        is_begun = read_record(folder).keys() == EMPTY.keys()  # killed before it wrote its config
        if (folder / RECORD).exists() and not is_begun:
            raise ConfigError(f"{folder}: holds a result.json of something else")
        return False
    for key, old, _ in config.forbidden_changes(plain(read_config(folder)), plain(cfg)):
        other = f"take another folder, or resume that run with resume={folder}"
        raise ConfigError(
            f"{folder}: holds a run with {key}={old} already; "
            + ("take another name for the sweep" if is_swept else other)
        )
    return True
