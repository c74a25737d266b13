"""Lightning's logger for Weights & Biases, with the run's name, group and end."""

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch import loggers
from lightning.pytorch.utilities import rank_zero_only

from mnv2_lightning.runs.folder import MARKERS
from mnv2_lightning.runs.run_logger import RunLogger, run_name
from mnv2_lightning.system.durable_files import write_text

if TYPE_CHECKING:
    import wandb

RUN_ID = "wandb_run_id.txt"  # in the run's folder


class WandbLogger(loggers.WandbLogger, RunLogger):
    """Logs to Weights & Biases; wandb's files are in `run_dir`.

    The project is WANDB_PROJECT, by default `mnv2_lightning`; wandb reads its other environment
    variables too. The jobs of a sweep or a search are a group. A resumed run continues its wandb
    run.
    """

    def __init__(self, *, run_dir: str) -> None:
        project = os.environ.get("WANDB_PROJECT") or "mnv2_lightning"
        run = _start(Path(run_dir), project)
        super().__init__(save_dir=run_dir, project=project, experiment=run)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Does nothing: a test follows a fit."""

    @rank_zero_only
    def end(self, status: str) -> None:
        import wandb

        self.experiment.finish(exit_code=int(status not in ("finished", "pruned")))
        if wandb.run is None:  # the process has no other run
            wandb.teardown()  # waits until the run is written; `finish` may return before


@rank_zero_only
def _start(run_dir: Path, project: str) -> "wandb.Run":
    """Start or continue the run. Lightning would pass an option that wandb has dropped."""
    import wandb

    path = run_dir / RUN_ID
    if not path.is_file():
        write_text(path, secrets.token_hex(4))
    is_job = any((run_dir.parent / marker).exists() for marker in MARKERS)
    run = wandb.init(
        project=project,
        dir=run_dir,
        id=path.read_text(encoding="utf-8"),
        name=run_name(run_dir),
        group=run_dir.absolute().parent.name if is_job else None,
        resume="allow",
        reinit="create_new",  # does not end another run of this process
        settings=wandb.Settings(symlink=False),
    )
    # wandb also links to its service's log in the cache; a run's folder may hold no such link.
    Path(run.settings.log_internal).with_name("debug-core.log").unlink(missing_ok=True)
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return run
