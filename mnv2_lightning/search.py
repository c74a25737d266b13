"""Search for the best hyper-parameters: `python -m mnv2_lightning.search key=value ...`."""

from __future__ import annotations

import gc
import logging
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2_lightning import train
from mnv2_lightning.cli.command import Command, Job, announce_imports
from mnv2_lightning.cli.conf_files import config_dir
from mnv2_lightning.cli.report_error import report_error
from mnv2_lightning.runs import pretrained
from mnv2_lightning.runs.config import plain, reproducibility_config, to_yaml
from mnv2_lightning.runs.folder import key_of
from mnv2_lightning.runs.record import SEARCH
from mnv2_lightning.schema.errors import ConfigError, DataError, Pruned, SearchError, StorageError

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from optuna.trial import FrozenTrial, Trial

log = logging.getLogger(__name__)

# Trials do not use the test set: the run of the best one does, at its end.
FIXED = ("trainer.limit_test_batches=0",)
WITHOUT_ACCURACY = {  # values with which a trial has no validation accuracy to choose by
    "data.val_size": 0,
    "trainer.limit_val_batches": 0,
    "trainer.enable_checkpointing": False,
    "callbacks": {},
}
_CHECKED: set[tuple[str, ...]] = set()  # trials whose configs were checked in this process


def search(cfg: DictConfig) -> dict[str, Any]:
    """Train trials, each in its own folder in `cfg.run_dir`, until the study has `search.trials`.

    Returns the content of search.json. ConfigError, DataError, SearchError, StorageError.
    """
    from mnv2_lightning.cli import composing, from_python

    is_called = not COMMAND.is_checked
    cfg = from_python.checked(COMMAND, cfg)
    with composing.initialized() if is_called else nullcontext():  # composes the trials' configs
        return _search(cfg)


def _search(cfg: DictConfig) -> dict[str, Any]:
    from mnv2_lightning.reports import tables, write
    from mnv2_lightning.sweeps import studies
    from mnv2_lightning.system import durable_files

    folder = Path(cfg.run_dir)
    space = studies.distributions(plain(cfg)["search"]["space"])
    study = studies.open_study(cfg, folder, _base(cfg, list(space)))
    while True:
        with studies.claim(study, cfg, space, folder) as claim:
            if claim is None:
                break
            _run(study, *claim, _folder(folder, claim[1].number), cfg)
            log.info("%s", tables.trial(study.trials[claim[1].number], study.trials))
    with studies.lock_study(folder):
        result = studies.summary(study, folder.name)
        durable_files.write_json(folder / SEARCH, result)
        write.report([folder], folder / "report")
        if result["best"] is not None:
            durable_files.make_folder(folder / "experiment")
            path = folder / "experiment" / f"{folder.name}.yaml"
            durable_files.write_text(path, experiment(cfg, result))
    log.info("%s", tables.search(result, folder))
    if result["best"] is None and not result["running"]:
        raise SearchError(f"{folder}: no trial has finished; those that failed have an error.txt")
    return result


def _run(study: Any, trial: Trial, known: FrozenTrial, folder: Path, cfg: DictConfig) -> None:
    """Train a trial and report its result to the study.

    An error of the trial fails the trial only. KeyboardInterrupt ends the search; so does
    SystemExit, for errors of the disk or the data, which would end every other trial too.
    """
    from optuna.trial import TrialState

    from mnv2_lightning.callbacks.pruning import Pruning

    state, value, interruption = TrialState.FAIL, None, None
    pruning = Pruning(trial, dict(known.intermediate_values))
    with report_error(cfg.traceback, folder) as outcome:
        try:
            job = _job(cfg, folder, known.params)
            train.take_a_gpu(job.cfg)
            value = train.fit_and_test(job.cfg, [pruning])["val_accuracy"]
            if value is None:
                raise ConfigError("the run ended without a validation accuracy to choose by")
            state = TrialState.COMPLETE
        except Pruned:
            state = TrialState.PRUNED
        except (KeyboardInterrupt, SystemExit) as error:
            interruption = error
    if interruption is not None or outcome.status == DataError.exit_status:
        trial.set_user_attr("attempts", trial.user_attrs["attempts"] - 1)
    if interruption is not None:
        raise interruption
    if outcome.status in (StorageError.exit_status, DataError.exit_status):
        sys.exit(outcome.status)
    if outcome.message is not None:
        trial.set_user_attr("error", outcome.message)
    study.tell(trial, value, state)
    gc.collect()  # Lightning's objects are cycles, and hold the trial's tensors


def _folder(folder: Path, number: int) -> Path:
    return folder / f"{number:04d}"


def _job(cfg: DictConfig, folder: Path, params: dict[str, Any]) -> Job:
    """The run of a trial, with its parameters as overrides. ConfigError."""
    from mnv2_lightning.cli import checks

    return checks.job(train.COMMAND, [*cfg.overrides, *FIXED, *_overrides(params)], folder)


