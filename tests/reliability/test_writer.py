"""The checkpoint writer fails at every point, and the power is cut at every point."""

import errno
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO

from mnv2_lightning.runs import checkpoints
from mnv2_lightning.runs.checkpoint_io import DurableCheckpointIO
from mnv2_lightning.schema.errors import StorageError
from tests.reliability.conftest import Reliability

Save = Callable[[dict[str, Any], Path], None]


END_OF_EPOCH = {"fit_loop": {"epoch_progress": {"current": {"ready": 1, "processed": 1}}}}


class Crash(BaseException):
    """Ends a save as the process's death would; nothing is tidied up after it."""


def content(epoch: int) -> dict[str, Any]:
    """A small checkpoint, of the end of an epoch."""
    weights = torch.full((4000,), float(epoch))
    return {
        "epoch": epoch,
        "global_step": 10 * epoch,
        "state_dict": {"w": weights},
        "hyper_parameters": {},
        "loops": END_OF_EPOCH,
    }


def save(epoch: int, run: Path) -> None:
    DurableCheckpointIO().save_checkpoint(content(epoch), run / "checkpoints" / "last.ckpt")


def newest_epoch(run: Path) -> int:
    """Of the newest whole checkpoint, all of which is what was saved."""
    path = checkpoints.newest(run)
    assert path is not None
    found = checkpoints.read(path)
    assert torch.equal(found["state_dict"]["w"], content(found["epoch"])["state_dict"]["w"])
    return found["epoch"]


# Every call of the writer that can fail, as (where it is looked up, its name).
CALLS = [
    (tempfile, "mkstemp"),
    (os, "fdopen"),
    (os, "chmod"),
    (os, "fsync"),
    (os, "link"),
    (os, "replace"),
    (os, "open"),
    (os, "unlink"),
]
WRITTEN = (0.0, 0.01, 0.5, 0.99)  # shares of a file after which writing it fails


def fail(
    patch: pytest.MonkeyPatch, owner: Any, name: str, when: int, error: Any, written: float = 0.5
) -> list[int]:
    """The call of that name fails the `when`-th time; the list holds how often it was called."""
    real, count = getattr(owner, name), [0]

    def failing(*args: Any, **kwargs: Any) -> Any:
        count[0] += 1
        if count[0] != when:
            return real(*args, **kwargs)
        if name == "fdopen":
            return HalfWritten(real(*args, **kwargs), patch, error, written)
        if isinstance(error, Crash):
            die(patch)
        raise error

    patch.setattr(owner, name, failing)
    return count


def die(patch: pytest.MonkeyPatch) -> None:
    """Nothing is tidied up from here on."""
    patch.setattr(os, "unlink", lambda *args, **kwargs: None)


class HalfWritten:
    """A stream that fails after a share of what it is given."""

    def __init__(
        self, stream: Any, patch: pytest.MonkeyPatch, error: BaseException, share: float
    ) -> None:
        self.stream, self.patch, self.error, self.share = stream, patch, error, share

    def __enter__(self) -> "HalfWritten":
        return self

    def __exit__(self, *args: Any) -> None:
        self.stream.close()

    def write(self, data: Any) -> None:
        self.stream.write(bytes(data)[: int(self.share * len(data))])
        self.stream.flush()
        if isinstance(self.error, Crash):
            die(self.patch)
        raise self.error


def epoch_ends(epoch: int, run: Path) -> None:
    """What a run does then where its metric has improved: it saves the best, the last, and prunes
    what a callback of another name had kept.
    """
    io, folder = DurableCheckpointIO(), run / "checkpoints"
    io.save_checkpoint(content(epoch) | {"best": True}, folder / "best.ckpt")
    save(epoch, run)
    io.save_checkpoint(content(epoch), folder / f"epoch-{epoch}.ckpt")
    io.remove_checkpoint(folder / f"epoch-{epoch - 1}.ckpt")


def as_it_was(folder: Path) -> None:
    """Nothing befell the run."""


def without_last(folder: Path) -> None:
    """It was removed by hand."""
    (folder / "last.ckpt").unlink()


def with_a_damaged_last(folder: Path) -> None:
    (folder / "last.ckpt").write_bytes((folder / "last.ckpt").read_bytes()[:-1])


def begun(run: Path, befalls: Callable[[Path], None]) -> int:
    """A run of two epochs that goes on after something befell it; the newest epoch it has."""
    epoch_ends(0, run)
    epoch_ends(1, run)
    befalls(run / "checkpoints")
    (run / "checkpoints" / "best.ckpt").unlink()  # else nothing is lost that easily
    checkpoints.tidy(run)
    return newest_epoch(run)


