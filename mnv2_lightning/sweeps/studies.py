"""The Optuna study of a search, for any number of processes, each of which may be killed."""

import uuid
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from filelock import FileLock, Timeout
from omegaconf import DictConfig
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from mnv2_lightning.runs.config import differences
from mnv2_lightning.runs.record import TRIAL_LOCKS
from mnv2_lightning.schema.errors import ConfigError, one_line
from mnv2_lightning.system.durable_files import make_folder, write_text
from mnv2_lightning.system.hydra_compat import instantiate

ATTEMPTS = 3  # of a trial that kills its process; then it has failed


def check(cfg: DictConfig) -> None:
    """ConfigError: the pruner or sampler cannot be built, or the database's driver is missing."""
    if cfg.search.storage is not None:
        kind = cfg.search.storage.partition(":")[0]
        try:
            sqlalchemy.create_engine(cfg.search.storage)  # does not connect yet
        except ImportError as error:
            why = "its driver is not installed, such as psycopg for postgresql://"
            raise ConfigError(f"search.storage={kind}://...: {why}") from error
        except (sqlalchemy.exc.ArgumentError, ValueError) as error:
            raise ConfigError(f"search.storage={kind}: not the URL of a database") from error
    for key, build in (
        ("search.pruner", lambda: instantiate(cfg.search.pruner)),
        ("search.sampler", lambda: _sampler(cfg, 0)),
    ):
        try:
            build()
        except Exception as error:  # of any type, from a constructor
            raise ConfigError(f"{key}: {one_line(error.__cause__ or error)}") from error


def check_base(cfg: DictConfig, folder: Path, base: dict[str, Any]) -> None:
    """ConfigError: the study is there already and has another `base`, see `open_study`."""
    if cfg.search.storage is None and not (folder / "study.db").is_file():
        return
    name = _study_name(cfg, folder)
    with _database_errors(), suppress(KeyError):  # KeyError: there is no such study
        study = optuna.load_study(study_name=name, storage=_storage(cfg.search.storage, folder))
        _require_base(name, study.user_attrs.get("base", base), base)


def open_study(cfg: DictConfig, folder: Path, base: dict[str, Any]) -> optuna.Study:
    """Create or load the study. `base`: the search space, and the config that all trials share.

    ConfigError: the database cannot be used, or its study of that name has another `base`.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    make_folder(folder / TRIAL_LOCKS)
    with lock_study(folder), _database_errors():
        study = optuna.create_study(
            study_name=_study_name(cfg, folder),
            storage=_storage(cfg.search.storage, folder),
            pruner=instantiate(cfg.search.pruner),
            direction="maximize",
            load_if_exists=True,
        )
        if "base" not in study.user_attrs:
            study.set_user_attr("base", base)
        _require_base(study.study_name, study.user_attrs["base"], base)
    return study


@contextmanager
def _database_errors() -> Iterator[None]:
    """ConfigError in place of any error of a database, whose text may show the URL's password."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"search.storage: cannot be used ({type(error).__name__})") from error


def _study_name(cfg: DictConfig, folder: Path) -> str:
    return str(cfg.search.name or folder.name)


def _require_base(name: str, before: dict[str, Any], base: dict[str, Any]) -> None:
    # The space comes first, as a change of it also changes which keys are shared.
    changed = sorted(differences(before, base), key=lambda x: not x[0].startswith("search.space."))
    for key, old, new in changed:
        raise ConfigError(
            f"search.name={name}: is a search with {key}={old}, not {new}; take another name"
        )


@cache
def _storage(url: str | None, folder: Path) -> RDBStorage:
    url = url or f"sqlite:///{(folder / 'study.db').absolute()}"
    if url.startswith("sqlite"):  # another process may lock the file for a moment
        return RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})
    # A server may have closed a connection that was idle while a trial was trained.
    return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})


def lock_study(folder: Path) -> FileLock:
    """A lock on the study; processes on machines that share only the database have others."""
    return FileLock(folder / TRIAL_LOCKS / "study")


@contextmanager
def claim(
    study: optuna.Study, cfg: DictConfig, space: dict[str, BaseDistribution], folder: Path
) -> Iterator[tuple[Trial, FrozenTrial] | None]:
    """Lock the next trial: one whose process has died, or a new one. None: no trial is left.

    Yields the trial to report to, and a FrozenTrial with its parameters and reported values.
    """
    with lock_study(folder):
        found = _lock_trial(study, cfg, folder)
        if found is None and len(study.get_trials(deepcopy=False)) < cfg.search.trials:
            # With its owner, so that the trial is resumed if this process dies here.
            owner = {"owner": _owner(folder)}
            study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs=owner))
            found = _lock_trial(study, cfg, folder)
        if found is not None:
            trial, lock = found
            for name, distribution in space.items():
                _suggest(trial, name, distribution)
            trial.set_user_attr("attempts", trial.user_attrs.get("attempts", 0) + 1)
    if found is None:
        yield None
        return
    try:
        yield trial, study.trials[trial.number]
    finally:
        lock.release()


