"""What a run's inverted residuals do to information: `python -m mnv2_lightning.activations`."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2_lightning.cli.command import Command, Job, announce_imports
from mnv2_lightning.runs import folder, stored_config
from mnv2_lightning.schema.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from omegaconf import DictConfig
    from torch import Tensor, nn

    from mnv2_lightning.trained import TrainedNetwork

log = logging.getLogger(__name__)

BATCH = 500  # images
SHOWN = 4  # batches whose features are drawn


def activations(cfg: DictConfig) -> dict[str, Any]:
    """Figure 7 of arXiv 1801.04381 for a run, and what a ReLU6 in each bottleneck would do.

    Over all test images: the share of positive channels before the ReLU6 of each expansion, with
    the initial weights (and batch statistics) and with the trained ones; and of each block's
    output, what a ReLU6 would change, and the accuracy with it. Writes activations.json and
    activations.png into `cfg.out`. ConfigError, DataError.
    """
    import torch

    from mnv2_lightning import trained
    from mnv2_lightning.cli import from_python
    from mnv2_lightning.data import idx_files
    from mnv2_lightning.networks import bottlenecks
    from mnv2_lightning.reports import activation_figures, tables
    from mnv2_lightning.system import durable_files

    cfg = from_python.checked(COMMAND, cfg)
    net = trained.load(cfg.run_dir, checkpoint=cfg.checkpoint, fold=False, trust=cfg.trust)
    network, data = net.network, net.config["data"]
    names = list(bottlenecks.blocks(network))
    if not names:
        raise ConfigError(f"run_dir={cfg.run_dir}: its network has no inverted residuals")
    arrays = idx_files.load(data["dataset"], cfg.data.dir or data["dir"], len(net.classes))
    batches = _batches(net, arrays["t10k-images"], arrays["t10k-labels"])
    inputs = [x for x, _ in batches]
    log.info("positive channels, with the initial and the trained weights ...")
    initial = initial_network(net)
    shares = {
        "initial": bottlenecks.positive_shares(initial, inputs),
        "trained": bottlenecks.positive_shares(network, inputs),
    }
    log.info("a ReLU6 in each of %d bottlenecks ...", len(names))
    clean, found = bottlenecks.accuracy(network, batches), []
    for name in names:
        found.append(bottlenecks.measure_bottleneck(network, name, batches))
        log.info("  %s: %.2f %%", name, 100 * found[-1].accuracy)
    with bottlenecks.relu6_after([b.project for b in bottlenecks.blocks(network).values()]):
        with_all = bottlenecks.accuracy(network, batches)
    worst = min(found, key=lambda bottleneck: bottleneck.accuracy)
    project = bottlenecks.blocks(network)[worst.block].project
    with bottlenecks.outputs_of(project) as outputs, torch.no_grad():
        for x in inputs[:SHOWN]:
            network(x)
    features = torch.cat(outputs).flatten(1)
    result = {
        "run": Path(cfg.run_dir).resolve().name,
        "checkpoint": net.checkpoint.stem,
        "images": len(arrays["t10k-labels"]),
        "positive": {name: [asdict(share) for share in of] for name, of in shares.items()},
        "accuracy": clean,
        "bottlenecks": [asdict(bottleneck) for bottleneck in found],
        "accuracy_with_all": with_all,
    }
    out = Path(cfg.out)
    durable_files.make_folder(out)
    durable_files.write_json(out / "activations.json", result)
    labels = arrays["t10k-labels"][: len(features)]
    figure = activation_figures.draw(result, worst.block, features.numpy(), labels, net.classes)
    figure.savefig(out / "activations.png")
    log.info("%s", tables.activations(result))
    log.info("written: %s, activations.json", out / "activations.png")
    return result


def _batches(
    net: TrainedNetwork, images: np.ndarray, labels: np.ndarray
) -> list[tuple[Tensor, Tensor]]:
    """Inputs of the network and labels."""
    import torch

    assert net.input_transform is not None  # see `check_job`
    x = net.input_transform(torch.tensor(images)[:, None].float() / 255)
    return list(zip(x.split(BATCH), torch.tensor(labels).long().split(BATCH), strict=True))


def initial_network(net: TrainedNetwork) -> nn.Module:
    """The network before training: the run's initial weights, batch norms with batch statistics."""
    import torch
    from omegaconf import OmegaConf

    from mnv2_lightning import build

    torch.manual_seed(net.config["seed"])
    return build.build_network(OmegaConf.create(net.config)).train().requires_grad_(False)


def check_job(job: Job) -> None:
    """Check what needs the disk or torch. ConfigError."""
    from mnv2_lightning.data import idx_files
    from mnv2_lightning.runs import config
    from mnv2_lightning.schema.check import has_idx_files
    from mnv2_lightning.schema.targets import check_targets

    cfg = job.cfg
    run = folder.require_run("run_dir", cfg.run_dir)
    folder.require_checkpoint("run_dir", run, cfg.checkpoint)
    run_config = config.plain(stored_config.config_to_evaluate(run, cfg.trust))
    if not has_idx_files(run_config["data"]):
        target = run_config["data"]["_target_"]
        raise ConfigError(f"run_dir={run}: was trained on data of {target}, not MNISTDataModule")
    idx_files.require_folder(cfg.data.dir)
    announce_imports("torch")
    check_targets({"model": run_config["model"]})


COMMAND = Command("activations", activations, check_job=check_job)
main = COMMAND.main

if __name__ == "__main__":
    main()
