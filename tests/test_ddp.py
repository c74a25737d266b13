"""Several processes: however they are started, a run is the same, and each image counts once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from mnv2_lightning.system import ranks, torchrun
from tests.conftest import Call, load, record

FEW = (
    "trainer.accelerator=cpu",
    "trainer.strategy=ddp",
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=4",
    "trainer.enable_progress_bar=false",
    "callbacks.test_images=null",
    "model.width_mult=0.25",
    # 5,001 and 10,000 images in batches of 77 to 97, odd and even: the ranks get unequal shares.
    "data.batch_size=97",
    "data.val_size=5001",
)
TRAIN = ("-m", "mnv2_lightning.train")
TORCHRUN = ("-m", "torch.distributed.run")


def start(
    cwd: Path, *command: str, environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str], status: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == status, out + err
    return out, err


def with_site(folder: Path, code: str) -> dict[str, str]:
    """The environment in which each Python runs `code` first."""
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}


@pytest.mark.slow
def test_however_it_is_started(tmp_path: Path) -> None:
    """By the command itself, by torchrun, as two nodes, as a job of a sweep: the same bits."""
    end(start(tmp_path, *TRAIN, *FEW, "trainer.devices=2", "hydra.run.dir=alone"))
    end(
        start(
            tmp_path,
            *TORCHRUN,
            "--standalone",
            "--nproc-per-node=2",
            *TRAIN,
            *FEW,
            "trainer.devices=2",
        )
    )
    (by_torchrun,) = (tmp_path / "outputs" / "runs" / "default").iterdir()  # one folder for both
    nodes = ("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=nodes")
    place = f"--rdzv-endpoint=localhost:{20000 + os.getpid() % 20000}"
    two = ("trainer.devices=1", "trainer.num_nodes=2")
    both = [start(tmp_path, *TORCHRUN, *nodes, place, *TRAIN, *FEW, *two) for _ in range(2)]
    told = [end(process)[0] for process in both]
    assert sorted(text.count("test accuracy") for text in told) == [0, 1]  # the first rank tells
    end(start(tmp_path, *TRAIN, "-m", *FEW, "trainer.devices=2", "seed=0", "sweep=s"))
    (of_sweep,) = (tmp_path / "outputs" / "sweeps" / "s").glob("*/result.json")

    runs = [
        tmp_path / "alone",
        by_torchrun,
        tmp_path / "outputs" / "runs" / "default" / "nodes",
        of_sweep.parent,
    ]
    for run in runs:
        for name, weights in load(runs[0])["state_dict"].items():
            assert torch.equal(weights, load(run)["state_dict"][name]), (run, name)
        for key in ("status", "test_accuracy", "test_loss", "val_accuracy"):
            assert record(run)[key] == record(runs[0])[key]

    for split in ("test", "val"):
        verb = ("-m", "mnv2_lightning.evaluate", "run_dir=alone", f"split={split}")
        end(start(tmp_path, *verb, "checkpoint=best"))
        found = json.loads((runs[0] / "evaluation" / f"best-{split}.json").read_text())
        assert found["images"] == {"test": 10_000, "val": 5001}[split]
        assert found["accuracy"] == record(runs[0])[f"{split}_accuracy"]


ABORTS = """
import atexit, ctypes, os, sys
from pathlib import Path
if "RANK" in os.environ and "mnv2_lightning.train" in sys.orig_argv:
    from mnv2_lightning.classifier import Classifier

    libc = ctypes.CDLL(None)
    libc.on_exit(libc.abort, None)  # when the process exits, after Python
    plain = Classifier.configure_optimizers

    def configure(self):  # a library registers its handlers once the command has begun
        atexit.register(Path(f"at-exit-{os.environ['RANK']}").touch)
        return plain(self)

    Classifier.configure_optimizers = configure