def calls_of_an_epoch(run: Path, befalls: Any) -> Iterator[tuple[Any, str, int, float]]:
    for owner, name in CALLS:
        begun(run / name, befalls)
        with pytest.MonkeyPatch.context() as patch:
            count = fail(patch, owner, name, 0, None)
            epoch_ends(2, run / name)
        for when in range(1, count[0] + 1):
            for written in WRITTEN if name == "fdopen" else (0.0,):
                yield owner, name, when, written


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder on a file system where fsync costs nothing: thousands are called."""
    shm = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=shm) as folder:
        yield Path(folder)


@pytest.mark.parametrize("befalls", [as_it_was, without_last, with_a_damaged_last])
def test_every_failure_leaves_a_good_checkpoint(
    befalls: Callable[[Path], None], in_memory: Path, reliability: Reliability
) -> None:
    """Of this epoch or of the newest before; the next epoch's saves work and tidy up."""
    errors = (
        Crash,
        lambda: OSError(errno.ENOSPC, "No space left on device"),
        lambda: OSError(errno.EIO, "Input/output error"),
    )
    cases = 0
    for owner, name, when, written in calls_of_an_epoch(in_memory / "first", befalls):
        for make in errors:
            run, error = in_memory / str(cases), make()
            before = begun(run, befalls)
            with pytest.MonkeyPatch.context() as patch:
                fail(patch, owner, name, when, error, written)
                copies = name == "link" and isinstance(error, OSError)  # as without hard links
                with nullcontext() if copies else pytest.raises((Crash, StorageError)):
                    epoch_ends(2, run)
            assert newest_epoch(run) in (before, 2), (name, when, error)
            checkpoints.tidy(run)
            epoch_ends(3, run)
            assert newest_epoch(run) == 3
            left = {p.name for p in (run / "checkpoints").iterdir()}
            left -= {"last.damaged", "epoch-1.ckpt", "epoch-2.ckpt"}  # what was not pruned stays
            expected = {"best.ckpt", "last.ckpt", "previous.ckpt", "epoch-3.ckpt"}
            assert left == expected, (name, when, error)
            cases += 1
    assert cases >= 3 * 3 * len(CALLS)  # 3 errors, 3 checkpoints
    found = reliability.found.setdefault("failpoints", {"cases": 0, "lost": 0})
    found["cases"] += cases


