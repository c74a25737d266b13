"""Measure a run's checkpoint: `python -m mnv2_lightning.evaluate run_dir=PATH`."""

from __future__ import annotations

import logging
import zlib
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from mnv2_lightning.cli.command import Command, Job, announce_imports
from mnv2_lightning.data.sets import SIDE
from mnv2_lightning.runs import folder, stored_config
from mnv2_lightning.schema.check import has_idx_files
from mnv2_lightning.schema.errors import ConfigError

if TYPE_CHECKING:
    import lightning.pytorch as L
    import numpy as np
    from omegaconf import DictConfig
    from torch import Tensor

    from mnv2_lightning.callbacks.predictions import Predicted, Predictions

log = logging.getLogger(__name__)


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Accuracy, loss, and precision, recall and F1 of each class on `cfg.split`.

    Writes them as JSON, the confusion matrix as CSV and PNG, and the most confidently wrong images
    as PNG into `run_dir`/evaluation/; the rest of the run stays as it was. `cfg.corruptions` adds
    the accuracy on corrupted images. Of a sweep, all runs that have a checkpoint are evaluated, and
    the result is {"runs": [...]}. Of a LightningModule whose step does not return logits, (B,
    num_classes), only what it logs is known; the images need a data module with `images(split)`, as
    MNISTDataModule has. ConfigError, DataError.
    """
    from mnv2_lightning.cli import from_python
    from mnv2_lightning.system import warning_filters

    cfg = from_python.checked(COMMAND, cfg)
    warning_filters.install()
    runs, corrupted = _runs(cfg), _CorruptedImages(cfg)
    results = [_evaluate_run(cfg, run, corrupted) for run in runs]
    return results[0] if runs == [Path(cfg.run_dir)] else {"runs": results}


def _runs(cfg: DictConfig) -> list[Path]:
    """`cfg.run_dir`, or the runs with checkpoints of the sweep that is there. ConfigError."""
    from mnv2_lightning.reports import collect

    place = Path(cfg.run_dir)
    runs = [run for run in collect.runs(place) if any((run / "checkpoints").glob("*.ckpt"))]
    if (place / "config.yaml").is_file() or not runs:
        return [folder.require_run("run_dir", cfg.run_dir)]
    return [folder.require_run("run_dir", str(run)) for run in runs]


@dataclass(frozen=True)
class _Loaded:
    """A run's network and what measures it."""

    config: DictConfig
    checkpoint: Path
    classifier: Any
    datamodule: Any
    trainer: L.Trainer
    predictions: Predictions


def _load(cfg: DictConfig, run: Path) -> _Loaded:
    """ConfigError."""
    from omegaconf import OmegaConf

    from mnv2_lightning import build
    from mnv2_lightning.callbacks.predictions import Predictions
    from mnv2_lightning.callbacks.process_guard import ProcessGuard
    from mnv2_lightning.runs import checkpoints

    run_cfg = _run_config(cfg, run)
    if cfg.test_time_augmentation is not None:
        views = cfg.test_time_augmentation
        OmegaConf.update(run_cfg, "classifier.test_time_augmentation", views, merge=False)
    predictions = Predictions()
    try:
        datamodule = build.build_datamodule(run_cfg)
        classifier = build.build_classifier(run_cfg, build.build_network(run_cfg))
        # One device, so that every image is counted once.
        trainer = build.build_trainer(
            run_cfg,
            [predictions, ProcessGuard()],
            [],
            accelerator=cfg.accelerator,
            strategy="auto",
            devices=1,
            num_nodes=1,
            profiler=None,
            fast_dev_run=False,
            limit_test_batches=None,
            limit_val_batches=None,
        )
    except ConfigError as error:
        raise ConfigError(f"{run / 'config.yaml'}: {error}") from error
    path = folder.require_checkpoint("run_dir", run, cfg.checkpoint)
    checkpoints.load_weights(classifier, path)
    return _Loaded(run_cfg, path, classifier, datamodule, trainer, predictions)


def _run_config(cfg: DictConfig, run: Path) -> DictConfig:
    """The run's config with the images of `cfg.data`. ConfigError: they have other classes."""
    run_cfg = stored_config.config_to_evaluate(run, cfg.trust)
    data = cfg.data
    if "_target_" not in data:
        if data.dir is not None:
            run_cfg.data.dir = data.dir
        return run_cfg
    if list(data.classes) != list(run_cfg.data.classes):
        classes = [", ".join(found.classes) for found in (data, run_cfg.data)]
        raise ConfigError(f"data: its classes are {classes[0]}, those of {run}: {classes[1]}")
    if has_idx_files(data) and has_idx_files(run_cfg.data):  # prepared as in the run
        run_cfg.data.dataset, run_cfg.data.dir = data.dataset, data.dir
        run_cfg.data.train_size = None
    else:
        run_cfg.data = data
    return run_cfg


