"""Measure on a GPU: `python -m tests.evidence.on_gpu FOLDER PART [PART ...]` writes into FOLDER.

The parts run one after the other, and one that fails does not keep the next from running.
"""

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TRAIN = "mnv2_lightning.train"
SEEDS = "seed=0,1,2,3,4"
STEPS = 300

# Overrides of the base, and those that are compared with it.
SPEED = {
    "tutorial": (
        "experiment=tutorial",
        "classifier.channels_last=false",
        "trainer.benchmark=true",
        "trainer.precision=bf16-mixed",
    ),
    "tutorial_v1": ("experiment=tutorial_v1", "classifier.channels_last=false"),
    "default": (
        "experiment=default",
        "classifier.channels_last=false",
        "trainer.precision=bf16-mixed",
        "trainer.precision=16-mixed",
        "callbacks=[default,ema]",
    ),
    "fast": ("experiment=fast", "classifier.channels_last=false"),
    "paper": (
        "model=mobilenet_v2 model.strides=224px data.image_size=224 data.batch_size=256",
        "classifier.channels_last=false",
        "trainer.precision=bf16-mixed",
    ),
    "compiled": ("experiment=default classifier.compile=true",),
    "tutorial compiled": ("experiment=tutorial classifier.compile=true",),
}


def speed() -> Iterator[dict[str, Any]]:
    """Images per second of `train`, of a loop without Lightning, and the share of it in kernels."""
    import torch

    from mnv2_lightning import compose
    from mnv2_lightning.train import train

    for name, (base, *others) in SPEED.items():
        for other in ("", *others):
            ends = (f"trainer.max_steps={STEPS} trainer.max_epochs=-1 trainer.limit_test_batches=0 "
                    "scheduler=constant callbacks.throughput.warmup_steps=100 logger=csv "
                    "callbacks.test_images=null data.val_size=0")  # fmt: skip
            overrides = f"{base} {other} {ends}".split()
            torch.cuda.reset_peak_memory_stats()
            row: dict[str, Any] = {"name": name, "overrides": f"{base} {other}".strip()}
            try:
                profile = profiled()
                result = train(compose("train", overrides), [profile])
                row |= {"images_per_second": result["images_per_second"], **profile.found}
                row["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
                if not other and "compile" not in base:
                    row["bare_images_per_second"] = bare_loop(overrides)
            except Exception as error:
                row["error"] = repr(error)
            yield row


def bare_loop(overrides: list[str]) -> float:
    """Images per second of a plain PyTorch loop on the GPU with our network and batches."""
    import torch
    import torch.nn.functional as F

    from mnv2_lightning import build, compose
    from mnv2_lightning.cli import from_python
    from mnv2_lightning.train import COMMAND

    cfg = from_python.checked(COMMAND, compose("train", overrides))
    data = build.build_datamodule(cfg)
    data.setup()
    data.arrays = {name: tensor.cuda() for name, tensor in data.arrays.items()}
    classifier = build.build_classifier(cfg, build.build_network(cfg)).cuda()
    optimizer = classifier.build_optimizer()
    steps, images, start = 0, 0, 0.0
    while True:
        for x, labels in data.train_dataloader():
            if steps == 100:
                torch.cuda.synchronize()
                images, start = 0, time.perf_counter()
            if steps == STEPS:
                torch.cuda.synchronize()
                return images / (time.perf_counter() - start)
            optimizer.zero_grad()
            F.cross_entropy(classifier(x), labels).backward()
            optimizer.step()
            steps, images = steps + 1, images + len(labels)


def profiled() -> Any:
    """A callback that profiles ten steps of the warm-up; `found` holds what it saw."""
    import torch
    from lightning.pytorch import Callback
    from torch.profiler import ProfilerActivity, profile

    class Profiled(Callback):
        def __init__(self) -> None:
            self.found: dict[str, Any] = {}
            self.profiler = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])

        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 60:
                torch.cuda.synchronize()
                self.profiler.start()
                self.start = time.perf_counter()
            if trainer.global_step == 70:
                torch.cuda.synchronize()
                seconds = time.perf_counter() - self.start
                self.profiler.stop()
                events = {event.key: event for event in self.profiler.key_averages()}
                device = {key: event.self_device_time_total for key, event in events.items()}
                longest = sorted(device, key=lambda key: -device[key])[:8]
                self.found = {
                    "profiled_seconds_a_step": seconds / 10,
                    "calls_a_step": {
                        key: event.count / 10
                        for key, event in events.items()
                        if key.startswith("cuda") or "item" in key or "_to_copy" in key
                    },
                    "longest": [[key[:90], events[key].count, device[key]] for key in longest],
                }

    return Profiled()


def write_speed(out: Path) -> None:
    rows = []
    for row in speed():
        rows.append(row)
        print(json.dumps(row), flush=True)
        (out / "speed.json").write_text(json.dumps(rows, indent=2))


def sweep(name: str, *overrides: str) -> None:
    command = [sys.executable, "-m", TRAIN, "-m", *overrides, f"sweep={name}"]
    start = time.perf_counter()
    subprocess.run(command, check=False)
    print(f"{name}: {time.perf_counter() - start:.1f} s", flush=True)


def side_by_side(out: Path, *names: str) -> None:
    """All seeds of `tutorial` and `tutorial_v1` at once, since none of them fills the GPU."""

    def run(job: tuple[str, int]) -> None:
        name, seed = job
        folder = out / "tutorial" / name / f"seed-{seed}"
        overrides = (f"experiment={name}", f"seed={seed}", f"hydra.run.dir={folder}")
        more = ("trainer.enable_progress_bar=false", "callbacks.test_images=null")
        ended = subprocess.run(
            [sys.executable, "-m", TRAIN, *overrides, *more, *names],
            check=False,
            capture_output=True,
            text=True,
        )
        print(
            f"{name} {seed}: {ended.returncode}\n{ended.stdout[-400:]}{ended.stderr[-400:]}",
            flush=True,
        )

    jobs = [*(("tutorial", seed) for seed in range(3)), ("tutorial_v1", 0)]
    with ThreadPoolExecutor(len(jobs)) as pool:
        list(pool.map(run, jobs))


def run_part(out: Path, part: str) -> None:
    if part == "machine":
        subprocess.run([sys.executable, "-m", "mnv2_lightning.devices"], check=False)
        subprocess.run(["nvidia-smi"], check=False)
    elif part == "tests":
        pytest = ["-m", "pytest", "-q", "-o", "filterwarnings=", "tests/test_gpu.py"]
        subprocess.run([sys.executable, *pytest], cwd=ROOT, check=False)
    elif part == "fast":
        sweep("fast", "experiment=fast", SEEDS)
    elif part == "default":
        sweep("default", SEEDS)
    elif part == "precision":
        sweep("precision", "trainer.precision=16-mixed,bf16-mixed", "seed=0,1")
    elif part == "compiled":
        sweep("compiled", "experiment=fast", "classifier.compile=true", "seed=0,1,2")
    elif part == "speed":
        write_speed(out)
    elif part.startswith("tutorial"):
        side_by_side(out, *part.split()[1:])


def main() -> None:
    out, parts = Path(sys.argv[1]).resolve(), sys.argv[2:]
    out.mkdir(parents=True, exist_ok=True)
    os.chdir(out)
    for part in parts:
        print(f"## {part}", flush=True)
        start = time.perf_counter()
        try:
            run_part(out, part)
        except Exception:
            traceback.print_exc()
        print(f"## {part}: {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
