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
        state = state_dict | {"dirpath": self.dirpath}
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[name] = here(state[name])
        state["best_k_models"] = {here(p): s for p, s in state["best_k_models"].items()}
        super().load_state_dict(state)
        self.current_score = state["current_score"]  # Lightning does not restore it
