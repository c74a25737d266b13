"""What a user sees on a terminal, and the lines in its place elsewhere."""

import os
import re
import signal
import struct
import sys
import traceback
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich import reconfigure
from rich.console import Console

from mnv2_lightning.callbacks import progress
from mnv2_lightning.train import train
from tests.conftest import COMMANDS, SMALL, Call, Configure


def screen(written: str, columns: int) -> list[str]:
    """The lines that a terminal shows; it wraps, and obeys the codes that rich writes."""
    lines, row, column = [""], 0, 0
    for code, text in re.findall(r"(\x1b\[[\d;?]*[A-Za-z]|[\r\n])|([^\x1b\r\n]+)", written):
        if code == "\r":
            column = 0
        elif code == "\n":
            row += 1
        elif code.endswith("A"):
            row -= int(code[2:-1])
        elif code == "\x1b[2K":
            lines[row] = ""
        for character in text:
            if column == columns:
                row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
            lines[row] = lines[row][:column].ljust(column) + character + lines[row][column + 1 :]
            column += 1
        lines += [""] * (row + 1 - len(lines))
    return [line.rstrip() for line in lines if line.strip()]


def on_terminal(columns: int, *arguments: str, interrupt_at: str | None = None) -> tuple[int, str]:
    """The status of `train`, in a fork of this process, and what it wrote to a terminal."""
    fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))
    try:
        process, terminal = pty.fork()
    except OSError as error:  # such as in a container without /dev/pts
        pytest.skip(f"needs a pseudo-terminal ({error})")
    if process == 0:
        status = 1
        try:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
            os.environ["TERM"] = "xterm"
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            reconfigure()  # rich looks at standard output once
            sys.argv = ["train", *arguments]
            COMMANDS["train"].main()
        except SystemExit as error:
            status = int(error.code or 0)
        finally:
            sys.stdout.flush()
            os._exit(status)
    written = b""
    with suppress(OSError):  # it has ended
        while part := os.read(terminal, 1000):
            written += part
            if interrupt_at is not None and interrupt_at.encode() in written:
                os.write(terminal, b"\x03")
                interrupt_at = None
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), written.decode()


@pytest.fixture
def terminal(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for `call`; each step is drawn."""
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(progress, "REFRESH_SECONDS", 0.0)


def drawn(written: str) -> list[str]:
    """The bars, without colours."""
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", written)
    return [part for part in re.split(r"[\r\n]", plain) if "\u2501" in part]


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("columns", [80, 120])
def test_epochs_on_a_terminal(columns: int, tmp_path: Path) -> None:
    """A bar of one line, and a line for each epoch, which the log has too."""
    folder = tmp_path / "run"
    status, written = on_terminal(columns, *SMALL, f"hydra.run.dir={folder}")
    assert status == 0, written
    bars = drawn(written)
    assert max(map(len, bars)) <= columns - progress.MARGIN
    for start in ("epoch 1/2 batch 0/10 ", "epoch 2/2 batch 10/10 ", "validation batch 2/2 "):
        assert any(line.startswith(start) for line in bars), start
    # After the first step, and after every second: SMALL's log_every_n_steps.
    assert any(re.match("epoch 1/2 batch 1/10 .* train/loss 2", line) for line in bars)
    shown = screen(written, columns)
    epochs = [line for line in shown if line.startswith("epoch")]
    metrics = r"train/loss [\d.]+  val/loss [\d.]+  val/accuracy [\d.]+"
    assert len(epochs) == 2
    assert re.fullmatch(f"epoch 1/2  {metrics}", epochs[0])
    assert re.fullmatch(f"epoch 2/2  {metrics}", epochs[1])
    assert shown[shown.index(epochs[1]) + 1] == "result"
    assert not any("\u2501" in line for line in shown)
    log = (folder / "train.log").read_text()
    assert all(line in log for line in epochs)


@pytest.mark.usefixtures("terminal")
def test_steps_on_a_terminal(tmp_path: Path) -> None:
    """Where steps end the fit, they are counted; without validation, each epoch has a line."""
    steps = ("trainer.max_epochs=-1", "trainer.max_steps=15", "data.val_size=0")
    status, written = on_terminal(80, *SMALL, *steps, f"hydra.run.dir={tmp_path / 'run'}")
    assert status == 0, written
    assert drawn(written)[0].startswith("step 0/15 ")
    assert any(line.startswith("step 15/15 ") for line in drawn(written))
    lines = [line for line in screen(written, 80) if line.startswith("step")]
    pattern = r"step {}/15  train/loss [\d.]+  train/accuracy [\d.]+"
    assert len(lines) == 2
    assert re.fullmatch(pattern.format(12), lines[0])  # 600 images by 50
    assert re.fullmatch(pattern.format(15), lines[1])


@pytest.mark.usefixtures("terminal")
def test_interrupted_on_a_terminal(tmp_path: Path) -> None:
    """The message is left, and no bar."""
    many = ("trainer.max_epochs=50", f"hydra.run.dir={tmp_path / 'run'}")
    status, written = on_terminal(80, *SMALL, *many, interrupt_at="train/loss")
    assert status == 130
    shown = screen(written, 80)
    assert [line for line in shown if "interrupted" in line] == shown[-1:]
    assert shown[-1].startswith("error: interrupted; ")
    assert not any("\u2501" in line for line in shown)


@pytest.mark.parametrize("width", [20, 40, 60, 77, 117])
def test_bar_leaves_out_what_does_not_fit(width: int) -> None:
    notes = ["1:02 < 10:35", "train/loss 0.123", "val/accuracy 0.987", "x" * 100]
    console = Console(file=StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(progress.bar("epoch 12/20 batch", 120, 430, notes, width))
    (line,) = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(line) <= width
    fit = {20: 0, 40: 0, 60: 1, 77: 2, 117: 3}[width]
    assert [note in line for note in notes] == [True] * fit + [False] * (4 - fit)


def test_metrics_are_read_only_where_they_are_logged(configure: Configure) -> None:
    """Lightning reads what is logged with `prog_bar=True` from the device after every batch."""
    read: list[str] = []
    item = torch.Tensor.item

    def recorded(self: torch.Tensor) -> Any:
        read.extend(frame.name for frame in traceback.extract_stack())
        return item(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "item", recorded)
        train(configure(*SMALL, "trainer.log_every_n_steps=20"))
    assert read
    assert "on_batch_end" not in read
