"""Measure a run's checkpoint: `python -m mnv2_lightning.evaluate run_dir=PATH`."""

import logging
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mnv2_lightning.cli import from_python
from mnv2_lightning.cli.command import Command, Job, announce_imports
from mnv2_lightning.runs import folder, stored_config
from mnv2_lightning.schema.errors import ConfigError

log = logging.getLogger(__name__)


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Accuracy, loss, and precision, recall and F1 of each class on `cfg.split`.

    Writes them as JSON, the confusion matrix as CSV and PNG, and the most confidently wrong images
    as PNG into `run_dir`/evaluation/; the rest of the run stays as it was. Of a LightningModule
    whose step does not return logits, (B, num_classes), only what it logs is known. ConfigError,
    DataError.
    """
    from mnv2_lightning import build
    from mnv2_lightning.callbacks.predictions import Predictions
    from mnv2_lightning.callbacks.process_guard import ProcessGuard
    from mnv2_lightning.classifier import Classifier
    from mnv2_lightning.reports import figures, tables
    from mnv2_lightning.runs import checkpoints, config
    from mnv2_lightning.system import durable_files, warning_filters

    cfg = from_python.checked(COMMAND, cfg)
    warning_filters.install()
    run = folder.require_run("run_dir", cfg.run_dir)
    run_cfg = stored_config.config_to_evaluate(run, cfg.trust)
    run_cfg.data.dir = cfg.data.dir or run_cfg.data.dir
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

    images, classes = datamodule.images(cfg.split), datamodule.classes
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
        "images": len(images),
        "accuracy": metrics.get(f"{cfg.split}/accuracy"),
        "loss": metrics.get(f"{cfg.split}/loss"),
        "classes": [],
    }
    written = [f"{name}.json"]
    if (predicted := predictions.predicted) is not None:
        labels, probabilities = predicted.labels, predicted.probabilities
        matrix = figures.confusion_matrix(labels, probabilities)
        result["classes"] = tables.per_class(matrix, classes)
        written += [f"{name}-confusion.csv", f"{name}-confusion.png", f"{name}-wrong.png"]
        durable_files.write_text(out / written[1], tables.matrix_csv(matrix, classes))
        figures.draw_confusion(matrix, classes).savefig(out / written[2])
        wrong = figures.draw_wrong(images, labels, probabilities, classes, count=32)
        wrong.savefig(out / written[3])
    durable_files.write_json(out / written[0], result)
    log.info("%s", tables.evaluation(result))
    log.info("written to %s: %s", out, ", ".join(written))
    return result


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
    if cfg.split == "val" and not run_config["data"]["val_size"]:
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