def _evaluate_run(cfg: DictConfig, run: Path, corrupted: _CorruptedImages) -> dict[str, Any]:
    from mnv2_lightning.classifier import Classifier
    from mnv2_lightning.reports import figures, tables
    from mnv2_lightning.runs import config
    from mnv2_lightning.system import durable_files

    loaded = _load(cfg, run)
    trainer, datamodule, predictions = loaded.trainer, loaded.datamodule, loaded.predictions
    measure = trainer.test if cfg.split == "test" else trainer.validate
    (metrics,) = measure(loaded.classifier, datamodule=datamodule, verbose=False)

    images = datamodule.images(cfg.split) if hasattr(datamodule, "images") else None
    counted = images if predictions.predicted is None else predictions.predicted.labels
    classes = list(loaded.config.data.classes)
    ranges = config.plain(loaded.config)["classifier"].get("test_time_augmentation") or {}
    names = [f"{key}-{value:g}" for key, value in sorted(ranges.items()) if value]
    dataset = loaded.config.data.get("dataset")
    other = [] if "_target_" not in cfg.data else [str(dataset or "data")]
    out = run / "evaluation"
    name = "-".join([loaded.checkpoint.stem, *other, cfg.split, *names])
    result: dict[str, Any] = {
        "run": run.name,
        "checkpoint": loaded.checkpoint.stem,
        "precision": trainer.precision,
        "dataset": dataset,
        "split": cfg.split,
        "views": len(loaded.classifier.views) if isinstance(loaded.classifier, Classifier) else 1,
        "test_time_augmentation": ranges,
        "images": None if counted is None else len(counted),
        "accuracy": metrics.get(f"{cfg.split}/accuracy"),
        "loss": metrics.get(f"{cfg.split}/loss"),
        "classes": [],
    }
    written = [f"{name}.json"]
    if (predicted := predictions.predicted) is not None:
        matrix = figures.confusion_matrix(predicted.labels, predicted.probabilities)
        result["classes"] = tables.per_class(matrix, classes)
        written += _write_figures(out / name, matrix, predicted, classes, images)
    durable_files.write_json(out / written[0], result)
    log.info("%s", tables.evaluation(result))
    if cfg.corruptions is not None:
        head = ("run", "checkpoint", "precision", "dataset", "split", "images", "accuracy")
        result |= (of_corrupted := corrupted.result(loaded))
        written += [f"{name}-corruptions.json", f"{name}-corruptions.png"]
        durable_files.write_json(out / written[-2], {k: result[k] for k in head} | of_corrupted)
        examples = corrupted.examples(loaded)
        figures.draw_corruptions(result["corruptions"], examples).savefig(out / written[-1])
        log.info("%s", tables.corruptions(result))
    log.info("written to %s: %s", out, ", ".join(written))
    return result


