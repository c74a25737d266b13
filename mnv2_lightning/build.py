"""Builds the objects that a config describes."""

import inspect
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as L
import torch
from hydra.utils import get_object
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from mnv2_lightning.callbacks.exact_resume import ExactResume
from mnv2_lightning.callbacks.process_guard import ProcessGuard
from mnv2_lightning.instantiate import instantiate
from mnv2_lightning.runs.checkpoint_io import DurableCheckpointIO
from mnv2_lightning.runs.config import COMMAND_KEYS, plain
from mnv2_lightning.schema.check import BATCH_NORM
from mnv2_lightning.schema.errors import ConfigError, one_line
from mnv2_lightning.schema.models import BY_TARGET

# Sizes of images, in px, of which one may fit a network that the configured size does not fit.
IMAGE_SIZES = (16, 24, 28, 32, 48, 64, 96, 128, 160, 192, 224, 256)


def build_network(cfg: DictConfig) -> nn.Module:
    return instantiate(nn.Module, "model", cfg.model)


def check_parts(cfg: DictConfig) -> str | None:
    """Build the parts of a run, and train the network on empty images, without data.

    Return why one image is too small a batch; None: it is not. ConfigError: a part refuses its
    values, or the network fails on two images too or does not return (B, classes).
    """
    build_datamodule(cfg)
    build_callbacks(cfg)
    # Our networks compute nothing here; others may need real values.
    device = torch.device("meta" if cfg.model._target_ in BY_TARGET else "cpu")
    with device:
        network = build_network(cfg)
    needs_two = _check_network(cfg, network, device)
    with device:
        classifier = build_classifier(cfg, network)
    if not is_overridden("test_step", classifier):
        raise ConfigError(f"classifier: {type(classifier).__name__} has no test_step")
    return needs_two


def _check_network(cfg: DictConfig, network: nn.Module, device: torch.device) -> str | None:
    if any(map(is_lazy, network.parameters())):
        raise ConfigError("model: has lazy layers; give each its number of inputs")
    if cfg.classifier._target_ not in BY_TARGET:  # it may give the network other images
        return None
    form = torch.channels_last if cfg.classifier.channels_last else torch.contiguous_format
    network.train().to(memory_format=form)
    size, channels = cfg.data.image_size, channels_of(cfg)

    def failure(images: int, channels: int, size: int) -> str | None:
        x = torch.zeros(images, channels, size, size, device=device).to(memory_format=form)
        return _failure(network, x, len(cfg.data.classes))

    if (of_one := failure(1, channels, size)) is None:
        return None
    if (of_two := failure(2, channels, size)) is None:
        return of_one
    if "view size" in of_two:
        raise ConfigError(f"model: {of_two}; or set classifier.channels_last=false")
    other = 3 if channels == 1 else 1
    if failure(2, other, size) is None:
        takes = f"{type(network).__name__} takes images of {other} channel{'s' * (other > 1)}"
        raise ConfigError(f"model: {takes}, not of {channels}")
    for other in sorted(IMAGE_SIZES, key=lambda other: abs(other - size)):
        if failure(2, channels, other) is None:
            fits = f"data.image_size={other} would fit"
            raise ConfigError(f"data.image_size={size}: {of_two}; {fits}")
    raise ConfigError(f"model: {of_two}")


def _failure(network: nn.Module, x: Tensor, classes: int) -> str | None:
    """Why `network` cannot train on the batch `x`, (B, C, H, W); None: it can."""
    name, expected = type(network).__name__, (len(x), classes)
    try:
        with torch.device(x.device):
            logits = network(x)
    except Exception as error:  # of any type, from a network of the user's own
        if "more than 1 value per channel" in str(error):
            return BATCH_NORM
        return f"{name}: {one_line(error).rstrip('.')}"
    returned = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if returned == expected:
        return None
    return f"{name} returns {returned} for a batch of {len(x)}, not {expected}"


def build_datamodule(cfg: DictConfig) -> Any:
    """MNISTDataModule, or a LightningDataModule of the user's own."""
    return instantiate(L.LightningDataModule, "data", cfg.data)


def channels_of(cfg: DictConfig) -> int:
    """Number of channels of the images."""
    return cfg.data.get("channels", 1)


