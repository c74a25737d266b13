"""The ranks of a run on this machine: torchrun's agent starts, watches and ends them."""

import logging
import math
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from mnv2_lightning.schema.errors import RankError, Terminated
from mnv2_lightning.system import ranks


def run(arguments: Sequence[str], count: int) -> None:
    """`python -m arguments...` in `count` processes. RankError: the first of them that failed.

    Lightning's own launcher reports a dead rank as another rank's lost connection, twice.
    """
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # RankError has the message
    before = dict(os.environ)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    os.environ[ranks.LAUNCHED] = str(os.getpid())
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            monitor_interval=0.1,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
            signals_to_handle="SIGHUP",  # SIGINT and SIGTERM are handled by system/signals.py
            shutdown_timeout=4,  # seconds from a signal to SIGKILL
        )
        try:
            elastic_launch(config, sys.executable)("-m", *arguments)
        except ChildFailedError as error:
            raise rank_error(error.failures) from None
        finally:
            os.environ.clear()
            os.environ.update(before)


def rank_error(failures: dict[int, ProcessFailure]) -> RankError:
    """The error of the rank that failed first, of `failures` by rank."""
    rank = min(failures, key=lambda rank: _time(failures[rank]))
    failure = failures[rank]
    if failure.exitcode < 0:
        message = f"rank {rank} was killed by {signal.Signals(-failure.exitcode).name}"
    elif "timestamp" in failure.error_file_data:  # `ranks.report`
        message = failure.message
    else:
        message = f"rank {rank} exited with status {failure.exitcode}"
    return RankError(message, max(failure.exitcode, 1), rank)


def _time(failure: ProcessFailure) -> float:
    """When the rank failed, to order failures by cause."""
    if failure.exitcode in (-signal.SIGTERM, Terminated.exit_status):
        return math.inf  # the agent ended it, after another had failed
    # A rank that died reported no time, and others may have reported the lost connection before
    # the agent saw it. The agent's own SIGKILL comes seconds later.
    time: float = failure.error_file_data.get("timestamp", failure.timestamp - 1)
    return time
