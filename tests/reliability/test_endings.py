"""Signals, and a process of several that ends: told once and recorded, none is left behind."""

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import record
from tests.reliability.test_kills import DDP, epochs_done, start

pytestmark = pytest.mark.slow


@pytest.mark.alone
def test_signals(tmp_path: Path) -> None:
    """Ctrl-C and SIGTERM end within 5 s, with the command to go on."""
    for number, (sent, status) in enumerate(((signal.SIGINT, 130), (signal.SIGTERM, 143))):
        run = tmp_path / str(number)
        process = start(run, "trainer.max_epochs=1000")
        while epochs_done(run) < 2:
            assert process.poll() is None
            time.sleep(0.2)
        started = time.monotonic()
        process.send_signal(sent)
        _, err = process.communicate(timeout=60)
        assert time.monotonic() - started < 5
        assert process.returncode == status
        assert f"resume it with resume={run}" in err.decode()
        assert epochs_done(run) >= 2


@pytest.mark.alone
@pytest.mark.parametrize("to_all", [True, False], ids=["to all", "to the first"])
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_to_two_processes(
    sent: signal.Signals, status: int, to_all: bool, tmp_path: Path
) -> None:
    """As a terminal sends them, and as `kill` does: one line, and none is left behind."""
    process = start(tmp_path / "a", *DDP, "trainer.max_epochs=1000", start_new_session=True)
    while epochs_done(tmp_path / "a") < 2:
        assert process.poll() is None
        time.sleep(0.2)
    started = time.monotonic()
    if to_all:
        os.killpg(process.pid, sent)
    else:
        process.send_signal(sent)
    _, err = process.communicate(timeout=60)  # ends when both have closed it
    assert time.monotonic() - started < 5
    assert process.returncode == status, err.decode()
    assert err.decode().count("\n") == 1, err.decode()
    assert f"resume it with resume={tmp_path / 'a'}" in err.decode()
    assert record(tmp_path / "a")["status"] == "interrupted"


# The second rank, which the first waits for in C.
IS_LATE = """
import os, signal, sys, time
if os.environ.get("RANK") == "1" and "mnv2_lightning.train" in sys.orig_argv:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    time.sleep(60)
"""


@pytest.mark.alone
@pytest.mark.parametrize(("seconds", "sent"), [(4, signal.SIGINT), (12, signal.SIGTERM)])
def test_signals_while_two_processes_start(
    seconds: float, sent: signal.Signals, tmp_path: Path
) -> None:
    """Where one waits in C, no handler of Python runs: it is killed after a while."""
    (tmp_path / "sitecustomize.py").write_text(IS_LATE)
    place = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    forever = (*DDP, "trainer.max_epochs=1000")
    process = start(tmp_path / "a", *forever, start_new_session=True, environment=place)
    time.sleep(seconds)
    started = time.monotonic()
    os.killpg(process.pid, sent)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 10
    assert process.returncode == (130 if sent == signal.SIGINT else 143), err.decode()
    assert err.decode().count("\n") == 1, err.decode()


# What a rank comes to in its third step; Python imports a `sitecustomize` before a command.
COMES_TO = """
import os, sys
if os.environ.get("RANK") == "1" and "mnv2_lightning.train" in sys.orig_argv:
    from mnv2_lightning.classifier import Classifier

    plain_step = Classifier.training_step

    def step(self, batch, batch_idx):
        if self.global_step == 2:
            {}
        return plain_step(self, batch, batch_idx)

    Classifier.training_step = step
"""
ENDS = {
    "diverges": (
        "return plain_step(self, batch, batch_idx) * float('nan')",
        3,
        r"diverged in epoch 1 at step 3, .*\(loss nan\).*",
    ),
    "raises": (
        "raise ValueError('broken')",
        1,
        r"rank 1: ValueError: broken \(where: .*error-1\.txt\)",
    ),
    "is killed": ("os.kill(os.getpid(), 9)", 1, "rank 1 was killed by SIGKILL"),
    "exits": ("os._exit(7)", 7, "rank 1 exited with status 7"),
}


@pytest.mark.parametrize("what", ENDS)
def test_one_of_two_processes_ends(what: str, tmp_path: Path) -> None:
    """Told once and recorded, by what came first; none is left behind."""
    does, status, told = ENDS[what]
    (tmp_path / "sitecustomize.py").write_text(COMES_TO.format(does))
    place = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    process = start(tmp_path / "a", *DDP, "trainer.log_every_n_steps=4", environment=place)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status, err.decode()
    assert re.fullmatch(f"error: {told}\n", err.decode()), err.decode()
    ended = record(tmp_path / "a")
    assert ended["status"] == ("diverged" if status == 3 else "failed")
    assert re.fullmatch(told, ended["error"]) or what == "raises"
