"""What a run's inverted residuals do to information: `python -m mnv2_lightning.activations`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
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

PIXELS = 400_000  # of a batch; 510 images of 28 px, 7 of 224 px
SHOWN = 2_000  # images whose features are drawn


def activations(cfg: DictConfig) -> dict[str, Any]:
    """Figure 7 of arXiv 1801.04381 for a run, and what a ReLU6 in each bottleneck would do.

    Over the test images, or the first `cfg.images` of them: the share of positive channels before
    the ReLU6 of each expansion, with the initial weights (and batch statistics) and the trained
    ones; what a ReLU6 would change in each block's output, and the accuracy with it. Writes
    activations.json and activations.png into `cfg.out`. ConfigError, DataError.
    """
    from mnv2_lightning import trained
    from mnv2_lightning.cli import from_python
    from mnv2_lightning.data import idx_files
    from mnv2_lightning.networks import bottlenecks
    from mnv2_lightning.reports import activation_figures, tables
    from mnv2_lightning.system import durable_files

    cfg = from_python.checked(COMMAND, cfg)
    net = trained.load(cfg.run_dir, checkpoint=cfg.checkpoint, fold=False, trust=cfg.trust)
    network, data = net.network, net.config["data"]
    if not (blocks := bottlenecks.blocks(network)):
        raise ConfigError(f"run_dir={cfg.run_dir}: its network has no inverted residuals")
    arrays = idx_files.load(data["dataset"], cfg.data.dir or data["dir"], len(net.classes))
    images, labels = (arrays[f"t10k-{kind}"][: cfg.images] for kind in ("images", "labels"))
    batches = _Batches(net, images, labels)
    log.info("positive channels, with the initial and the trained weights ...")
    shares = {
        "initial": bottlenecks.positive_shares(initial_network(net), batches.inputs()),
        "trained": bottlenecks.positive_shares(network, batches.inputs()),
    }
    log.info("a ReLU6 in each of %d bottlenecks ...", len(blocks))
    rows = []
    for loss in bottlenecks.losses(network, batches.inputs()):
        with bottlenecks.relu6_after([loss.block], network):
            rows.append(asdict(loss) | {"accuracy": bottlenecks.accuracy(network, batches)})
        log.info("  %s: %.2f %%", loss.block, 100 * rows[-1]["accuracy"])
    with bottlenecks.relu6_after(list(blocks), network):
        with_all = bottlenecks.accuracy(network, batches)
    result = {
        "run": Path(cfg.run_dir).resolve().name,
        "checkpoint": net.checkpoint.stem,
        "images": len(labels),
        "positive": {name: [asdict(share) for share in of] for name, of in shares.items()},
        "accuracy": bottlenecks.accuracy(network, batches),
        "bottlenecks": rows,
        "accuracy_with_all": with_all,
    }
    out = Path(cfg.out)
    durable_files.make_folder(out)
    durable_files.write_json(out / "activations.json", result)
    worst = min(rows, key=lambda row: row["accuracy"])["block"]
    shown = _Batches(net, images[:SHOWN], labels[:SHOWN])
    before, after = bottlenecks.features(network, worst, shown.inputs())
    activation_figures.draw(
        result, worst, before.numpy(), after.numpy(), labels[:SHOWN], net.classes
    ).savefig(out / "activations.png")
    log.info("%s", tables.activations(result))
    log.info("written: %s, activations.json", out / "activations.png")
    return result


@dataclass(frozen=True)
class _Batches:
    """Batches of inputs of the network and labels, made anew each time; all of a similar size."""

    net: TrainedNetwork
    images: np.ndarray
    labels: np.ndarray

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        import torch

        transform = self.net.input_transform
        assert transform is not None  # see `check_job`
        size = max(1, PIXELS // transform.image_size**2)
        parts = -(-len(self.labels) // size)
        images, labels = torch.tensor(self.images), torch.tensor(self.labels).long()
        for x, y in zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True):
            yield transform(x[:, None].float() / 255), y

    def inputs(self) -> Iterator[Tensor]:
        return (x for x, _ in self)


def initial_network(net: TrainedNetwork) -> nn.Module:
    """The network as the run began, in training mode: batch norms take the batch's statistics.

    ConfigError: it began with the weights of a file that is gone.
    """
    import torch
    from omegaconf import OmegaConf

    from mnv2_lightning import build
    from mnv2_lightning.runs import pretrained

    cfg = OmegaConf.create(net.config)
    torch.manual_seed(cfg.seed)
    network = build.build_network(cfg)
    pretrained.load(network, cfg)
    return network.train().requires_grad_(False)


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