class Disk:
    """What a power cut may leave of a folder: only what fsync was called for is sure.

    Follows the calls of a save and can then make the folder as it might be found afterwards:
    contents that were not fsynced are torn, changes of names that were not are done or not.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        assert not list(folder.iterdir())
        self.events: list[tuple[str, Any, Any]] = []
        real_fsync, real_replace, real_rename = os.fsync, os.replace, os.rename
        real_link = os.link

        def fsync(descriptor: int) -> None:
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            real_fsync(descriptor)
            if path.is_dir():
                self.events.append(("names", None, None))
            else:
                self.events.append(("content", path.stat().st_ino, path.read_bytes()))

        def move(real: Any) -> Any:
            def moving(source: Any, target: Any, **kwargs: Any) -> None:
                inode = os.stat(source).st_ino
                written = Path(source).read_bytes()
                real(source, target, **kwargs)
                self.events.append(("seen", inode, written))
                self.events.append(("move", (Path(source).name, Path(target).name), inode))

            return moving

        def link(source: Any, target: Any, **kwargs: Any) -> None:
            real_link(source, target, **kwargs)
            inode = os.stat(source).st_ino
            self.events.append(("move", (None, Path(target).name), inode))

        patch.setattr(os, "fsync", fsync)
        patch.setattr(os, "link", link)
        patch.setattr(os, "replace", move(real_replace))
        patch.setattr(os, "rename", move(real_rename))

    def cut(self, after: int, place: Path, rng: random.Random) -> None:
        """The folder as it may be where the power fails after `after` of the calls."""
        names: dict[str, int] = {}
        contents: dict[int, bytes] = {}  # what is sure
        seen: dict[int, bytes] = {}
        pending: list[tuple[tuple[str | None, str], int]] = []  # None: a second name

        def apply(moves: list[tuple[tuple[str | None, str], int]]) -> None:
            for (source, target), inode in moves:
                if source is not None:
                    names.pop(source, None)
                names[target] = inode

        for kind, what, data in self.events[:after]:
            if kind == "content":
                contents[what] = data
            elif kind == "seen":
                seen[what] = data
            elif kind == "move":
                pending.append((what, data))
            else:
                apply(pending)
                pending = []
        apply(pending[: rng.randint(0, len(pending))])
        place.mkdir(parents=True)
        for name, inode in names.items():
            torn = seen.get(inode, b"")
            data = contents.get(inode, torn[: rng.randint(0, max(0, len(torn) - 1))])
            (place / name).write_bytes(data)


def power_cuts(tmp_path: Path, write: Save, count: int) -> list[bool]:
    """Whether epoch 1 or 2 is loaded after each of so many power cuts while 2 is written."""
    rng, loaded = random.Random(0), []
    for number in range(count):
        run = tmp_path / str(number)
        (run / "checkpoints").mkdir(parents=True)
        done = []
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(run / "checkpoints", patch)
            for epoch in (0, 1, 2):
                write(content(epoch), run / "checkpoints" / "last.ckpt")
                done.append(len(disk.events))
        cut = tmp_path / f"{number}-cut"
        disk.cut(rng.randint(done[1], done[2]), cut / "checkpoints", rng)
        try:
            loaded.append(newest_epoch(cut) >= 1)
        except (StorageError, AssertionError):
            loaded.append(False)
    return loaded


def ours(made: dict[str, Any], path: Path) -> None:
    DurableCheckpointIO().save_checkpoint(made, path)


def test_power_cuts(tmp_path: Path, reliability: Reliability) -> None:
    loaded = power_cuts(tmp_path, ours, 100)
    reliability.note("power_cuts", cuts=100, loaded=sum(loaded))
    assert all(loaded)


def test_power_cuts_without_fsync(tmp_path: Path, reliability: Reliability) -> None:
    """The test bites: without our fsync it fails."""

    def without(made: dict[str, Any], path: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", lambda descriptor: None)
            ours(made, path)

    loaded = power_cuts(tmp_path, without, 100)
    reliability.note("power_cuts_without_fsync", cuts=100, loaded=sum(loaded))
    assert not all(loaded)


def test_power_cuts_with_lightnings_writer(tmp_path: Path, reliability: Reliability) -> None:
    """It never calls fsync."""
    stock = TorchCheckpointIO()
    loaded = power_cuts(tmp_path, stock.save_checkpoint, 100)
    reliability.note("power_cuts_lightnings_writer", cuts=100, loaded=sum(loaded))
    assert not all(loaded)


def moved_from_elsewhere(made: dict[str, Any], path: Path) -> None:
    """`shutil.move` from another file system: a copy over the live file."""
    elsewhere = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.NamedTemporaryFile(dir=elsewhere, delete=False) as stream:
        torch.save(made, stream)
    shutil.move(stream.name, path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("write", [ours, moved_from_elsewhere], ids=["ours", "shutil.move"])
def test_killed_while_it_writes(write: Save, tmp_path: Path, reliability: Reliability) -> None:
    """SIGKILL at random; ours always leaves the last epoch that it said it had written."""
    shm = Path("/dev/shm")
    if write is moved_from_elsewhere and (
        not shm.is_dir() or tmp_path.stat().st_dev == shm.stat().st_dev
    ):
        pytest.skip("needs two file systems")
    big = {"w": torch.rand(2_000_000)}
    rng, good, kills = random.Random(1), 0, reliability.rounds(10, 50)
    for kill in range(kills):
        path = tmp_path / str(kill) / "checkpoints" / "last.ckpt"
        path.parent.mkdir(parents=True)
        reader, writer = os.pipe()
        if not (child := os.fork()):
            try:
                for epoch in range(10_000):
                    write(content(epoch) | {"state_dict": big}, path)
                    os.write(writer, epoch.to_bytes(2, "big"))
            finally:  # else this would go on as a second pytest
                os._exit(1)
        os.close(writer)
        said = int.from_bytes(os.read(reader, 2), "big")
        time.sleep(rng.uniform(0, 0.1))
        os.kill(child, 9)
        os.waitpid(child, 0)
        while written := os.read(reader, 2):
            said = int.from_bytes(written, "big")
        os.close(reader)
        try:
            newest = checkpoints.newest(tmp_path / str(kill))
            good += newest is not None and checkpoints.read(newest)["epoch"] >= said
        except StorageError:
            pass
    name = "ours" if write is ours else "moved"
    reliability.note(f"kills_of_the_writer_{name}", kills=kills, good=good)
    assert (good == kills) is (write is ours)


def test_the_last_checkpoint_is_never_missing(tmp_path: Path) -> None:
    """Not between two calls of the writer either."""
    save(0, tmp_path)
    last = tmp_path / "checkpoints" / "last.ckpt"
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in CALLS:
            real = getattr(owner, name)

            def seen(*args: Any, real: Any = real, **kwargs: Any) -> Any:
                made = real(*args, **kwargs)
                calls.append(last.is_file())
                return made

            patch.setattr(owner, name, seen)
        save(1, tmp_path)
    assert len(calls) >= len(CALLS)
    assert all(calls)


def test_without_hard_links_the_previous_is_a_copy(tmp_path: Path) -> None:
    def unsupported(*args: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    save(0, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", unsupported)
        save(1, tmp_path)
    previous = tmp_path / "checkpoints" / "previous.ckpt"
    assert checkpoints.read(previous)["epoch"] == 0
    assert newest_epoch(tmp_path) == 1


def test_a_removed_checkpoint_is_gone(tmp_path: Path) -> None:
    save(0, tmp_path)
    DurableCheckpointIO().remove_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert checkpoints.newest(tmp_path) is None
