"""Ctrl-C and SIGTERM: from a command's first moment, and where what they raise gets lost."""

import importlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from mnv2_lightning.system import signals
from tests.conftest import SMALL, VERBS, Call, record

ROOT = Path(__file__).resolve().parents[1]
STATUSES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def start(*command: str) -> subprocess.Popen[str]:
    """Python with `command`, once it catches SIGTERM, which it does not by itself."""
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
    if not status.exists():
        pytest.skip("needs Linux's /proc")
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


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("sent", STATUSES)
def test_first_moment(verb: str, sent: signal.Signals, tmp_path: Path) -> None:
    """While the verb is imported."""
    ends(start("-m", f"mnv2_lightning.{verb}", f"hydra.run.dir={tmp_path / 'a'}"), sent)
    ends(start("-c", f"from mnv2_lightning import scripts; scripts.{verb}()"), sent)
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
    assert {name for _, name in scripts} == set(VERBS)
    for module, name in scripts:
        assert callable(getattr(importlib.import_module(module), name))


def test_nobody_elses_handlers_change(call: Call) -> None:
    """By an import, or by a command within somebody's program when it is over."""
    code = (
        "import signal, mnv2_lightning.cli.scripts, mnv2_lightning.train as t\n"
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
    assert signal.set_wakeup_fd(-1) == -1


def losing(sent: signal.Signals) -> Callable[..., None]:
    """A training step that gets the signal and loses what that raises."""

    def lose(*args: object) -> None:
        with suppress(KeyboardInterrupt, SystemExit):
            signal.raise_signal(sent)
        time.sleep(20)

    return lose


STEP = "mnv2_lightning.classifier.Classifier.training_step"


@pytest.mark.parametrize("sent", STATUSES)
def test_lost_once(
    sent: signal.Signals, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is raised again, and the run recorded."""
    monkeypatch.setattr(signals, "AGAIN", 0.3)
    monkeypatch.setattr(STEP, losing(sent))
    ended = call("train", *SMALL, "callbacks.test_images=null", "hydra.run.dir=a")
    assert ended.status == STATUSES[sent]
    assert "no epoch was finished" in ended.err
    assert record(tmp_path / "a")["status"] == "interrupted"


def test_lost_for_good(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is recorded and the process ended: here a test stands in for that."""
    ended: list[tuple[int, str, str]] = []

    def end(number: int, hint: str) -> None:
        ended.append((number, hint, record(tmp_path / "a")["status"]))

    monkeypatch.setattr(signals, "AGAIN", 0.2)
    monkeypatch.setattr(signals, "PATIENCE", 0.6)
    monkeypatch.setattr(signals, "end", end)

    def lose(*args: object) -> None:
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.raise_signal(signal.SIGINT)
        while not ended:
            time.sleep(0.05)
        raise RuntimeError("ended")

    monkeypatch.setattr(STEP, lose)
    assert call("train", *SMALL, "callbacks.test_images=null", "hydra.run.dir=a").status == 1
    assert ended[0] == (signal.SIGINT, "", "interrupted")
