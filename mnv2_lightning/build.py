"""Builds the objects that a config describes."""

import inspect
from typing import Any

import lightning.pytorch as L
import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from omegaconf import DictConfig
from torch import Tensor, nn

from mnv2_lightning.callbacks.exact_resume import ExactResume
from mnv2_lightning.callbacks.process_guard import ProcessGuard
from mnv2_lightning.data.datamodule import MNISTDataModule
from mnv2_lightning.runs.checkpoint_io import DurableCheckpointIO
from mnv2_lightning.runs.config import COMMAND_KEYS, plain
from mnv2_lightning.schema.check import BATCH_NORM
from mnv2_lightning.schema.errors import ConfigError, one_line
from mnv2_lightning.schema.models import BY_TARGET
from mnv2_lightning.system.hydra_compat import instantiate

# Sizes of images, in px, of which one may fit a network that the configured size does not fit.
IMAGE_SIZES = (16, 24, 28, 32, 48, 64, 96, 128, 160, 192, 224, 256, 299, 384, 512)


def build_network(cfg: DictConfig) -> nn.Module:
    return instantiate(cfg.model, _convert_="all")


def check_network(cfg: DictConfig) -> str | None:
    """Train the network without weights or data. Return why one image is too small a batch; None:
    it is not. ConfigError: the network cannot be built, fails on two images too, or does not return
    (B, classes).
    """
    try:
        with torch.device("meta"):
            network = build_network(cfg).train()
    except InstantiationException as error:
        message = one_line(error.__cause__ or error)
        is_of_a_key = message.partition("=")[0] in cfg.model  # "strides=[1, 2]: ..."
        raise ConfigError(f"model{'.' if is_of_a_key else ': '}{message}") from error
    size = cfg.data.image_size
    # A LightningModule of the user's own may take other outputs.
    classes = len(cfg.data.classes) if cfg.classifier._target_ in BY_TARGET else None
    if (of_one := _failure(network, (1, 1, size, size), classes)) is None:
        return None
    if (of_two := _failure(network, (2, 1, size, size), classes)) is None:
        return of_one
    if _failure(network, (2, 3, size, size), classes) is None:
        raise ConfigError(f"model: {type(network).__name__} takes images of 3 channels, not of 1")
    for other in sorted(IMAGE_SIZES, key=lambda other: abs(other - size)):
        if _failure(network, (2, 1, other, other), classes) is None:
            fits = f"data.image_size={other} would fit"
            raise ConfigError(f"data.image_size={size}: {of_two}; {fits}")
    raise ConfigError(f"model: {of_two}")


def _failure(network: nn.Module, shape: tuple[int, ...], classes: int | None) -> str | None:
    """Why `network`, which is on the meta device, cannot train on a batch of images; None: it can.

    `shape`: (B, C, H, W) of the images. `classes`: None for any output.
    """
    name, expected = type(network).__name__, (shape[0], classes)
    try:
        with torch.device("meta"):
            logits = network(torch.empty(shape))
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:  # wrong shapes
        if "more than 1 value per channel" in str(error):
            return BATCH_NORM
        return f"{name}: {one_line(error).rstrip('.')}"
    returned = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if classes is None or returned == expected:
        return None
    return f"{name} returns {returned} for a batch of {shape[0]}, not {expected}"


def build_datamodule(cfg: DictConfig) -> MNISTDataModule:
    return instantiate(cfg.data, _convert_="all")


def build_classifier(cfg: DictConfig, network: nn.Module) -> Any:
    """The Classifier, or a LightningModule of the user's own.

    Its hyper-parameters are plain data, so that checkpoints load with `weights_only=True`.
    ConfigError: the class has saved others.
    """
    given = {
        "network": network,
        "optimizer": instantiate(cfg.optimizer, _convert_="all"),
        "scheduler": instantiate(cfg.scheduler, _convert_="all"),
        "num_classes": len(cfg.data.classes),
    }
    target = get_object(cfg.classifier._target_)
    parameters = inspect.signature(target).parameters  # a user's own may take fewer
    classifier = instantiate(
        cfg.classifier,
        _convert_="all",
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
    classifier.example_input_array = torch.zeros(1, 1, cfg.data.image_size, cfg.data.image_size)
    return classifier


def build_callbacks(cfg: DictConfig) -> list[Callback]:
    """ExactResume and the callbacks of the config.

    Without progress bars or checkpoints if the Trainer disables them, and without a checkpoint of
    the best epoch if there is no validation.
    """
    trainer = cfg.trainer
    built: list[Callback] = [ExactResume(seed=cfg.seed), ProcessGuard()]
    validates = cfg.data.val_size > 0 and trainer.limit_val_batches != 0
    for node in cfg.callbacks.values():
        if node is None:
            continue
        callback = instantiate(node, _convert_="all")
        if isinstance(callback, ProgressBar) and not trainer.enable_progress_bar:
            continue
        if isinstance(callback, ModelCheckpoint):
            if not trainer.enable_checkpointing:
                continue
            if not validates and str(callback.monitor).startswith("val/"):
                continue
        built.append(callback)
    return built


def build_loggers(cfg: DictConfig, purge_step: int | None) -> list[Logger]:
    """`purge_step`: the step from which a run resumes; None for a new run."""
    built = []
    for node in cfg.logger.values():
        if node is None:
            continue
        resumed = {"purge_step": purge_step} if "purge_step" in node else {}
        built.append(instantiate(node, _convert_="all", **resumed))
    return built


def build_trainer(
    cfg: DictConfig, callbacks: list[Callback], loggers: list[Logger], **overrides: Any
) -> L.Trainer:
    """ConfigError: the Trainer refuses its arguments, or its strategy is neither DDP nor a single
    device.
    """
    try:
        trainer: L.Trainer = instantiate(
            cfg.trainer,
            callbacks=callbacks,
            logger=loggers or False,
            default_root_dir=cfg.run_dir,
            _convert_="all",
            **overrides,
        )
    except InstantiationException as error:
        raise ConfigError(f"trainer: {' '.join(str(error.__cause__ or error).split())}") from error
    # Private: the handler of SIGTERM broadcasts, a deadlock (Lightning-AI/pytorch-lightning#20825).
    trainer._signal_connector._sigterm_notifier_fn = lambda *_: None  # type: ignore[method-assign]
    if type(trainer.strategy) not in (SingleDeviceStrategy, DDPStrategy):  # auto may choose XLA's
        raise ConfigError(
            f"trainer.strategy={cfg.trainer.strategy}: {type(trainer.strategy).__name__} is not "
            "supported; take ddp or single_device"
        )
    trainer.strategy.checkpoint_io = DurableCheckpointIO()
    return trainer