def _overrides(params: dict[str, Any]) -> list[str]:
    from mnv2_lightning.cli import composing

    return [f"{key}={composing.as_override(value)}" for key, value in params.items()]


def _base(cfg: DictConfig, searched: list[str]) -> dict[str, Any]:
    """The search space and the config that all trials share, which identify a study."""
    config = plain(cfg)
    space = config.pop("search")["space"]
    shared = {
        key: value
        for key, value in reproducibility_config(config).items()
        if not any(f"{key}.".startswith(f"{name}.") for name in searched)
    }
    return shared | reproducibility_config({"search": {"space": space}})


def experiment(cfg: DictConfig, result: dict[str, Any]) -> str:
    """The best trial as a file for `conf/experiment/`: the overrides that it was started with."""
    from omegaconf import OmegaConf

    from mnv2_lightning.cli import composing

    name, best = result["name"], result["best"]
    based_on: Any = "default"
    groups: list[dict[str, Any]] = []
    values = OmegaConf.create({})
    for override in composing.parse([*cfg.overrides, *_overrides(best["params"])]):
        key, value = override.key_or_group, None if override.is_delete() else override.value()
        if key.startswith("hydra."):  # the searchpath
            continue
        if key == "experiment":
            based_on = value
        elif composing.is_group(key):
            groups.append({f"override /{key}": value})
        else:
            OmegaConf.update(values, key, value)
    return (
        "# @package _global_\n"
        f"# The best of {result['trials']} trials of the search {name}.\n"
        f"# Expected: {best['value']:.2%} of the validation images; as the best of several,\n"
        "# probably a little less of others.\n"
        f"# Command: python -m mnv2_lightning.train --config-dir {cfg.run_dir} experiment={name}\n"
        + to_yaml({"defaults": [based_on, *groups]})
        + to_yaml(OmegaConf.to_container(values))  # type: ignore[arg-type]
    )


def _unused_folder(cfg: DictConfig) -> Path:
    """A folder without a run, for configs that are composed but not run."""
    return Path(cfg.run_dir) / "none"


def final_config(cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """Record the overrides of each trial: all but those of the search itself. ConfigError."""
    cfg.overrides = [o for o in overrides if not _is_of_search(o)]
    pretrained.identify(cfg)
    return cfg


def _is_of_search(override: str) -> bool:
    key = key_of(override)
    return key.startswith(("search.", "search/", "hydra.")) or key == "search"


def check_job(job: Job) -> None:
    """Check a trial with each choice and with both ends of each range. ConfigError."""
    from omegaconf import OmegaConf

    from mnv2_lightning.schema.targets import check_targets

    cfg = job.cfg
    overridden = {key_of(override): override for override in cfg.overrides}
    for key in ("resume", "study", "sweep", "trust"):
        if key in overridden:
            raise ConfigError(
                f"{overridden[key]}: is an option of train; search.name=NAME resumes a search"
            )
    if cfg.fail_fast:
        raise ConfigError("fail_fast=true: is for sweeps of train; a search goes on")
    for key, off in WITHOUT_ACCURACY.items():
        if OmegaConf.select(cfg, key) == off:
            why = "a search chooses by held-out images, such as of data.val_size=10000"
            raise ConfigError(f"{key}={off}: {why}")
    name = Path(cfg.run_dir).name
    if (config_dir() / "experiment" / f"{name}.yaml").exists():
        raise ConfigError(f"search.name={name}: is an experiment of conf/; take another name")
    if cfg.search.storage is not None and cfg.search.name is None:
        raise ConfigError("search.name: a study in search.storage needs a name")
    from mnv2_lightning.sweeps import studies

    options = plain(cfg)["search"]
    check_targets({"search": options})  # those of the trials below, with torch
    space = studies.distributions(options["space"])
    studies.check(cfg)
    studies.check_base(cfg, Path(cfg.run_dir), _base(cfg, list(space)))
    announce_imports()

    from mnv2_lightning import build

    for key in space:
        if key in overridden:
            raise ConfigError(f"{key}: is set by an override, and searched in search.space")
    ends = {key: studies.extremes(distribution) for key, distribution in space.items()}
    firsts = {key: values[0] for key, values in ends.items()}
    for chosen in (firsts | {key: value} for key, values in ends.items() for value in values):
        known_by = (*cfg.overrides, *map(str, chosen.items()))
        if known_by in _CHECKED:
            continue
        trial = _job(cfg, _unused_folder(cfg), chosen)
        if build.build_trainer(trial.cfg, [], []).world_size > 1:
            raise ConfigError(f"trainer.devices={cfg.trainer.devices}: a trial is one process")
        _CHECKED.add(known_by)


COMMAND = Command("search", search, check_job=check_job, final_config=final_config)
main = COMMAND.main

if __name__ == "__main__":
    main()
