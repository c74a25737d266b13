"""Write a trained network to a file of its own: `python -m mnv2_lightning.export run_dir=PATH`."""

from __future__ import annotations

import logging
import os
import subprocess
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2_lightning.cli.command import Command, Job, announce_imports
from mnv2_lightning.runs import folder, stored_config
from mnv2_lightning.schema.errors import ConfigError, ExportError

if TYPE_CHECKING:
    import numpy as np
    from omegaconf import DictConfig

    from mnv2_lightning.formats.outputs import Run
    from mnv2_lightning.trained import TrainedNetwork

log = logging.getLogger(__name__)

CALIBRATION = 500  # training images
NODE_BATCH = 2_500  # images; node is started for each


@dataclass(frozen=True)
class Format:
    """`module`: in `formats/`. `suffix`: of files. `packages`: of the extra of the same name."""

    module: str
    suffix: str
    packages: tuple[str, ...] = ()


FORMATS = {
    "onnx": Format("onnx_file", ".onnx", ("onnx", "onnxscript", "onnxruntime")),
    "executorch": Format("executorch_file", ".pte", ("executorch",)),
    "page": Format("page", ".html"),
}


def export(cfg: DictConfig) -> dict[str, Any]:
    """Write the run's network in `cfg.format`, compare it with PyTorch on all test images.

    The file is written into `cfg.out`, by default `run_dir`/export/, with what was measured beside
    it as JSON. ExportError: it does not compute what the network does, and is kept as *.rejected.
    ConfigError, DataError, StorageError.
    """
    from mnv2_lightning import trained
    from mnv2_lightning.cli import from_python
    from mnv2_lightning.data import idx_files
    from mnv2_lightning.formats import verification
    from mnv2_lightning.reports import tables
    from mnv2_lightning.system import durable_files

    cfg = from_python.checked(COMMAND, cfg)
    net = trained.load(cfg.run_dir, checkpoint=cfg.checkpoint, prepare=cfg.prepare, trust=cfg.trust)
    model, data = net.picture_classifier(), net.config["data"]
    arrays = idx_files.load(data["dataset"], cfg.data.dir or data["dir"], len(net.classes))
    images, labels = arrays["t10k-images"], arrays["t10k-labels"]
    path = _path(cfg, net.checkpoint.stem)
    reference = verification.compute_reference(model, images, labels)
    description = {
        "run": Path(cfg.run_dir).resolve().name,
        "checkpoint": net.checkpoint.stem,
        "classes": net.classes,
        "prepare": net.prepare,
        "quantize": cfg.quantize,
        "torch_accuracy": reference.accuracy,
        "mnv2_lightning": version("mnv2_lightning"),
        "torch": version("torch"),
    }
    result: dict[str, Any] = description | {
        "file": path.name,
        "format": cfg.format,
        "runtime": None,
        "images": len(images),
        "torch_accuracy_plain": reference.plain_accuracy,
        "accuracy": None,
        "agreement": None,
        "largest_difference": None,
        "latency_ms": None,
    }
    problem = None
    unverified = path.with_name(f"{path.name}.unverified")
    try:
        log.info("writing %s ...", path.name)
        _write(cfg, net, unverified, description, arrays)
        result["bytes"] = unverified.stat().st_size
        if runs := _runs(cfg.format, unverified):
            result["runtime"] = _runtime(cfg.format)
            size = NODE_BATCH if cfg.format == "page" else verification.BATCH
            found = verification.compare(reference, runs, images, labels, size)
            result |= vars(found)
            result["latency_ms"] = _latency_ms(cfg.format, unverified, runs, images)
            problem = verification.find_problem(reference, found, cfg.quantize, cfg.max_loss)
        rejected = path.with_name(f"{path.name}.rejected")
        rejected.unlink(missing_ok=True)
        os.replace(unverified, path if problem is None else rejected)
    finally:
        unverified.unlink(missing_ok=True)
    if problem is not None:
        raise ExportError(f"{rejected}: not usable: {problem}")
    report = path.with_name(f"{path.name}.json")
    durable_files.write_json(report, result)
    log.info("%s", tables.export(result))
    if result["runtime"] is None:
        log.info("not compared with PyTorch: there is no node, which runs the page's script")
    log.info("written: %s, %s", path, report.name)
    return result


