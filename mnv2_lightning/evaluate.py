"""Measure a run's checkpoint: `python -m mnv2_lightning.evaluate run_dir=PATH`."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2_lightning.cli.command import Command, Job, announce_imports
from mnv2_lightning.runs import folder, stored_config
from mnv2_lightning.runs.record import read_record
from mnv2_lightning.schema.check import has_idx_files
from mnv2_lightning.schema.errors import ConfigError

if TYPE_CHECKING:
    import lightning.pytorch as L
    import numpy as np
    from omegaconf import DictConfig

    from mnv2_lightning.callbacks.predictions import Predicted, Predictions

log = logging.getLogger(__name__)


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Accuracy, loss, and precision, recall and F1 of each class on `cfg.split`.

    Writes them as JSON, the confusion matrix as CSV and PNG, and the most confidently wrong images
    as PNG into `run_dir`/evaluation/, in a folder of their own for another data set; the rest of
    the run stays as it was. `cfg.corruptions` adds the accuracy on corrupted images. Of a sweep,
    the runs that have the checkpoint are evaluated, and the result is {"runs": [...]}. Of a
    LightningModule whose step does not return logits, (B, num_classes), only what it logs is known;
    the images need a data module with `images(split)`, as MNISTDataModule has. ConfigError,
    DataError.
    """
    from mnv2_lightning.cli import from_python
    from mnv2_lightning.reports import tables
    from mnv2_lightning.system import durable_files, warning_filters

    cfg = from_python.checked(COMMAND, cfg)
    warning_filters.install()
    runs, left_out = _runs(cfg)
    if left_out:
        log.warning("left out, as they have no checkpoint: %s", ", ".join(left_out))
    corruptions, results = _Corruptions(cfg), []
    for run in runs:
        if len(runs) > 1:
            log.info("%s", run)
        results.append(_evaluate_run(cfg, run, corruptions))
    if runs == [Path(cfg.run_dir)]:
        return results[0]
    log.info("%s", tables.evaluations(results))
    durable_files.write_json(Path(cfg.run_dir) / "evaluation" / "runs.json", {"runs": results})
    return {"runs": results}


def _runs(cfg: DictConfig) -> tuple[list[Path], list[str]]:
    """`cfg.run_dir`, or the runs of the sweep that is there, and the names of its other runs, which
    lack the checkpoint. ConfigError: all do.
    """
    from mnv2_lightning.reports import collect

    place = Path(cfg.run_dir)
    jobs = [] if (place / "config.yaml").is_file() else collect.runs(place)
    if not jobs:
        return [folder.require_run("run_dir", cfg.run_dir)], []
    folder.check_links(place)
    names = [cfg.checkpoint] if cfg.checkpoint else ["best", "last"]
    runs = [
        job
        for job in jobs
        if any((job / "checkpoints" / f"{name}.ckpt").is_file() for name in names)
    ]
    if not runs:
        raise ConfigError(f"run_dir={place}: no run has a checkpoint {' or '.join(names)}")
    left_out = [job.name for job in jobs if job not in runs]
    return [folder.require_run("run_dir", str(run)) for run in runs], left_out


@dataclass(frozen=True)
class _Loaded:
    """A run's network and what measures it."""

    config: DictConfig
    checkpoint: Path
    classifier: Any
    datamodule: Any
    trainer: L.Trainer
    predictions: Predictions

    def measure(self, split: str, **data: Any) -> dict[str, float]:
        """`data`: `datamodule` or `dataloaders`."""
        measure = self.trainer.test if split == "test" else self.trainer.validate
        (metrics,) = measure(self.classifier, verbose=False, **data)
        return dict(metrics)


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
    """The run's config with the images of `cfg.data`. ConfigError: they do not fit the run."""
    run_cfg = stored_config.config_to_evaluate(run, cfg.trust)
    data, before = cfg.data, run_cfg.data
    if "_target_" not in data:
        if data.dir is not None:
            if "dir" not in before:
                raise ConfigError(f"data.dir: {before._target_} has no such option")
            before.dir = data.dir
        return run_cfg
    if list(data.classes) != list(before.classes):
        classes = [", ".join(found.classes) for found in (data, before)]
        raise ConfigError(f"data: its classes are {classes[0]}, those of {run}: {classes[1]}")
    if has_idx_files(data) != has_idx_files(before):
        raise ConfigError(f"data: is of {data._target_}, that of {run} of {before._target_}")
    if not has_idx_files(data):
        run_cfg.data = data
        return run_cfg
    if data.dir is not None or data.dataset != before.dataset:
        before.dir = data.dir
    before.dataset, before.train_size = data.dataset, None
    return run_cfg


