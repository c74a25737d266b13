"""The parts of the benchmark: which sides are compared, and for how many steps.

A part is a generator. It yields all its results so far after each row or seed.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2_lightning.data.sets import TRAIN
from mnv2_lightning.schema.errors import ExportError

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

Side = tuple[str, dict[str, Any]]  # a function in `benchmarks`, and its options
Size = dict[str, int]

TUTORIAL: Size = {"image_size": 224, "batch_size": 32}
SMALL: Size = {"image_size": 28, "batch_size": 128}
SMOKE: Size = {"image_size": 28, "batch_size": 8}
AUGMENTED = [f"data.augment.{k}" for k in ("degrees=10", "translate=0.1", "scale=0.1", "shear=0.1")]


def measure(pairs: int, **sides: Side) -> dict[str, list[dict[str, Any]]]:
    """Run each side `pairs` times, in turns; the order is reversed from pair to pair."""
    from mnv2_lightning.benchmarks.side import run_side

    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for pair in range(pairs):
        for name in list(sides)[:: 1 if pair % 2 == 0 else -1]:
            function, options = sides[name]
            run = run_side(function, **options)
            found[name].append(run)
            numbers = (f"{key} {number:.4g}" for key, number in run.items() if number is not None)
            log.info("  %-12s %s", name, ", ".join(numbers))
    return found


def limits(_cfg: DictConfig) -> Iterator[Any]:
    """Matrix product and memory copy."""
    yield measure(1, machine=("timing.limits", {"steps": 10}))["machine"][0]


def same_work(cfg: DictConfig) -> Iterator[Any]:
    """The tutorial's network, batch size and optimizer, at two image sizes."""
    rows = []
    for size in [SMOKE] if cfg.smoke else [TUTORIAL, SMALL]:
        tutorial = _tutorial(cfg, "reference.tutorial_loop", size)
        ours = _side(cfg, "ours.trainer_loop", "experiment=tutorial", size=size)
        rows.append({**size, "sides": measure(cfg.pairs, tutorial=tutorial, ours=ours)})
        yield rows


def loop(cfg: DictConfig) -> Iterator[Any]:
    """The Trainer with logs, callbacks, checkpoints and EMA, and a bare PyTorch loop with EMA."""
    ema = "callbacks=[default,ema]"
    bare, trainer = (_side(cfg, f, ema) for f in ("reference.bare_loop", "ours.trainer_loop"))
    yield measure(cfg.pairs, bare=bare, trainer=trainer)


def input_pipeline(cfg: DictConfig) -> Iterator[Any]:
    """Loading and augmenting alone, and a training that they supply."""
    yield measure(
        cfg.pairs,
        tutorial=_tutorial(cfg, "reference.tutorial_input_pipeline", SMALL),
        plain=_side(cfg, "ours.input_pipeline"),
        augmented=_side(cfg, "ours.input_pipeline", *AUGMENTED),
        training=_side(cfg, "ours.trainer_loop", *AUGMENTED),
    )


def inference(cfg: DictConfig) -> Iterator[Any]:
    """Batches of 1 and 256 images, with the default network and with the paper's; with
    `cfg.trained`, also those of a run, and its network in each format of `export`.
    """
    rows = []
    sizes = product(("mobilenet_v2_small", "mobilenet_v2"), (1, 256))
    for model, batch_size in [("mobilenet_v2_small", 1)] if cfg.smoke else sizes:
        options = {"overrides": [f"model={model}"], "batch_size": batch_size, **_steps(cfg, 10, 30)}
        sides = {kind: ("ours.inference", {"kind": kind, **options}) for kind in _kinds(cfg)}
        measured = measure(cfg.pairs, **sides)
        rows.append({"model": model, "batch_size": batch_size, "sides": measured})
        yield rows
    if cfg.trained is None:
        return
    paths, files = _export(cfg)
    for batch_size, steps in ((1, 300),) if cfg.smoke else ((1, 300), (256, 30)):
        options = {"batch_size": batch_size, **_steps(cfg, 20, steps)}
        eager = {"run_dir": cfg.trained, **options}
        sides = {kind: ("ours.inference", {"kind": kind, **eager}) for kind in _kinds(cfg)}
        for name, file in files.items():
            if file["format"] == "onnx" or batch_size == 1:  # the others take one image at a time
                keys = {"path": str(paths[name]), "format": file["format"]}
                sides[name] = "ours.exported_inference", {**keys, **options}
        row = {"model": Path(cfg.trained).resolve().name, "batch_size": batch_size}
        rows.append(row | {"sides": measure(cfg.pairs, **sides), "files": files})
        yield rows


def _kinds(cfg: DictConfig) -> tuple[str, ...]:
    return ("eager", "folded") if cfg.smoke else ("eager", "folded", "compiled")


