"""The ranks of a run on this machine: torchrun's agent starts, watches and ends them."""

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from mnv2_lightning.schema.errors import RankError
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
            raise _rank_error(error.failures) from None
        finally:
            os.environ.clear()
            os.environ.update(before)


def _rank_error(failures: dict[int, ProcessFailure]) -> RankError:
    # A rank that was killed is the cause, whichever other noticed first; the agent ends the others.
    killed = [r for r, f in failures.items() if f.exitcode < 0 and -f.exitcode != signal.SIGTERM]
    times = {r: f.error_file_data.get("time", f.timestamp) for r, f in failures.items()}
    rank = killed[0] if killed else min(times, key=lambda r: times[r])
    failure = failures[rank]
    if failure.exitcode < 0:
        message = f"rank {rank} was killed by {signal.Signals(-failure.exitcode).name}"
    elif "time" in failure.error_file_data:  # `ranks.report`
        message = failure.message
    else:
        message = f"rank {rank} exited with status {failure.exitcode}"
    return RankError(message, max(failure.exitcode, 1), rank)
