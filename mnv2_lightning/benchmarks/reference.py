"""The sides to compare with: the tutorial's training loop, a bare loop, a plain small CNN."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from mnv2_lightning.benchmarks.ours import build_network, config, training_batches
from mnv2_lightning.benchmarks.timing import throughput, timed
from mnv2_lightning.data import idx_files
from mnv2_lightning.data.sets import DATA_SETS
from mnv2_lightning.networks.small_maps import BatchNorm2d, DepthwiseConv2d, PointwiseConv2d
from mnv2_lightning.system.memory import keep_freed_memory, peak_rss_bytes


class PlainCNN(nn.Sequential):
    """(B, 1, 28, 28) -> (B, 10): two convolutions and two linear layers, 215,194 parameters.

    It is the network of the public train_mnist_fast recipes.
    """

    def __init__(self) -> None:
        super().__init__(
            *[nn.Conv2d(1, 24, 5), nn.MaxPool2d(2), nn.ReLU()],
            *[nn.Conv2d(24, 32, 3), nn.MaxPool2d(2), nn.ReLU()],
            *[nn.Flatten(), nn.Linear(800, 256), nn.ReLU(), nn.Linear(256, 10)],
        )


def tutorial_network() -> nn.Module:
    """The tutorial's network, made of PyTorch's own layers."""
    network = build_network(config("experiment=tutorial"))
    for module in network.modules():
        if isinstance(module, BatchNorm2d | DepthwiseConv2d | PointwiseConv2d):
            module.__class__ = type(module).__base__  # type: ignore[assignment]
    return network


def tutorial_loader(data_dir: str | None, *, image_size: int, batch_size: int) -> DataLoader[Any]:
    """torchvision's MNIST, image by image, with the tutorial's transforms."""
    steps = [
        transforms.ToTensor(),
        transforms.Normalize((0.1307,), (0.3081,)),
        transforms.Resize((image_size, image_size), antialias=True),
    ]
    arrays = idx_files.load("mnist", data_dir)
    with tempfile.TemporaryDirectory() as folder:  # torchvision reads it into memory at once
        raw = Path(folder) / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for file in DATA_SETS["mnist"].files:
            array = arrays[file.name.split("-idx")[0]]
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            (raw / file.name).write_bytes(header + array.tobytes())
        dataset = datasets.MNIST(folder, transform=transforms.Compose(steps))
    return DataLoader(dataset, batch_size=batch_size, shuffle=True)


def tutorial_loop(
    *, data_dir: str | None, image_size: int, batch_size: int, warmup: int, steps: int
) -> dict[str, Any]:
    """The tutorial's loop: NCHW, fp32, a running loss that is read at every step."""
    batches = iter(tutorial_loader(data_dir, image_size=image_size, batch_size=batch_size))
    network = tutorial_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.5)
    running_loss = 0.0

    def step() -> None:
        nonlocal running_loss
        images, labels = next(batches)
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()

    return throughput(batch_size, timed(step, warmup=warmup, steps=steps))


def tutorial_input_pipeline(
    *, data_dir: str | None, image_size: int, batch_size: int, warmup: int, steps: int
) -> dict[str, Any]:
    batches = iter(tutorial_loader(data_dir, image_size=image_size, batch_size=batch_size))
    return throughput(batch_size, timed(lambda: next(batches), warmup=warmup, steps=steps))


def bare_loop(*, overrides: list[str], warmup: int, steps: int) -> dict[str, Any]:
    """A plain PyTorch loop with our network, batches, optimizer and EMA, without Lightning.

    `overrides` must include callbacks.ema.
    """
    from mnv2_lightning import build

    keep_freed_memory()
    cfg = config(*overrides)
    torch.manual_seed(cfg.seed)
    classifier = build.build_classifier(cfg, build.build_network(cfg))
    optimizer = classifier.build_optimizer()
    average_by = get_ema_multi_avg_fn(cfg.callbacks.ema.decay)
    average = AveragedModel(classifier.network, use_buffers=True, multi_avg_fn=average_by)
    batches = training_batches(cfg)

    def step() -> None:
        x, labels = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(classifier(x), labels).backward()
        optimizer.step()
        average.update_parameters(classifier.network)

    return throughput(cfg.data.batch_size, timed(step, warmup=warmup, steps=steps))


def plain_cnn(*, data_dir: str | None, epochs: int, seed: int, images: int) -> dict[str, Any]:
    """Train the plain CNN and test it once, at the end.

    Adam with learning rate 1e-2 and betas (0.7, 0.99), a one-cycle schedule, batches of 256 of the
    first `images`, not shuffled.
    """
    keep_freed_memory()  # as ours has
    torch.manual_seed(seed)
    arrays = {name: torch.tensor(a) for name, a in idx_files.load("mnist", data_dir).items()}

    def prepare(pixels: Tensor) -> Tensor:
        return (pixels[:, None].float() / 255 - 0.1307) / 0.3081

    x, y = arrays["train-images"][:images], arrays["train-labels"][:images].long()
    batches = list(zip(x.split(256), y.split(256), strict=True))
    network = PlainCNN()
    start = time.perf_counter()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2, betas=(0.7, 0.99))
    total = epochs * len(batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total, cycle_momentum=False)
    for _ in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(network(prepare(x)), y).backward()
            optimizer.step()
            schedule.step()
    seconds = time.perf_counter() - start
    network.eval()
    with torch.inference_mode():
        predicted = [network(prepare(x)).argmax(1) for x in arrays["t10k-images"].split(1000)]
    accuracy = (torch.cat(predicted) == arrays["t10k-labels"].long()).double().mean()
    return {
        "test_accuracy": float(accuracy),
        "train_seconds": seconds,
        "images_per_second": epochs * images / seconds,
        "peak_rss_bytes": peak_rss_bytes(),
        "parameters": sum(p.numel() for p in network.parameters()),
    }