def _evaluate_run(cfg: DictConfig, run: Path, corruptions: _Corruptions) -> dict[str, Any]:
    from mnv2_lightning.classifier import Classifier
    from mnv2_lightning.reports import figures, tables
    from mnv2_lightning.runs import config
    from mnv2_lightning.system import durable_files

    loaded = _load(cfg, run)
    datamodule, predictions = loaded.datamodule, loaded.predictions
    metrics = loaded.measure(cfg.split, datamodule=datamodule)

    images = datamodule.images(cfg.split) if hasattr(datamodule, "images") else None
    counted = images if predictions.predicted is None else predictions.predicted.labels
    classes = list(loaded.config.data.classes)
    ranges = config.plain(loaded.config)["classifier"].get("test_time_augmentation") or {}
    names = [f"{key}-{value:g}" for key, value in sorted(ranges.items()) if value]
    dataset = loaded.config.data.get("dataset")
    out = run / "evaluation"
    if "_target_" in cfg.data:
        out /= folder.folder_name(dataset or loaded.config.data._target_)
    name = "-".join([loaded.checkpoint.stem, cfg.split, *names])
    result: dict[str, Any] = {
        "run": run.name,
        "checkpoint": loaded.checkpoint.stem,
        "epochs": read_record(run).get("epochs"),
        "precision": loaded.trainer.precision,
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
    if corruptions.kinds:
        name = f"{name}-corruptions{corruptions.suffix}"
        written += [f"{name}.json", f"{name}.png"]
        found = {key: value for key, value in result.items() if key not in ("loss", "classes")}
        found |= corruptions.measure(loaded)
        durable_files.write_json(out / f"{name}.json", found)
        examples = corruptions.robustness.examples(datamodule)
        figures.draw_corruptions(found["corruptions"], examples).savefig(out / f"{name}.png")
        log.info("%s", tables.corruptions(found))
        result |= found
    log.info("written to %s: %s", out, ", ".join(written))
    return result


class _Corruptions:
    """What `cfg.corruptions` and `cfg.baseline` ask for. `suffix`: of file names."""

    def __init__(self, cfg: DictConfig) -> None:
        from mnv2_lightning.robustness import Robustness

        self.kinds = _kinds(cfg)
        self.suffix = "" if cfg.corruptions == "all" else "".join(f"-{kind}" for kind in self.kinds)
        self.robustness = Robustness(self.kinds, cfg.split)
        self.baseline: dict[str, float] | None = None  # accuracy by kind
        self.baseline_name: str | None = None
        if cfg.baseline is not None:
            log.info("the baseline, %s", cfg.baseline)
            loaded = _load(cfg, Path(cfg.baseline))
            self.baseline = self._accuracies(loaded)
            self.baseline_name = f"{Path(cfg.baseline).resolve().name}, {loaded.checkpoint.stem}"

    def measure(self, loaded: _Loaded) -> dict[str, Any]:
        from mnv2_lightning.robustness import summary

        found = summary(self._accuracies(loaded), self.baseline)
        return {"baseline": self.baseline_name} | found

    def _accuracies(self, loaded: _Loaded) -> dict[str, float]:
        measure = partial(loaded.measure, self.robustness.split)
        return self.robustness.accuracies(loaded.datamodule, measure)


def _kinds(cfg: DictConfig) -> list[str]:
    """The kinds of corruption that `cfg` asks for."""
    if cfg.corruptions == "all":
        from mnv2_lightning.data.corruptions import CORRUPTIONS

        return list(CORRUPTIONS)
    given = [cfg.corruptions] if isinstance(cfg.corruptions, str) else cfg.corruptions or []
    return list(dict.fromkeys(given))


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
    """Check what needs the disk or torch. ConfigError, DataError."""
    from mnv2_lightning.data import idx_files
    from mnv2_lightning.system import accelerators

    cfg = job.cfg
    idx_files.require_folder(cfg.data.get("dir"))
    for override in job.overrides:
        key = folder.key_of(override)
        if "_target_" in cfg.data and key.startswith("data.") and key != "data.dir":
            raise ConfigError(f"{key}: is as in the run; only data.dir can be set")
    sets = {_check_run(cfg, "run_dir", run) for run in _runs(cfg)[0]}
    if cfg.baseline is not None:
        if cfg.corruptions is None:
            raise ConfigError("baseline: is for corruptions=all, or some kinds such as [fog]")
        sets.add(_check_run(cfg, "baseline", folder.require_run("baseline", cfg.baseline)))
        if len(sets) > 1:
            images = " and ".join(sorted(map(str, sets)))
            raise ConfigError(f"baseline: the runs are measured on different images, {images}")
    announce_imports()
    accelerators.check_accelerator("accelerator", cfg.accelerator)


def _check_run(cfg: DictConfig, key: str, run: Path) -> tuple[Any, ...]:
    """Return what the images to measure on depend on. `key`: of the config, which names the run."""
    from mnv2_lightning.data import idx_files, sets
    from mnv2_lightning.runs import config
    from mnv2_lightning.schema.targets import check_targets

    folder.require_checkpoint(key, run, cfg.checkpoint)
    run_config = config.plain(_run_config(cfg, run))
    data, target = run_config["data"], run_config["classifier"]["_target_"]
    if cfg.test_time_augmentation is not None and not target.startswith("mnv2_lightning."):
        raise ConfigError(f"test_time_augmentation: {target} has no such option")
    is_idx = has_idx_files(data)
    if cfg.corruptions is not None and not is_idx:
        raise ConfigError(f"corruptions: are for images of MNISTDataModule, not {data['_target_']}")
    if cfg.split == "val" and data.get("val_size") == 0:
        raise ConfigError(f"split=val: {run} held out no images (data.val_size=0)")
    if cfg.split == "val" and data.get("dataset") == sets.DIGITS:
        raise ConfigError(f"split=val: {sets.DIGITS} has test images only")
    config.require_inside(run_config)
    check_targets(run_config)
    if is_idx and data["dataset"] not in sets.DATA_SETS:  # others may have to be downloaded
        found = idx_files.load(data["dataset"], data["dir"], len(data["classes"]))
        side = found["t10k-images"].shape[1]
        if cfg.corruptions is not None and side != sets.SIDE:
            raise ConfigError(f"corruptions: are for images of 28 x 28 px, not {side} x {side}")
    split = (data.get("val_size"), data.get("seed")) if cfg.split == "val" else ()
    return (data.get("dataset", data["_target_"]), *split)


COMMAND = Command("evaluate", evaluate, check_job=check_job)
main = COMMAND.main

if __name__ == "__main__":
    main()
