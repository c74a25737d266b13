"""Our side: training, input pipeline and inference of this package."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hydra import compose
from omegaconf import DictConfig
from torch import Tensor, nn

from mnv2_lightning import trained
from mnv2_lightning.benchmarks.timing import throughput, timed
from mnv2_lightning.cli import composing
from mnv2_lightning.export import FORMATS
from mnv2_lightning.networks import complexity
from mnv2_lightning.networks.folding import fold_batch_norms
from mnv2_lightning.runs.config import plain
from mnv2_lightning.system.hydra_compat import instantiate
from mnv2_lightning.system.memory import keep_freed_memory


def config(*overrides: str) -> DictConfig:
    """The config that `train` composes from `overrides`."""
    with composing.initialized():
        cfg = compose("train", list(overrides))
    cfg.run_dir = "."
    return cfg


def build_network(cfg: DictConfig) -> nn.Module:
    """The network with its initial weights, without Lightning, which takes memory."""
    node = plain(cfg.model)
    del node["weights"]
    return instantiate(node, _convert_="all")


def trainer_loop(*, overrides: list[str], warmup: int, steps: int) -> dict[str, Any]:
    """A few steps of `train`, with logs, callbacks and checkpoints, without a test."""
    ends = [f"trainer.max_steps={warmup + steps}", f"callbacks.throughput.warmup_steps={warmup}"]
    ends += ["trainer.max_epochs=-1", "trainer.limit_test_batches=0"]
    return training(overrides=[*overrides, *ends, "scheduler=constant"])  # others need max_epochs


def training(*, overrides: list[str]) -> dict[str, Any]:
    """A whole `train`, with its test."""
    from mnv2_lightning.train import train

    with tempfile.TemporaryDirectory() as folder:
        cfg = config(*overrides)
        cfg.run_dir = folder
        record = train(cfg)
    keys = ("test_accuracy", "train_seconds", "images_per_second", "peak_rss_bytes", "parameters")
    return {key: record[key] for key in keys}


def training_batches(cfg: DictConfig) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless augmented batches (B, 1, H, W) and labels (B,), epoch after epoch."""
    from mnv2_lightning import build  # late: Lightning takes seconds to import

    data = build.build_datamodule(cfg)
    data.setup()
    loader: Any = data.train_dataloader()
    for epoch in count():
        loader.sampler.set_epoch(epoch)
        yield from loader


def input_pipeline(*, overrides: list[str], warmup: int, steps: int) -> dict[str, Any]:
    """The data module alone: gather, scale, augment, normalize and resize batches."""
    keep_freed_memory()
    cfg = config(*overrides)
    batches = training_batches(cfg)
    return throughput(cfg.data.batch_size, timed(lambda: next(batches), warmup=warmup, steps=steps))


def inference(
    *,
    batch_size: int,
    kind: str,
    warmup: int,
    steps: int,
    overrides: Sequence[str] = (),
    run_dir: str | None = None,
) -> dict[str, Any]:
    """Median seconds of a call in evaluation mode, of the network of a run, if there is one.

    `kind`: "eager" (NCHW), "folded" (channels_last, batch norms folded into the convolutions), or
    "compiled" (the folded network with torch.compile).
    """
    keep_freed_memory()
    if run_dir is None:
        cfg = config(*overrides)
        network, size = build_network(cfg).eval(), cfg.data.image_size
    else:
        loaded = trained.load(run_dir, fold=False)
        network, size = loaded.network, loaded.config["data"]["image_size"]
    x = torch.randn(batch_size, 1, size, size)
    if kind != "eager":
        network = fold_batch_norms(network).to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    if kind == "compiled":
        network.compile()
    with torch.inference_mode():
        measured, first = _call(lambda: network(x), batch_size, warmup, steps)
    return measured | {"compile_seconds": first if kind == "compiled" else None}


def exported_inference(
    *, path: str, format: str, batch_size: int, warmup: int, steps: int
) -> dict[str, Any]:
    """The same of an exported file for images of 28 x 28 px, in its own runtime."""
    module = import_module(f"mnv2_lightning.formats.{FORMATS[format].module}")
    run = module.load(Path(path))
    pictures = np.random.default_rng(0).integers(0, 256, (batch_size, 28, 28), dtype=np.uint8)
    measured, _ = _call(lambda: run(pictures), batch_size, warmup, steps)
    return measured | {"compile_seconds": None}


def _call(
    call: Callable[[], Any], images: int, warmup: int, steps: int
) -> tuple[dict[str, float], float]:
    """Median seconds, images per second, and the seconds of the first call."""
    (first,) = timed(call, warmup=0, steps=1)
    seconds = median(timed(call, warmup=warmup, steps=steps))
    return {"median_seconds": seconds, "images_per_second": images / seconds}, first


def growth(*, overrides: list[str], warmup: int, steps: int) -> dict[str, Any]:
    """A bare training step of one size, and its multiply-adds."""
    keep_freed_memory()
    cfg = config(*overrides)
    network = build_network(cfg).to(memory_format=torch.channels_last)
    size, batch_size = cfg.data.image_size, cfg.data.batch_size
    costs = complexity.measure(network, in_channels=1, image_size=size)
    x = torch.randn(batch_size, 1, size, size).contiguous(memory_format=torch.channels_last)
    y = torch.randint(10, (batch_size,))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()

    measured = throughput(batch_size, timed(step, warmup=warmup, steps=steps))
    # The backward pass takes twice as many: gradients of inputs and of weights. 2 operations each.
    operations = 6 * (costs.multiply_adds or 0) * measured["images_per_second"]
    return measured | {"multiply_adds": costs.multiply_adds, "gflops": operations / 1e9}