def _lock_trial(
    study: optuna.Study, cfg: DictConfig, folder: Path
) -> tuple[Trial, FileLock] | None:
    """A running trial of this folder that no process has locked, and the lock on it."""
    for known in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if known.user_attrs.get("owner") != _owner(folder):
            continue
        lock = FileLock(folder / TRIAL_LOCKS / str(known.number), blocking=False)
        try:
            lock.acquire()
        except Timeout:
            continue
        if known.user_attrs.get("attempts", 0) < ATTEMPTS:
            return _trial(study, known.number, cfg, folder), lock
        study.tell(known.number, state=TrialState.FAIL)
        lock.release()
    return None


def _trial(study: optuna.Study, number: int, cfg: DictConfig, folder: Path) -> Trial:
    """The trial to draw parameters with and to report to."""
    storage = _storage(cfg.search.storage, folder)
    loaded = optuna.load_study(  # anew: a study shows its samplers the trials of its last `ask`
        study_name=study.study_name,
        storage=storage,
        sampler=_sampler(cfg, number),
        pruner=study.pruner,
    )
    study_id = storage.get_study_id_from_name(study.study_name)
    return Trial(loaded, storage.get_trial_id_from_study_id_trial_number(study_id, number))


def _owner(folder: Path) -> str:
    """The folder's ID in a study that other folders may share; stored in the folder."""
    path = folder / TRIAL_LOCKS / "owner"
    if not path.is_file():
        write_text(path, uuid.uuid4().hex)
    return path.read_text(encoding="utf-8")


def _sampler(cfg: DictConfig, number: int) -> optuna.samplers.BaseSampler:
    """Seeded by the trial's number, so that a trial drawn again after a crash is the same."""
    return instantiate(cfg.search.sampler)(seed=(cfg.search.seed * 1_000_003 + number) % 2**32)


def _suggest(trial: Trial, name: str, distribution: BaseDistribution) -> None:
    """Draw the value of `name`; a resumed trial keeps its value."""
    match distribution:
        case CategoricalDistribution(choices=choices):
            trial.suggest_categorical(name, choices)
        case IntDistribution(low=low, high=high, step=step, log=log):
            trial.suggest_int(name, low, high, step=step, log=log)
        case FloatDistribution(low=low, high=high, step=step, log=log):
            trial.suggest_float(name, low, high, step=step, log=log)


def distributions(space: dict[str, Any], prefix: str = "") -> dict[str, BaseDistribution]:
    """`{"optimizer": {"lr": {"low": 0.1, "high": 1}}}` -> `{"optimizer.lr": ...}`."""
    found: dict[str, BaseDistribution] = {}
    for key, node in space.items():
        name = f"{prefix}{key}"
        if "choices" in node:
            found[name] = CategoricalDistribution(node["choices"])
        elif "low" in node:
            are_integers = all(isinstance(value, int) for value in node.values())  # `log` too
            found[name] = (IntDistribution if are_integers else FloatDistribution)(**node)
        else:
            found |= distributions(node, f"{name}.")
    return found


def extremes(distribution: BaseDistribution) -> list[Any]:
    """The values to check: all choices, or both ends of a range."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return [distribution.low, distribution.high]


def summary(study: optuna.Study, name: str) -> dict[str, Any]:
    """The content of search.json: counts by state, the best trial, and data for the figures.

    `steps_saved` is the share of steps that pruning saved; None if it is not known.
    """
    trials = study.trials
    states = Counter(trial.state for trial in trials)
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    best = max(done, key=lambda trial: trial.value or 0.0, default=None)
    ended = len(done) + len(pruned)
    saved = sum(1 - min(100, trial.last_step or 0) / 100 for trial in pruned)
    is_known = ended and not any("points" in trial.user_attrs for trial in pruned)
    return {
        "name": name,
        "trials": len(trials),
        "finished": states[TrialState.COMPLETE],
        "pruned": states[TrialState.PRUNED],
        "failed": states[TrialState.FAIL],
        "running": states[TrialState.RUNNING],
        "steps_saved": saved / ended if is_known else None,
        "best": best and {"number": best.number, "value": best.value, "params": best.params},
        "history": {
            "finished": [(trial.number, trial.value) for trial in done],
            "pruned": [(trial.number, trial.value) for trial in pruned if trial.value is not None],
        },
        "importances": _importances(study) if len(done) > 1 else None,
    }


def _importances(study: optuna.Study) -> dict[str, float] | None:
    """None if Optuna warns that it cannot tell them, such as of trials with equal values."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            return optuna.importance.get_param_importances(study)
        except UserWarning:
            return None
