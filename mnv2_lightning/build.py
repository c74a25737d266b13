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
from torch import nn

from mnv2_lightning.callbacks.exact_resume import ExactResume
from mnv2_lightning.callbacks.process_guard import ProcessGuard
from mnv2_lightning.data.datamodule import MNISTDataModule
from mnv2_lightning.runs.checkpoint_io import DurableCheckpointIO
from mnv2_lightning.runs.config import COMMAND_KEYS, plain
from mnv2_lightning.schema.errors import ConfigError
from mnv2_lightning.system.hydra_compat import instantiate


def build_network(cfg: DictConfig) -> nn.Module:
    return instantiate(cfg.model, _convert_="all")


def check_network(cfg: DictConfig, batch_size: int) -> None:
    """Train the network on an empty batch, without weights or data. ConfigError: it fails."""
    size = cfg.data.image_size
    try:
        with torch.device("meta"):
            build_network(cfg).train()(torch.empty(batch_size, 1, size, size))
    except (InstantiationException, RuntimeError, ValueError) as error:
        raise ConfigError(f"model: {str(error.__cause__ or error).splitlines()[0]}") from error


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
