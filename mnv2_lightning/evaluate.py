"""Measure a run's checkpoint: `python -m mnv2_lightning.evaluate run_dir=PATH`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from mnv2_lightning.cli.command import Command, Job, announce_imports
from mnv2_lightning.runs import folder, stored_config
from mnv2_lightning.schema.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from omegaconf import DictConfig

    from mnv2_lightning.callbacks.predictions import Predicted

log = logging.getLogger(__name__)


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Accuracy, loss, and precision, recall and F1 of each class on `cfg.split`.

    Writes them as JSON, the confusion matrix as CSV and PNG, and the most confidently wrong images
    as PNG into `run_dir`/evaluation/; the rest of the run stays as it was. Of a LightningModule
    whose step does not return logits, (B, num_classes), only what it logs is known; the images need
    a data module with `images(split)`, as MNISTDataModule has. ConfigError, DataError.
    """
    from omegaconf import OmegaConf

    from mnv2_lightning import build
    from mnv2_lightning.callbacks.predictions import Predictions
    from mnv2_lightning.callbacks.process_guard import ProcessGuard
    from mnv2_lightning.classifier import Classifier
    from mnv2_lightning.cli import from_python
    from mnv2_lightning.reports import figures, tables
    from mnv2_lightning.runs import checkpoints, config
    from mnv2_lightning.system import durable_files, warning_filters

    cfg = from_python.checked(COMMAND, cfg)
    warning_filters.install()
    run = folder.require_run("run_dir", cfg.run_dir)
    run_cfg = stored_config.config_to_evaluate(run, cfg.trust)
    if cfg.data.dir is not None:
        run_cfg.data.dir = cfg.data.dir
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
    measure = trainer.test if cfg.split == "test" else trainer.validate
    (metrics,) = measure(classifier, datamodule=datamodule, verbose=False)

    images = datamodule.images(cfg.split) if hasattr(datamodule, "images") else None
    counted = images if predictions.predicted is None else predictions.predicted.labels
    classes = list(run_cfg.data.classes)
    ranges = config.plain(run_cfg)["classifier"].get("test_time_augmentation") or {}
    names = [f"{key}-{value:g}" for key, value in sorted(ranges.items()) if value]
    out, name = run / "evaluation", "-".join([path.stem, cfg.split, *names])
    result: dict[str, Any] = {
        "run": run.name,
        "checkpoint": path.stem,
        "precision": trainer.precision,
        "split": cfg.split,
        "views": len(classifier.views) if isinstance(classifier, Classifier) else 1,
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
    log.info("written to %s: %s", out, ", ".join(written))
    return result


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
    from mnv2_lightning.runs import config
    from mnv2_lightning.schema.targets import check_targets

    cfg = job.cfg
    run = folder.require_run("run_dir", cfg.run_dir)
    folder.require_checkpoint("run_dir", run, cfg.checkpoint)
    run_config = config.plain(stored_config.config_to_evaluate(run, cfg.trust))
    target = run_config["classifier"]["_target_"]
    if cfg.test_time_augmentation is not None and not target.startswith("mnv2_lightning."):
        raise ConfigError(f"test_time_augmentation: {target} has no such option")
    if cfg.data.dir is not None and "dir" not in run_config["data"]:
        raise ConfigError(f"data.dir: {run_config['data']['_target_']} has no such option")
    if cfg.split == "val" and run_config["data"].get("val_size") == 0:
        raise ConfigError("split=val: the run held out no images (data.val_size=0)")
    idx_files.require_folder(cfg.data.dir)
    announce_imports()

    from mnv2_lightning.system import accelerators

    accelerators.check_accelerator("accelerator", cfg.accelerator)
    config.require_inside(run_config)
    check_targets(run_config)


COMMAND = Command("evaluate", evaluate, check_job=check_job)
main = COMMAND.main

if __name__ == "__main__":
    main()
