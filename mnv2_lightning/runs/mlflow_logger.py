"""Lightning's logger for MLflow, with the run's name, parameters and end."""

import logging
import os
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from lightning.pytorch import loggers
from lightning.pytorch.utilities import rank_zero_only

from mnv2_lightning.runs.config import flatten
from mnv2_lightning.runs.run_logger import RunLogger, run_name
from mnv2_lightning.system.durable_files import make_folder, write_text

log = logging.getLogger(__name__)

EXPERIMENT = "mnv2_lightning"
STORE = Path("outputs/mlflow.db")  # of all runs, so that MLflow's page compares them
RUN_ID = "mlflow_run_id.txt"  # in the run's folder
# Of MLflow, by that of result.json; others are FAILED.
STATUSES = {"finished": "FINISHED", "interrupted": "KILLED", "pruned": "KILLED"}


class MLFlowLogger(loggers.MLFlowLogger, RunLogger):
    """Logs to the MLflow server MLFLOW_TRACKING_URI, by default to `outputs/mlflow.db`.

    The experiment is MLFLOW_EXPERIMENT_NAME, by default `mnv2_lightning`. A resumed run continues
    its MLflow run.
    """

    def __init__(self, *, run_dir: str) -> None:
        path = Path(run_dir) / RUN_ID
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        with _store() as uri:
            found = _resume(path, uri, experiment)
            super().__init__(experiment, run_name(path.parent), uri, run_id=found)
        if found is None and self.run_id is not None:  # None: not the first rank
            write_text(path, self.run_id)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Log the config by its keys, such as `optimizer.lr`.

        MLflow does not change a parameter: a resumed run keeps the values that it began with.
        """
        logged = self.experiment.get_run(self.run_id).data.params
        new = {k: v for k, v in flatten(dict(params)).items() if k not in logged}
        super().log_hyperparams(new)

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Does nothing: a test follows a fit."""

    @rank_zero_only
    def end(self, status: str) -> None:
        self.experiment.set_terminated(self.run_id, STATUSES.get(status, "FAILED"))


@contextmanager
def _store() -> Iterator[str]:
    """The address of the server, or of STORE, locked: it cannot be created by two processes."""
    import mlflow  # which sets up its messages

    logging.getLogger(mlflow.__name__).setLevel(logging.WARNING)
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        yield uri
        return
    make_folder(STORE.parent)
    with FileLock(f"{STORE}.lock"):
        yield f"sqlite:///{STORE.absolute()}"  # MLflow keeps a database open by its address


@rank_zero_only
def _resume(path: Path, uri: str, experiment: str) -> str | None:
    """Create the experiment if needed; return the ID in `path` if its run is in the store."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(experiment)
    if not path.is_file():
        return None
    run_id = path.read_text(encoding="utf-8")
    try:
        mlflow.MlflowClient(uri).update_run(run_id, status="RUNNING")
    except mlflow.MlflowException:
        log.warning("MLflow has no run %s, which %s names: a new one begins", run_id, path)
        return None
    return run_id
