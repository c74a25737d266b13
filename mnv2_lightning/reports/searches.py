"""What came of a search: a summary, and its figures."""

import warnings
from collections import Counter
from typing import Any

import optuna
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState

from mnv2_lightning.reports import sweep_figures


def summary(study: optuna.Study, name: str) -> dict[str, Any]:
    """How many trials there are and how they ended, the best, the share of steps that pruning
    saved.
    """
    trials = study.trials
    states = Counter(trial.state for trial in trials)
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    best = max(done, key=lambda trial: trial.value or 0.0, default=None)
    ended = len(done) + len(pruned)
    return {
        "name": name,
        "trials": len(trials),
        "finished": states[TrialState.COMPLETE],
        "pruned": states[TrialState.PRUNED],
        "failed": states[TrialState.FAIL],
        "running": states[TrialState.RUNNING],
        "steps_saved": sum(1 - _point(trial) / 100 for trial in pruned) / ended if ended else None,
        "best": best and {"number": best.number, "value": best.value, "params": best.params},
        "importances": _importances(study) if len(done) > 1 else None,
    }


def _point(trial: FrozenTrial) -> int:
    """Per cent of its steps."""
    return min(100, trial.last_step or 0)


def _importances(study: optuna.Study) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.importance.get_param_importances(study)


def figures(study: optuna.Study) -> dict[str, Figure]:
    """The trials in their order; of two finished ones or more, what their accuracy depends on."""
    ended = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
    trials = {
        name: [
            (t.number, t.value) for t in study.trials if t.state == state and t.value is not None
        ]
        for name, state in ended.items()
    }
    drawn = {}
    if trials["finished"]:
        drawn["history"] = sweep_figures.draw_history(
            trials, x_name="trial", y_name="validation accuracy"
        )
    if len(trials["finished"]) > 1:
        drawn["importances"] = sweep_figures.draw_importances(_importances(study))
    return drawn