class _CorruptedImages:
    """The accuracy of runs on images that are corrupted once for all runs."""

    def __init__(self, cfg: DictConfig) -> None:
        from mnv2_lightning.data.corruptions import CORRUPTIONS

        self.kinds = list(CORRUPTIONS) if cfg.corruptions == "all" else list(cfg.corruptions or [])
        self.split = cfg.split
        self.images: dict[tuple[str, int], Tensor] = {}  # by kind and checksum of the images
        self.baseline: dict[str, float] | None = None  # accuracy by kind
        if cfg.baseline is not None:
            self.baseline = self.accuracies(_load(cfg, Path(cfg.baseline)))

    def corrupted(self, kind: str, images: np.ndarray) -> Tensor:
        """(N, 28, 28) uint8."""
        import torch

        from mnv2_lightning.data.corruptions import corrupt

        key = kind, zlib.crc32(images.tobytes())
        if key not in self.images:
            self.images[key] = corrupt(torch.tensor(images), kind)
        return self.images[key]

    def accuracies(self, loaded: _Loaded) -> dict[str, float]:
        datamodule = loaded.datamodule
        datamodule.setup()
        images, found = datamodule.images(self.split), {}
        if self.kinds and images.shape[1:] != (SIDE, SIDE):
            size = " x ".join(map(str, images.shape[1:]))
            raise ConfigError(f"corruptions: are for images of 28 x 28 px, not of {size}")
        for kind in self.kinds:
            loader = datamodule.evaluation_loader(self.split, self.corrupted(kind, images))
            measure = loaded.trainer.test if self.split == "test" else loaded.trainer.validate
            (metrics,) = measure(loaded.classifier, dataloaders=loader, verbose=False)
            found[kind] = metrics[f"{self.split}/accuracy"]
        return found

    def result(self, loaded: _Loaded) -> dict[str, Any]:
        """`corruptions`: kind, accuracy, and the error divided by that of the baseline; the means.

        A quotient is None where the baseline makes no error, and is left out of the mean.
        """
        rows: list[dict[str, Any]] = []
        for kind, accuracy in self.accuracies(loaded).items():
            before = None if self.baseline is None else self.baseline[kind]
            relative = None if before in (None, 1.0) else (1 - accuracy) / (1 - before)
            row = {"kind": kind, "accuracy": accuracy, "baseline_accuracy": before}
            rows.append(row | {"relative_error": relative})
        quotients = [row["relative_error"] for row in rows if row["relative_error"] is not None]
        return {
            "corruptions": rows,
            "corrupted_accuracy": fmean(row["accuracy"] for row in rows),
            "relative_error": fmean(quotients) if quotients else None,
        }

    def examples(self, loaded: _Loaded) -> list[np.ndarray]:
        """An image of each kind, (28, 28) uint8."""
        images = loaded.datamodule.images(self.split)
        return [self.corrupted(kind, images)[0].numpy() for kind in self.kinds]


def _write_figures(
    path: Path,
    matrix: np.ndarray,
    predicted: Predicted,
    classes: list[str],
    images: np.ndarray | None,
) -> list[str]:
    """Write files whose names begin with `path`; return their names."""
    from mnv2_lightning.reports import figures, tables
    from mnv2_lightning.system import durable_files

    table, *drawn = (
        path.with_name(f"{path.name}-{end}")
        for end in ("confusion.csv", "confusion.png", "wrong.png")
    )
    durable_files.write_text(table, tables.matrix_csv(matrix, classes))
    shown = [figures.draw_confusion(matrix, classes)]
    if images is not None:
        labels, probabilities = predicted.labels, predicted.probabilities
        shown.append(figures.draw_wrong(images, labels, probabilities, classes, count=32))
    for figure, file in zip(shown, drawn, strict=False):
        figure.savefig(file)
    return [file.name for file in (table, *drawn[: len(shown)])]


def check_job(job: Job) -> None:
    """Check what needs the disk or torch. ConfigError."""
    from mnv2_lightning.data import idx_files
    from mnv2_lightning.system import accelerators

    cfg = job.cfg
    if cfg.baseline is not None and cfg.corruptions is None:
        raise ConfigError("baseline: is for corruptions=all, or some kinds such as [fog]")
    runs = _runs(cfg) + (
        [] if cfg.baseline is None else [folder.require_run("baseline", cfg.baseline)]
    )
    for run in runs:
        _check_run(cfg, run)
    idx_files.require_folder(cfg.data.dir if "dir" in cfg.data else None)
    announce_imports()
    accelerators.check_accelerator("accelerator", cfg.accelerator)


def _check_run(cfg: DictConfig, run: Path) -> None:
    from mnv2_lightning.runs import config
    from mnv2_lightning.schema.targets import check_targets

    folder.require_checkpoint("run_dir", run, cfg.checkpoint)
    run_config = config.plain(_run_config(cfg, run))
    data, target = run_config["data"], run_config["classifier"]["_target_"]
    if cfg.test_time_augmentation is not None and not target.startswith("mnv2_lightning."):
        raise ConfigError(f"test_time_augmentation: {target} has no such option")
    if cfg.corruptions is not None and not has_idx_files(data):
        raise ConfigError(f"corruptions: are for images of 28 x 28 px, not of {data['_target_']}")
    if "_target_" not in cfg.data and cfg.data.dir is not None and "dir" not in data:
        raise ConfigError(f"data.dir: {data['_target_']} has no such option")
    if cfg.split == "val" and data.get("val_size") == 0:
        raise ConfigError("split=val: the run held out no images (data.val_size=0)")
    config.require_inside(run_config)
    check_targets(run_config)


COMMAND = Command("evaluate", evaluate, check_job=check_job)
main = COMMAND.main

if __name__ == "__main__":
    main()
