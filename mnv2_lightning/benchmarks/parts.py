"""What `benchmark` measures, part by part: which sides take turns, and for how long.

Each part yields all that it has found, after each of its rows or seeds.
"""

import logging
import shlex
from collections.abc import Callable, Iterator
from typing import Any

from omegaconf import DictConfig

log = logging.getLogger(__name__)

Side = tuple[str, dict[str, Any]]  # a function of `benchmarks` and its options
TUTORIAL_SIZE = (224, 32)  # px, images a batch
AUGMENTED = {"degrees": 10, "translate": 0.1, "scale": 0.1, "shear": 0.1}


def measure(pairs: int, **sides: Side) -> dict[str, list[dict[str, Any]]]:
    """Each side `pairs` times, in turns, the order reversed from one to the next."""
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
    rate = measured.get("images_per_second")
    return f"{rate:,.1f} images/s" if rate else str(measured)


def limits(cfg: DictConfig) -> Iterator[Any]:
    """The machine's own: matrix product, memory."""
    yield measure(1, machine=("machine.limits", {"steps": 2 if cfg.smoke else 10}))["machine"][0]


def same_work(cfg: DictConfig) -> Iterator[Any]:
    """The tutorial's network, batch and optimizer, at two sizes."""
    rows = []
    for image_size, batch_size in ((28, 8),) if cfg.smoke else (TUTORIAL_SIZE, (28, 128)):
        size = {"image_size": image_size, "batch_size": batch_size}
        overrides = ["experiment=tutorial", *(f"data.{key}={n}" for key, n in size.items())]
        length = _length(cfg, image_size, batch_size)
        sides = measure(
            cfg.pairs,
            tutorial=_tutorial(cfg, image_size, batch_size),
            ours=("ours.trainer_loop", {"overrides": [*_data(cfg), *overrides], **length}),
        )
        rows.append(size | {"sides": sides})
        yield rows


def loop(cfg: DictConfig) -> Iterator[Any]:
    """Lightning's loop, with logs, callbacks, checkpoints and EMA, against a bare one with EMA."""
    length = _length(cfg, 28, 128)
    options = {"overrides": [*_data(cfg), "callbacks=[default,ema]"], **length}
    yield measure(
        cfg.pairs,
        bare=("reference.bare_loop", options),
        trainer=("ours.trainer_loop", options),
    )


def feed(cfg: DictConfig) -> Iterator[Any]:
    """The data pipelines alone, and the training that they feed."""
    length = _length(cfg, 28, 128)
    augmented = [f"data.augment.{k}={v}" for k, v in AUGMENTED.items()]
    few = {"warmup": 1, "steps": 3 if cfg.smoke else 20}
    tutorial = {"data_dir": cfg.data.dir, "image_size": 28, "batch_size": 128, **few}
    yield measure(
        cfg.pairs,
        tutorial=("reference.tutorial_feed", tutorial),
        plain=("ours.feed", {"overrides": _data(cfg), **length}),
        augmented=("ours.feed", {"overrides": [*_data(cfg), *augmented], **length}),
        training=("ours.trainer_loop", {"overrides": [*_data(cfg), *augmented], **length}),
    )


def time_to_accuracy(cfg: DictConfig) -> Iterator[Any]:
    """Whole trainings and their test accuracy: a plain small CNN, and `cfg.recipes`.

    A seed for each pair; beside them the rate of the tutorial, whose five epochs are too long.
    """
    short = ["trainer.max_steps=2", "trainer.limit_test_batches=2"] if cfg.smoke else []
    found: dict[str, list[Any]] = {}
    for seed in range(cfg.pairs):
        sides: dict[str, Side] = {
            "tutorial": _tutorial(cfg, *((28, 8) if cfg.smoke else TUTORIAL_SIZE))
        }
        for epochs in (1, 2):
            few = {"images": 2560} if cfg.smoke else {}
            plain = {"data_dir": cfg.data.dir, "epochs": epochs, "seed": seed, **few}
            sides[f"plain CNN, epochs: {epochs}"] = ("reference.plain_cnn", plain)
        for recipe in cfg.recipes[: 1 if cfg.smoke else None]:
            overrides = [*shlex.split(recipe), *_data(cfg), *short, f"seed={seed}"]
            sides[recipe] = ("ours.training", {"overrides": overrides})
        for name, (run,) in measure(1, **sides).items():
            found.setdefault(name, []).append({"seed": seed} | run)
        yield found


def inference(cfg: DictConfig) -> Iterator[Any]:
    """One image at a time, and 256, of the default network and of the paper's."""
    rows = []
    few = {"warmup": 1, "steps": 3} if cfg.smoke else {"warmup": 10, "steps": 30}
    models = ("mobilenet_v2_small",) if cfg.smoke else ("mobilenet_v2_small", "mobilenet_v2")
    kinds = ("eager", "folded") if cfg.smoke else ("eager", "folded", "compiled")
    for model in models:
        for batch_size in (1,) if cfg.smoke else (1, 256):
            options = {"overrides": [f"model={model}"], "batch_size": batch_size, **few}
            sides = {kind: ("ours.inference", {"kind": kind, **options}) for kind in kinds}
            rows.append(
                {"model": model, "batch_size": batch_size, "sides": measure(cfg.pairs, **sides)}
            )
            yield rows


def growth(cfg: DictConfig) -> Iterator[Any]:
    """The paper's network, with the paper's strides, over widths, sizes and batches."""
    rows = []
    widths, sizes, batches = (0.35, 0.7, 1.0), (28, 56, 112), (32, 128)
    if cfg.smoke:
        widths, sizes, batches = (0.35,), (28,), (8,)  # type: ignore[assignment]
    for width in widths:
        for size in sizes:
            for batch_size in batches:
                overrides = [
                    "model=mobilenet_v2",
                    f"model.width_mult={width}",
                    "model.strides=224px",
                    f"data.image_size={size}",
                    f"data.batch_size={batch_size}",
                ]
                few = {"warmup": 2, "steps": 2 if cfg.smoke else 5}
                options = {"overrides": overrides, **few}
                (row,) = measure(1, training=("ours.growth", options))["training"]
                rows.append({"width": width, "image_size": size, "batch_size": batch_size} | row)
                yield rows


def _data(cfg: DictConfig) -> list[str]:
    return [f"data.dir={cfg.data.dir}"] if cfg.data.dir else []


def _tutorial(cfg: DictConfig, image_size: int, batch_size: int) -> Side:
    size = {"image_size": image_size, "batch_size": batch_size}
    length = _length(cfg, image_size, batch_size)
    return "reference.tutorial_loop", {"data_dir": cfg.data.dir, **size, **length}


def _length(cfg: DictConfig, image_size: int, batch_size: int) -> dict[str, int]:
    """Steps of warm-up and timed ones; more of small images, so that each takes seconds."""
    if cfg.smoke:
        return {"warmup": 1, "steps": 2}
    more = max(1, (224 // image_size) ** 2 * 32 // batch_size)
    return {"warmup": cfg.warmup, "steps": cfg.steps * more}


PARTS: dict[str, Callable[[DictConfig], Iterator[Any]]] = {
    part.__name__: part
    for part in (limits, same_work, loop, feed, inference, growth, time_to_accuracy)
}
