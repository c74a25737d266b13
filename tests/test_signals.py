"""Ctrl-C and SIGTERM: from a command's first moment, and where what they raise gets lost."""

import importlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import COMMANDS, Call

ROOT = Path(__file__).resolve().parents[1]
STATUSES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def start(*command: str) -> subprocess.Popen[str]:
    """Python with `command`, once it catches SIGTERM, which it does not by itself."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux's /proc")
    # What a shell starts in the background ignores Ctrl-C, and so would the child.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, *command],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    status = Path(f"/proc/{process.pid}/status")
    caught = 0
    while not caught >> (signal.SIGTERM - 1) & 1:
        assert process.poll() is None
        time.sleep(0.005)
        found = re.search(r"SigCgt:\t(\w+)", status.read_text())
        caught = int(found[1], 16) if found else 0
    return process


def ends(process: subprocess.Popen[str], sent: signal.Signals) -> None:
    process.send_signal(sent)
    _, err = process.communicate(timeout=30)
    word = "interrupted" if sent == signal.SIGINT else "terminated"
    assert process.returncode == STATUSES[sent], err
    assert err.startswith(f"error: {word}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("verb", COMMANDS)
@pytest.mark.parametrize("sent", STATUSES)
def test_first_moment(verb: str, sent: signal.Signals, tmp_path: Path) -> None:
    """While the verb is imported."""
    ends(start("-m", f"mnv2_lightning.{verb}", f"hydra.run.dir={tmp_path / 'a'}"), sent)
    ends(start("-c", f"from mnv2_lightning.{verb} import main; main()"), sent)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.25, 0.5, 1, 1.5, 2, 2.5, 3, 4, 6])
@pytest.mark.parametrize("sent", STATUSES)
def test_first_seconds(seconds: float, sent: signal.Signals, tmp_path: Path) -> None:
    """While torch is imported and the config checked, and when the job has begun."""
    process = start("-m", "mnv2_lightning.train", f"hydra.run.dir={tmp_path / 'a'}")
    time.sleep(seconds)
    ends(process, sent)


def test_console_scripts() -> None:
    scripts = re.findall(r'^mnv2-[\w-]+ = "(.*):(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert {module.rpartition(".")[2] for module, _ in scripts} == set(COMMANDS)
    for module, name in scripts:
        assert callable(getattr(importlib.import_module(module), name))


def test_nobody_elses_handlers_change(call: Call) -> None:
    """By an import, or by a command within somebody's program when it is over."""
    code = (
        "import signal, mnv2_lightning.train\n"
        "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)
    subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True
    )
    before = [signal.getsignal(x) for x in STATUSES]
    assert call("devices").status == 0
    assert [signal.getsignal(x) for x in STATUSES] == before


@pytest.mark.skipif(os.name == "nt", reason="a process cannot be sent Ctrl-C alone")
def test_a_second_signal_ends_a_process_at_once() -> None:
    """Where it is stuck in what the first one began, Lightning's ignoring of SIGINT included."""
    code = """
import signal, sys, time
from mnv2_lightning.callbacks.process_guard import ProcessGuard
from mnv2_lightning.system import signals
signals.install(is_silent=False)
signals.raise_errors()
guard = ProcessGuard()
guard.setup()
try:
    print("ready", flush=True)
    time.sleep(30)
except KeyboardInterrupt as error:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    guard.on_exception(None, None, error)
    print("stuck", flush=True)
    time.sleep(30)
"""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in ("ready", "stuck"):
        assert process.stdout.readline() == f"{line}\n"
        process.send_signal(signal.SIGINT)
    started = time.monotonic()
    process.communicate(timeout=20)
    assert time.monotonic() - started < 5
    assert process.returncode == 130
