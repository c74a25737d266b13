"""The ranks of a run on this machine: started, watched and ended by torchrun's agent."""

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from mnv2_lightning.runs import folder as folders
from mnv2_lightning.schema.errors import RankError
from mnv2_lightning.system import durable_files, ranks, signals

SECONDS = 4  # from a signal to the end of the last rank


def run(arguments: Sequence[str], count: int, folder: Path) -> None:
    """`python -m arguments...` by `count` processes, which train into `folder`.

    RankError: what the first of them that failed told, with its status; the record has it too.
    """
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # it is told here
    threads = max(1, (os.cpu_count() or 1) // count)
    before = dict(os.environ)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
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
            signals_to_handle="SIGHUP",  # ours raise for the others
            shutdown_timeout=SECONDS,
        )
        try:
            with signals.raised_once():
                elastic_launch(config, sys.executable)("-m", *arguments)
        except ChildFailedError as error:
            raise _told(error, folder) from None
        except BaseException as error:
            if (kind := signals.ended_by(error)) is not None:
                hint = signals.resume_hint(folder)
                raise kind(f"{kind.__name__.lower()}{hint}") from None
            raise
        finally:
            os.environ.clear()
            os.environ.update(before)


def _told(error: ChildFailedError, folder: Path) -> RankError:
    """The error of the rank that failed first, put into the record where that has none."""
    failures: dict[int, ProcessFailure] = error.failures
    # A rank that was killed is the cause, whichever other noticed first; the agent ends the others.
    killed = [r for r, f in failures.items() if f.exitcode < 0 and -f.exitcode != signal.SIGTERM]
    rank = killed[0] if killed else min(failures, key=lambda r: _time(failures[r]))
    failure = failures[rank]
    if failure.exitcode < 0:
        told = f"rank {rank} was ended by {signal.Signals(-failure.exitcode).name}"
    elif "time" in failure.error_file_data:  # `ranks.tell`
        told = failure.message
    else:
        told = f"rank {rank} ended with status {failure.exitcode}"
    status = max(failure.exitcode, 1)
    record = folders.read_record(folder)
    if rank and record.get("status") != "diverged":  # the first was ended by this, or lost a peer
        durable_files.write_json(
            folder / "result.json", record | {"status": "failed", "error": told}
        )
    return RankError(told, status)


def _time(failure: ProcessFailure) -> float:
    return failure.error_file_data.get("time", failure.timestamp)
