"""Windows and macOS, as far as Linux can show: the real commands, with what those lack hidden."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mnv2_lightning.runs.record import record_death
from mnv2_lightning.system import processes, ranks
from tests.conftest import load, record
from tests.test_ddp import TRAIN, with_site
from tests.test_sweep import children, start_a_sweep

# macOS and Windows start each job anew.
SPAWNS = """
import multiprocessing

plain = multiprocessing.get_context
def get_context(method=None):
    if method not in (None, "spawn"):
        raise ValueError(f"cannot find context for {method}")
    return plain(method)
multiprocessing.get_context = get_context
multiprocessing.get_all_start_methods = lambda: ["spawn"]
multiprocessing.set_start_method("spawn")
"""
# Windows has none of this. What Python and two packages use here in its place is imported before.
WINDOWS = (
    SPAWNS
    + """
import asyncio, filelock, os, platform, platformdirs, signal, subprocess, sys

platform.system = lambda: "Windows"  # Lightning asks it
for name in ("fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"):
    sys.modules[name] = None
hidden = {
    os: "chown confstr fchown fork forkpty getegid geteuid getgid getgroups getloadavg getpgid "
    "getpgrp getpriority getsid getuid killpg lchown mkfifo mknod nice pread pwrite "
    "sched_getaffinity sendfile setpgid setpgrp setsid setuid statvfs sync "
    "sysconf wait wait3 wait4 waitid",
    signal: "SIGALRM SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGUSR1 "
    "SIGUSR2 SIG_BLOCK SIG_SETMASK SIG_UNBLOCK alarm pthread_kill pthread_sigmask setitimer "
    "sigpending sigwait",
}
signal.valid_signals = lambda: {signal.SIGINT, signal.SIGTERM}
for module, names in hidden.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
"""
)
DIES = """
import os, sys
if "--multiprocessing-fork" in sys.orig_argv:  # a job
    from mnv2_lightning.classifier import Classifier

    plain_step = Classifier.training_step
    Classifier.training_step = lambda self, *args: (
        os._exit(7) if self.hparams["seed"] == 2 else plain_step(self, *args)
    )
"""
FEW = (
    "callbacks.test_images=null",
    "data.val_size=1000",
    "model.width_mult=0.25",
    "trainer.limit_train_batches=5",
    "trainer.limit_test_batches=2",
)


def run(folder: Path, hides: str, *typed: str, status: int = 0) -> tuple[str, str]:
    """Output and errors of a command in `folder`."""
    ended = subprocess.run(
        [sys.executable, *TRAIN, *typed, *FEW],
        cwd=folder,
        env=os.environ | with_site(folder, hides) | {"PYTHONWARNDEFAULTENCODING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == status, ended.stdout + ended.stderr
    return ended.stdout, ended.stderr


@pytest.mark.slow
def test_a_run_without_posix(tmp_path: Path) -> None:
    """It trains, and goes on; all text is read and written as UTF-8."""
    _, err = run(tmp_path, WINDOWS, "trainer.max_epochs=1", "hydra.run.dir=a")
    assert not re.search(r"(mnv2_lightning|logging)/.*EncodingWarning", err), err
    assert record(tmp_path / "a")["status"] == "finished"
    assert record(tmp_path / "a")["hardware"]["system"].startswith("Windows")
    out, _ = run(tmp_path, WINDOWS, "trainer.max_epochs=2", "resume=a")
    assert "resumes after epoch 1" in out
    assert load(tmp_path / "a")["epoch"] == 1


@pytest.mark.slow
def test_a_sweep_without_posix(tmp_path: Path) -> None:
    """A job that dies is recorded, the other runs; the same command finishes it."""
    sweep = ("-m", "trainer.max_epochs=1", "seed=1,2", "sweep=s")
    out, err = run(tmp_path, WINDOWS + DIES, *sweep, status=1)
    folder = tmp_path / "outputs" / "sweeps" / "s"
    died = "its process exited with status 7"
    assert f"error: {folder / 'seed-2'}: {died}\n" in err
    assert "1 of 2 runs finished" in out
    assert record(folder / "seed-1")["status"] == "finished"
    assert record(folder / "seed-2")["status"] == "failed"
    assert record(folder / "seed-2")["error"] == died
    out, _ = run(tmp_path, WINDOWS, *sweep)
    assert "2 of 2 runs finished" in out


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")
def test_ctrl_c_without_a_fork_server(tmp_path: Path) -> None:
    """As on macOS: its job, in a group of its own, gets the terminal's once, from the command."""
    process, job = start_a_sweep(tmp_path, environment=with_site(tmp_path, SPAWNS))
    groups = [os.getpgid(child) for child in children(process.pid)]
    assert len(set(groups) - {process.pid}) == 1
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert re.fullmatch(r"error: interrupted; the same command resumes it .*\n", err)
    assert record(job)["status"] == "interrupted"


def test_a_death_where_there_is_no_sigkill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "result.json").write_text('{"status": "running"}')
    monkeypatch.delattr(signal, "SIGKILL")
    assert record_death(tmp_path, 7) == "its process exited with status 7"
    assert record_death(tmp_path, -signal.SIGTERM) == "killed by SIGTERM"  # by Process.terminate


def test_a_rank_on_windows_is_no_orphan(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the python.exe of a venv is between it and the command."""
    monkeypatch.setenv(ranks.LAUNCHED, "1")
    monkeypatch.setattr(processes, "PARENT", -1)
    with pytest.raises(SystemExit):
        processes.exit_if_orphan()
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        processes.exit_if_orphan()