def _export(cfg: DictConfig) -> tuple[dict[str, Path], dict[str, dict[str, Any]]]:
    """The network of `cfg.trained`, exported without the preparation: the path, and the format,
    bytes and accuracy of each file, by name. What is not installed is left out.
    """
    from mnv2_lightning.cli import from_python
    from mnv2_lightning.cli.composing import quoted
    from mnv2_lightning.export import COMMAND, export, missing_package

    paths, files = {}, {}
    for form, quantize in product(("onnx", "executorch"), ("none", "int8")):
        if missing_package(form) is not None:
            log.info("  format=%s is not installed: left out", form)
            continue
        keys = {"run_dir": cfg.trained, "out": cfg.run_dir, "format": form, "quantize": quantize}
        data = [] if cfg.data.dir is None else [f"data.dir={quoted(cfg.data.dir)}"]
        overrides = [*(f"{key}={quoted(value)}" for key, value in keys.items()), *data]
        overrides += ["prepare=plain", "max_loss=100"]
        try:
            result = export(from_python.compose(COMMAND, overrides, None))
        except ExportError as error:
            log.info("  %s: left out", error)
            continue
        name = f"{form} {'float32' if quantize == 'none' else quantize}"
        paths[name] = Path(cfg.run_dir) / result["file"]
        about = ("format", "bytes", "accuracy", "torch_accuracy")
        files[name] = {key: result[key] for key in about}
    return paths, files


def growth(cfg: DictConfig) -> Iterator[Any]:
    """The paper's network with the paper's strides, over widths, image sizes and batch sizes."""
    rows = []
    sizes = product((0.35, 0.7, 1.0), (28, 56, 112), (32, 128))
    for width, image_size, batch_size in [(0.35, 28, 8)] if cfg.smoke else sizes:
        size = {"image_size": image_size, "batch_size": batch_size}
        model = ["model=mobilenet_v2", f"model.width_mult={width}", "model.strides=224px"]
        options = {"overrides": [*model, *_sizes(size)], **_steps(cfg, 2, 5)}
        (row,) = measure(1, training=("ours.growth", options))["training"]
        rows.append({"width": width, **size, **row})
        yield rows


def time_to_accuracy(cfg: DictConfig) -> Iterator[Any]:
    """Whole trainings with their test accuracy: a plain CNN, and `cfg.recipes`; a seed a pair.

    The tutorial's five epochs would take hours, so only its images per second are measured.
    """
    ends = [f"data.dir={cfg.data.dir or 'null'}"]
    ends += ["trainer.max_steps=2", "trainer.limit_test_batches=2"] if cfg.smoke else []
    size, images = (SMOKE, 2560) if cfg.smoke else (TUTORIAL, TRAIN)
    found: dict[str, list[Any]] = {}
    for seed in range(cfg.pairs):
        sides = {"tutorial": _tutorial(cfg, "reference.tutorial_loop", size)}
        for epochs in (1, 2):
            options = {"data_dir": cfg.data.dir, "epochs": epochs, "seed": seed, "images": images}
            sides[f"plain CNN, epochs: {epochs}"] = ("reference.plain_cnn", options)
        for recipe in cfg.recipes[: 1 if cfg.smoke else None]:
            overrides = [*shlex.split(recipe), *ends, f"seed={seed}"]
            sides[recipe] = ("ours.training", {"overrides": overrides})
        for name, (run,) in measure(1, **sides).items():
            found.setdefault(name, []).append({"seed": seed} | run)
        yield found


def _side(cfg: DictConfig, function: str, *overrides: str, size: Size = SMALL) -> Side:
    data = f"data.dir={cfg.data.dir or 'null'}"
    return function, {"overrides": [data, *overrides, *_sizes(size)], **_length(cfg, **size)}


def _tutorial(cfg: DictConfig, function: str, size: Size) -> Side:
    return function, {"data_dir": cfg.data.dir, **size, **_length(cfg, **size)}


def _sizes(size: Size) -> list[str]:
    return [f"data.{key}={value}" for key, value in size.items()]


def _length(cfg: DictConfig, image_size: int, batch_size: int) -> dict[str, int]:
    """Numbers of warm-up steps and timed steps; small images take more, to last for seconds."""
    return _steps(cfg, cfg.warmup, cfg.steps * max(1, (224 // image_size) ** 2 * 32 // batch_size))


def _steps(cfg: DictConfig, warmup: int, steps: int) -> dict[str, int]:
    return {"warmup": 1, "steps": 2} if cfg.smoke else {"warmup": warmup, "steps": steps}


PARTS: dict[str, Callable[[DictConfig], Iterator[Any]]] = {
    part.__name__: part
    for part in (limits, same_work, loop, input_pipeline, inference, growth, time_to_accuracy)
}