def _path(cfg: DictConfig, checkpoint: str) -> Path:
    """The file to write: `best.onnx`, or `best-plain-int8.onnx` where these were asked for."""
    quantized = cfg.quantize if cfg.quantize != "none" else None
    name = "-".join(filter(None, (checkpoint, cfg.prepare, quantized)))
    return Path(cfg.out) / f"{name}{FORMATS[cfg.format].suffix}"


def _write(
    cfg: DictConfig,
    net: TrainedNetwork,
    path: Path,
    description: dict[str, Any],
    arrays: dict[str, np.ndarray],
) -> None:
    import numpy as np

    module = import_module(f"mnv2_lightning.formats.{FORMATS[cfg.format].module}")
    if cfg.format == "page":
        _, first = np.unique(arrays["t10k-labels"], return_index=True)  # one of each class
        examples, labels = arrays["t10k-images"][first], arrays["t10k-labels"][first]
        module.write(net, path, description, examples, labels)
        return
    training = arrays["train-images"]
    if cfg.quantize == "int8":
        log.info("calibrating on %d training images ...", min(CALIBRATION, len(training)))
    # Evenly spaced, as the files may be sorted by class.
    calibration = training[:: max(1, len(training) // CALIBRATION)][:CALIBRATION]
    module.write(net.picture_classifier(), path, description, cfg.quantize, calibration)


def _runs(format: str, path: Path) -> dict[str, Run]:
    """Ways to run the exported file, by name; none where there is nothing to run it with."""
    module = import_module(f"mnv2_lightning.formats.{FORMATS[format].module}")
    if format == "page":
        return {_runtime(format): partial(module.run, path)} if module.is_available() else {}
    runs = {_runtime(format): module.load(path)}
    if format == "onnx":
        runs[f"{_runtime(format)} without its optimizer"] = module.load(path, optimize=False)
    return runs


def _latency_ms(format: str, path: Path, runs: dict[str, Run], images: np.ndarray) -> float:
    from mnv2_lightning.formats import page, verification

    if format == "page":  # node is started anew for each call
        return page.measure_latency(path, images)
    return verification.measure_latency(next(iter(runs.values())), images)


def _runtime(format: str) -> str:
    """The name and version of what runs the exported file."""
    if format == "page":
        asked = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
        return f"node {asked.stdout.strip().removeprefix('v')}"
    package = FORMATS[format].packages[-1]
    return f"{package} {version(package)}"


def missing_package(format: str) -> str | None:
    """A package that the format needs and that is not installed."""
    packages = FORMATS[format].packages
    return next((package for package in packages if find_spec(package) is None), None)


def check_job(job: Job) -> None:
    """Check what needs the disk or torch. ConfigError."""
    from mnv2_lightning.data import idx_files
    from mnv2_lightning.runs import config
    from mnv2_lightning.schema.check import has_idx_files
    from mnv2_lightning.schema.targets import check_targets

    cfg = job.cfg
    run = folder.require_run("run_dir", cfg.run_dir)
    folder.require_checkpoint("run_dir", run, cfg.checkpoint)
    if cfg.format == "page" and cfg.quantize != "none":
        raise ConfigError(f"quantize={cfg.quantize}: a page has float32 weights only")
    if (package := missing_package(cfg.format)) is not None:
        install = f'pip install -e ".[{cfg.format}]"'
        raise ConfigError(f"format={cfg.format}: there is no package {package}; {install}")
    run_config = config.plain(stored_config.config_to_evaluate(run, cfg.trust))
    if not has_idx_files(run_config["data"]):
        target = run_config["data"]["_target_"]
        raise ConfigError(
            f"run_dir={run}: was trained on data of {target}; only networks for data of "
            "MNISTDataModule can be exported"
        )
    idx_files.require_folder(cfg.data.dir)
    announce_imports("torch")
    check_targets({"model": run_config["model"]})


COMMAND = Command("export", export, check_job=check_job)
main = COMMAND.main

if __name__ == "__main__":
    main()
