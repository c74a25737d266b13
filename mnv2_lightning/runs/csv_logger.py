"""metrics.csv: a row for each logged step, a column for each metric."""

import csv
import io
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from mnv2_lightning.system.durable_files import write_text

SECONDS = 2.0  # between writes within an epoch; a write takes about 10 ms


class CSVLogger(Logger):
    """Writes metrics.csv into `run_dir`, and appends to it when a run resumes.

    Lightning's CSVLogger deletes it. `purge_step`: the step that the run resumes from; rows from
    this step on are dropped.
    """

    def __init__(self, *, run_dir: str, purge_step: int | None = None) -> None:
        super().__init__()
        self.path = Path(run_dir) / "metrics.csv"
        self.columns = ["step", "epoch"]
        self.rows: list[dict[str, Any]] = []
        self.is_written, self.written = True, time.monotonic()
        if purge_step is not None and self.path.is_file():
            with self.path.open(newline="", encoding="utf-8") as stream:
                reader = csv.DictReader(stream)
                self.rows = [row for row in reader if int(row["step"]) < purge_step]
                self.columns = list(reader.fieldnames or self.columns)

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Does nothing: config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = {"step": step or 0} | {k: f"{v:.7g}" for k, v in metrics.items() if k != "epoch"}
        if "epoch" in metrics:
            values["epoch"] = int(metrics["epoch"])
        if self.rows and int(self.rows[-1]["step"]) == values["step"]:
            self.rows[-1] |= values
        else:
            self.rows.append(values)
        self.columns += [key for key in values if key not in self.columns]
        self.is_written = False
        if time.monotonic() - self.written > SECONDS:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        """Write the file. Called after each validation, and before a checkpoint is written."""
        if not self.is_written:
            text = io.StringIO()
            writer = csv.DictWriter(text, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
            write_text(self.path, text.getvalue())
            self.is_written, self.written = True, time.monotonic()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()
