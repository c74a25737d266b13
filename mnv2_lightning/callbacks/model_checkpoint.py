"""ModelCheckpoint for run folders that may be moved."""

import os
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint


class Checkpoint(ModelCheckpoint):
    """ModelCheckpoint that keeps its state if the run's folder was renamed.

    Lightning's forgets the best score then. If the best checkpoint is missing, the best of the
    following epochs is saved.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:
            name = Path(os.path.normpath(f"/{path}")).name  # no `..`: it will be deleted
            return str(Path(str(self.dirpath)) / name) if path else path

        best = here(state_dict["best_model_path"])
        if self.monitor is not None and best and not Path(best).is_file():
            return
        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        super().load_state_dict(
            state_dict
            | {name: here(state_dict[name]) for name in paths}
            | {
                "dirpath": self.dirpath,
                "best_k_models": {here(p): s for p, s in state_dict["best_k_models"].items()},
            }
        )
        self.current_score = state_dict["current_score"]  # Lightning does not restore it
