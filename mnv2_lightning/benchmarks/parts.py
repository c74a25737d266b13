"""The parts of the benchmark: which sides are compared, and for how many steps.

A part is a generator. It yields all its results so far after each row or seed.
"""

import logging
import shlex
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

from omegaconf import DictConfig

log = logging.getLogger(__name__)

Side = tuple[str, dict[str, Any]]  # a function in `benchmarks`, and its options
Size = tuple[int, int]  # px, images of a batch
TUTORIAL, SMALL, SMOKE = (224, 32), (28, 128), (28, 8)
AUGMENTED = [f"data.augment.{k}" for k in ("degrees=10", "translate=0.1", "scale=0.1", "shear=0.1")]


def measure(pairs: int, **sides: Side) -> dict[str, list[dict[str, Any]]]:
    """Run each side `pairs` times, in turns; the order is reversed from pair to pair."""
    from mnv2_lightning.benchmarks.side import run_side

    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for pair in range(pairs):
        for name in list(sides)[:: 1 if pair % 2 == 0 else -1]:
            function, options = sides[name]
            found[name].append(run_side(function, **options))
            log.info("  %-12s %s", name, _shown(found[name][-1]))
    return found


def _shown(measured: dict[str, Any]) -> str:
    if (accuracy := measured.get("test_accuracy")) is not None:
        return f"{accuracy:.2%} in {measured['train_seconds']:.1f} s"
    images_per_second = measured.get("images_per_second")
    return f"{images_per_second:,.1f} images/s" if images_per_second else str(measured)


def limits(cfg: DictConfig) -> Iterator[Any]:
    """Matrix product and memory copy."""
    yield measure(1, machine=("timing.limits", {"steps": 2 if cfg.smoke else 10}))["machine"][0]


def same_work(cfg: DictConfig) -> Iterator[Any]:
    """The tutorial's network, batch size and optimizer, at two image sizes."""
    rows = []
    for size in (SMOKE,) if cfg.smoke else (TUTORIAL, SMALL):
        image_size, batch_size = size
        sizes = (f"data.image_size={image_size}", f"data.batch_size={batch_size}")
        ours = _side(cfg, "ours.trainer_loop", "experiment=tutorial", *sizes, size=size)
        sides = measure(cfg.pairs, tutorial=_tutorial(cfg, size), ours=ours)
        rows.append({"image_size": image_size, "batch_size": batch_size, "sides": sides})
        yield rows


def loop(cfg: DictConfig) -> Iterator[Any]:
    """The Trainer with logs, callbacks, checkpoints and EMA, and a bare PyTorch loop with EMA."""
    ema = "callbacks=[default,ema]"
    bare, trainer = (_side(cfg, f, ema) for f in ("reference.bare_loop", "ours.trainer_loop"))
    yield measure(cfg.pairs, bare=bare, trainer=trainer)


def input_pipeline(cfg: DictConfig) -> Iterator[Any]:
    """Loading and augmenting alone, and a training that they supply."""
    steps = {"warmup": 1, "steps": 3 if cfg.smoke else 20}
    tutorial = {"data_dir": cfg.data.dir, "image_size": 28, "batch_size": 128, **steps}
    yield measure(
        cfg.pairs,
        tutorial=("reference.tutorial_input_pipeline", tutorial),
        plain=_side(cfg, "ours.input_pipeline"),
        augmented=_side(cfg, "ours.input_pipeline", *AUGMENTED),
        training=_side(cfg, "ours.trainer_loop", *AUGMENTED),
    )


def inference(cfg: DictConfig) -> Iterator[Any]:
    """Batches of 1 and 256 images, with the default network and with the paper's."""
    rows = []
    steps = {"warmup": 1, "steps": 3} if cfg.smoke else {"warmup": 10, "steps": 30}
    models = ("mobilenet_v2_small",) if cfg.smoke else ("mobilenet_v2_small", "mobilenet_v2")
    kinds = ("eager", "folded") if cfg.smoke else ("eager", "folded", "compiled")
    for model, batch_size in product(models, (1,) if cfg.smoke else (1, 256)):
        options = {"overrides": [f"model={model}"], "batch_size": batch_size, **steps}
        sides = {kind: ("ours.inference", {"kind": kind, **options}) for kind in kinds}
        measured = measure(cfg.pairs, **sides)
        rows.append({"model": model, "batch_size": batch_size, "sides": measured})
        yield rows


def growth(cfg: DictConfig) -> Iterator[Any]:
    """The paper's network with the paper's strides, over widths, image sizes and batch sizes."""
    rows = []
    all_sizes = product((0.35, 0.7, 1.0), (28, 56, 112), (32, 128))
    for width, image_size, batch_size in [(0.35, *SMOKE)] if cfg.smoke else all_sizes:
        overrides = [
            "model=mobilenet_v2",
            f"model.width_mult={width}",
            "model.strides=224px",
            f"data.image_size={image_size}",
            f"data.batch_size={batch_size}",
        ]
        options = {"overrides": overrides, "warmup": 2, "steps": 2 if cfg.smoke else 5}
        (row,) = measure(1, training=("ours.growth", options))["training"]
        rows.append({"width": width, "image_size": image_size, "batch_size": batch_size} | row)
        yield rows


def time_to_accuracy(cfg: DictConfig) -> Iterator[Any]:
    """Whole trainings with their test accuracy: a plain CNN, and `cfg.recipes`; a seed a pair.

    The tutorial's five epochs would take hours, so only its images per second are measured.
    """
    short = ["trainer.max_steps=2", "trainer.limit_test_batches=2"] if cfg.smoke else []
    found: dict[str, list[Any]] = {}
    for seed in range(cfg.pairs):
        sides = {"tutorial": _tutorial(cfg, SMOKE if cfg.smoke else TUTORIAL)}
        for epochs in (1, 2):
            images = {"images": 2560} if cfg.smoke else {}
            options = {"data_dir": cfg.data.dir, "epochs": epochs, "seed": seed, **images}
            sides[f"plain CNN, epochs: {epochs}"] = ("reference.plain_cnn", options)
        for recipe in cfg.recipes[: 1 if cfg.smoke else None]:
            overrides = [*shlex.split(recipe), *_data(cfg), *short, f"seed={seed}"]
            sides[recipe] = ("ours.training", {"overrides": overrides})
        for name, (run,) in measure(1, **sides).items():
            found.setdefault(name, []).append({"seed": seed} | run)
        yield found


def _side(cfg: DictConfig, function: str, *overrides: str, size: Size = SMALL) -> Side:
    return function, {"overrides": [*_data(cfg), *overrides], **_length(cfg, size)}


def _tutorial(cfg: DictConfig, size: Size) -> Side:
    image_size, batch_size = size
    sizes = {"image_size": image_size, "batch_size": batch_size}
    return "reference.tutorial_loop", {"data_dir": cfg.data.dir, **sizes, **_length(cfg, size)}


def _data(cfg: DictConfig) -> list[str]:
    return [f"data.dir={cfg.data.dir}"] if cfg.data.dir else []


def _length(cfg: DictConfig, size: Size) -> dict[str, int]:
    """Numbers of warm-up steps and timed steps; small images take more, to last for seconds."""
    if cfg.smoke:
        return {"warmup": 1, "steps": 2}
    image_size, batch_size = size
    more = max(1, (224 // image_size) ** 2 * 32 // batch_size)
    return {"warmup": cfg.warmup, "steps": cfg.steps * more}


PARTS: dict[str, Callable[[DictConfig], Iterator[Any]]] = {
    part.__name__: part
    for part in (limits, same_work, loop, input_pipeline, inference, growth, time_to_accuracy)
}