"""


@pytest.mark.slow
def test_ranks_that_would_abort_at_their_exit(tmp_path: Path) -> None:
    """As gloo's threads do in a few of a hundred, where Python puts them away."""
    few = (*FEW, "trainer.devices=2", "trainer.max_epochs=1", "hydra.run.dir=a")
    end(start(tmp_path, *TRAIN, *few, environment=with_site(tmp_path, ABORTS)))
    assert record(tmp_path / "a")["status"] == "finished"
    assert len(list(tmp_path.glob("at-exit-*"))) == 2  # of a logger, say


@pytest.mark.slow
def test_a_rank_whose_command_is_gone(tmp_path: Path) -> None:
    """Killed as it had just started its ranks: none waits for the others without end."""
    command = start(tmp_path, "-c", "")
    end(command)
    environment = {
        ranks.LAUNCHED: str(command.pid),
        "RANK": "1",
        "LOCAL_RANK": "1",
        "GROUP_RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(20000 + os.getpid() % 20000),
        "TORCHELASTIC_RUN_ID": "gone",
    }
    few = (*FEW, "trainer.devices=2", "hydra.run.dir=a")
    end(start(tmp_path, *TRAIN, *few, environment=environment), status=143)


DIES = """
import os, sys
if os.environ.get("RANK") == "1" and "seed=1" in sys.orig_argv:
    from mnv2_lightning.classifier import Classifier

    Classifier.training_step = lambda *_: os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_a_dead_rank_in_a_sweep(tmp_path: Path) -> None:
    """Its job ends, recorded; the others run; the same command runs it again."""
    place = with_site(tmp_path, DIES)
    sweep = (*TRAIN, "-m", *FEW, "trainer.devices=2", "seed=1,2", "sweep=s")
    out, err = end(start(tmp_path, *sweep, environment=place), status=1)
    # A rank that is ended while Python collects garbage has that reported before ("ignored in").
    assert err.endswith("error: rank 1 was killed by SIGKILL\n")
    assert "1 of 2 runs finished" in out
    folder = tmp_path / "outputs" / "sweeps" / "s"
    assert record(folder / "seed-1")["status"] == "failed"
    assert record(folder / "seed-1")["error"] == "rank 1 was killed by SIGKILL"
    assert record(folder / "seed-2")["status"] == "finished"
    out, _ = end(start(tmp_path, *sweep))
    assert "2 of 2 runs finished" in out


@pytest.mark.parametrize(
    ("cause", "other"),
    [
        # Exit status, and when a rank reported its error, if it did.
        ((1, 100.9), (143, None)),  # which the agent ended in the same second
        ((1, 100.9), (1, 100.95)),  # the lost connection
        ((-9, None), (1, 99.9)),  # reported before the agent saw the cause
        ((7, None), (1, 100.1)),
        ((1, 95.5), (-9, None)),  # which the agent killed after its time to end
    ],
)
def test_the_rank_that_failed_first(
    cause: tuple[int, float | None],
    other: tuple[int, float | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.time", lambda: 100.5)
    for causing in (0, 1):
        failures = {}
        for rank, (status, time) in ((causing, cause), (1 - causing, other)):
            file = tmp_path / f"{causing}-{rank}"
            if time is not None:
                file.write_text(json.dumps({"message": "m", "timestamp": time}))
            failures[rank] = ProcessFailure(rank, 1, status, str(file))
        assert torchrun.rank_error(failures).rank == causing


def test_calls_that_cannot_work(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = call("train", *FEW, "trainer.num_nodes=2")
    assert ended.status == 2
    assert ended.err == "error: trainer.num_nodes=2: start it on each by torchrun or srun\n"
    monkeypatch.setenv("WORLD_SIZE", "2")
    ended = call("train", "-m", *FEW, "seed=1,2")
    assert ended.status == 2
    assert "-m: a sweep is one process, which starts those of its jobs" in ended.err
    ended = call("train", *FEW)
    assert ended.status == 2
    assert "hydra.run.dir: several processes need one folder" in ended.err
    assert list(tmp_path.iterdir()) == []
