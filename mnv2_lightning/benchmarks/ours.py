"""Our side: the shipped training, feed and inference."""

import tempfile
import time
from typing import Any

import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from mnv2_lightning.benchmarks.timing import rate, timed
from mnv2_lightning.cli.composing import config_dir
from mnv2_lightning.networks import complexity
from mnv2_lightning.system.memory import keep_freed_memory


def config(*overrides: str) -> DictConfig:
    """What `train` composes from `overrides`."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = compose("train", list(overrides))
    cfg.run_dir = "."
    return cfg


def trainer_loop(*, overrides: list[str], warmup: int, steps: int) -> dict[str, Any]:
    """`train` itself for a few steps, with its logs, callbacks and checkpoints; no test."""
    ends = (
        "trainer.max_epochs=-1",
        f"trainer.max_steps={warmup + steps}",
        "trainer.limit_test_batches=0",
        f"callbacks.throughput.warmup_steps={warmup}",
        "scheduler=constant",  # the others need to know the end
    )
    return training(overrides=[*overrides, *ends])


def training(*, overrides: list[str]) -> dict[str, Any]:
    """`train` itself, from its start to its test."""
    from mnv2_lightning.train import train

    with tempfile.TemporaryDirectory() as folder:
        cfg = config(*overrides)
        cfg.run_dir = folder
        record = train(cfg)
    keys = ("test_accuracy", "train_seconds", "images_per_second", "peak_rss_bytes", "parameters")
    return {key: record[key] for key in keys}


def feed(*, overrides: list[str], warmup: int, steps: int) -> dict[str, Any]:
    """The data module alone: gather, scale, augment, normalise, resize."""
    from mnv2_lightning import build  # late, as everywhere here: Lightning takes seconds

    keep_freed_memory()
    cfg = config(*overrides)
    data = build.build_datamodule(cfg)
    data.setup()

    def batches() -> Any:
        epoch = 0
        while True:
            for images, labels, indices in data.train_dataloader():
                yield data.prepare(images, indices, epoch), labels
            epoch += 1

    stream = batches()
    return rate(cfg.data.batch_size, timed(lambda: next(stream), warmup=warmup, steps=steps))


def inference(
    *, overrides: list[str], batch_size: int, kind: str, warmup: int, steps: int
) -> dict[str, Any]:
    """Seconds of a call in evaluation mode, median. `kind`: eager (NCHW as it is), folded
    (channels_last, batch norm folded into the convolutions), compiled (folded, torch.compile).
    """
    keep_freed_memory()
    cfg = config(*overrides)
    network = instantiate(cfg.model, _convert_="all").eval()
    size = cfg.data.image_size
    x = torch.randn(batch_size, 1, size, size)
    if kind != "eager":
        network = fold(network).to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    start = time.perf_counter()
    if kind == "compiled":
        network.compile()
    with torch.inference_mode():
        network(x)
        compile_seconds = time.perf_counter() - start if kind == "compiled" else None
        seconds = sorted(timed(lambda: network(x), warmup=warmup, steps=steps))
    return {
        "median_seconds": seconds[len(seconds) // 2],
        "images_per_second": batch_size / seconds[len(seconds) // 2],
        "compile_seconds": compile_seconds,
    }


def fold(network: nn.Module) -> nn.Module:
    """`network`, in evaluation mode, its batch norms folded into the convolutions before them."""
    for module in network.modules():
        conv, norm = (dict(module.named_children()).get(name) for name in ("conv", "norm"))
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            module.conv, module.norm = torch.nn.utils.fuse_conv_bn_eval(conv, norm), nn.Identity()
    return network


def growth(*, overrides: list[str], warmup: int, steps: int) -> dict[str, Any]:
    """A bare training step of one size, and what it costs."""
    keep_freed_memory()
    cfg = config(*overrides)
    network = instantiate(cfg.model, _convert_="all").to(memory_format=torch.channels_last)
    size, batch_size = cfg.data.image_size, cfg.data.batch_size
    costs = complexity.measure(network, in_channels=1, image_size=size)
    x = torch.randn(batch_size, 1, size, size).contiguous(memory_format=torch.channels_last)
    y = torch.randint(10, (batch_size,))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()

    measured = rate(batch_size, timed(step, warmup=warmup, steps=steps))
    # Forward, and twice that backward: to the input and to the weights. Two operations each.
    operations = 6 * costs.multiply_adds * measured["images_per_second"]
    return measured | {"multiply_adds": costs.multiply_adds, "gflops": operations / 1e9}
