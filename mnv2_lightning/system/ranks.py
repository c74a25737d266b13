"""Which of the processes of a run this is, as torchrun or SLURM started it. Without torch."""

import json
import os
import re
import time
from contextlib import suppress
from pathlib import Path

# Set by `torchrun.py`: the process ID of the command that waits for this rank.
LAUNCHED = "MNV2_RANK_OF_OURS"


def rank() -> int:
    by_slurm = os.environ.get("SLURM_PROCID", "0") if os.environ.get("SLURM_STEP_ID") else "0"
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", by_slurm)))


def are_several() -> bool:
    """Whether torchrun or SLURM has started several processes."""
    sizes = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
    return any(int(os.environ.get(name) or 1) > 1 for name in sizes)


def shared_id() -> str | None:
    """Run ID shared by all ranks, or None."""
    if not are_several():
        return None
    by_torchrun = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    if by_torchrun != "none":
        return re.sub(r"[^\w.-]+", "-", by_torchrun)
    job, step = (os.environ.get(f"SLURM_{name}") for name in ("JOB_ID", "STEP_ID"))
    return f"slurm-{job}-{step}" if job and step else None


def is_launched() -> bool:
    return LAUNCHED in os.environ


def report(message: str) -> bool:
    """Write the message for the command that waits for this rank. False: there is none."""
    if not is_launched():
        return False
    with suppress(OSError, KeyError):
        content = {"message": message, "timestamp": time.time()}
        path = Path(os.environ["TORCHELASTIC_ERROR_FILE"])
        path.write_text(json.dumps(content), encoding="utf-8")
    return True