def build_classifier(cfg: DictConfig, network: nn.Module) -> Any:
    """The Classifier, or a LightningModule of the user's own.

    Its hyper-parameters are plain data, so that checkpoints load with `weights_only=True`.
    ConfigError: the class has saved others.
    """
    given = {
        "network": network,
        "optimizer": instantiate(object, "optimizer", cfg.optimizer),
        "scheduler": instantiate(object, "scheduler", cfg.scheduler),
        "num_classes": len(cfg.data.classes),
    }
    target = get_object(cfg.classifier._target_)
    parameters = inspect.signature(target).parameters  # a user's own may take fewer
    classifier = instantiate(
        L.LightningModule,
        "classifier",
        cfg.classifier,
        **{name: value for name, value in given.items() if name in parameters},
    )
    outside = (*COMMAND_KEYS, "overrides")
    config = {key: value for key, value in plain(cfg).items() if key not in outside}
    if own := classifier.hparams.keys() - config.keys():
        raise ConfigError(
            f"classifier: {target.__name__} saves {', '.join(sorted(own))} as hyper-parameters; "
            "leave save_hyperparameters() out, a run saves its whole config"
        )
    classifier.save_hyperparameters(config)
    if is_overridden("forward", classifier) and classifier.example_input_array is None:
        shape = 1, channels_of(cfg), cfg.data.image_size, cfg.data.image_size
        classifier.example_input_array = torch.zeros(shape, device="cpu")
    return classifier


def build_callbacks(cfg: DictConfig) -> list[Callback]:
    """ExactResume and the callbacks of the config.

    Without progress bars or checkpoints if the Trainer disables them, and without a checkpoint of
    the best epoch if there is no validation.
    """
    trainer = cfg.trainer
    built: list[Callback] = [ExactResume(seed=cfg.seed), ProcessGuard()]
    validates = cfg.data.get("val_size") != 0 and trainer.limit_val_batches != 0
    for name, node in cfg.callbacks.items():
        if node is None:
            continue
        callback = instantiate(Callback, f"callbacks.{name}", node)
        if isinstance(callback, ProgressBar) and not trainer.enable_progress_bar:
            continue
        if isinstance(callback, ModelCheckpoint):
            if not trainer.enable_checkpointing:
                continue
            if not validates and str(callback.monitor).startswith("val/"):
                continue
        built.append(callback)
    return built


def build_loggers(cfg: DictConfig, purge_step: int | None) -> Iterator[Logger]:
    """Build one at a time, as a logger may start a run elsewhere, which has to be ended.

    `purge_step`: the step from which a run resumes; None for a new run.
    """
    for name, node in cfg.logger.items():
        if node is None:
            continue
        resumed = {"purge_step": purge_step} if "purge_step" in node else {}
        yield instantiate(Logger, f"logger.{name}", node, **resumed)


def build_trainer(
    cfg: DictConfig, callbacks: list[Callback], loggers: list[Logger], **overrides: Any
) -> L.Trainer:
    """A Trainer that neither writes checkpoints nor draws a bar but by `callbacks`.

    ConfigError: it refuses its arguments, or its strategy is neither DDP nor a single device.
    """
    for key, kind in (("enable_checkpointing", Checkpoint), ("enable_progress_bar", ProgressBar)):
        # Where one is enabled and there is none, Lightning adds its own.
        has_one = any(isinstance(callback, kind) for callback in callbacks)
        overrides[key] = cfg.trainer[key] and has_one
    trainer: L.Trainer = instantiate(
        L.Trainer,
        "trainer",
        cfg.trainer,
        callbacks=callbacks,
        logger=loggers or False,
        default_root_dir=cfg.run_dir,
        **overrides,
    )
    # Private: the handler of SIGTERM broadcasts, a deadlock (Lightning-AI/pytorch-lightning#20825).
    trainer._signal_connector._sigterm_notifier_fn = lambda *_: None  # type: ignore[method-assign]
    if type(trainer.strategy) not in (SingleDeviceStrategy, DDPStrategy):  # auto may choose XLA's
        raise ConfigError(
            f"trainer.strategy={cfg.trainer.strategy}: {type(trainer.strategy).__name__} is not "
            "supported; take ddp or single_device"
        )
    trainer.strategy.checkpoint_io = DurableCheckpointIO()
    return trainer
