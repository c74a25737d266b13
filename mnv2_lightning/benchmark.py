"""Measure this machine's speed: `python -m mnv2_lightning.benchmark`."""

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mnv2_lightning.command import Command

log = logging.getLogger(__name__)

Side = tuple[str, dict[str, Any]]  # a function of `benchmarks` and its options


def benchmark(cfg: DictConfig) -> dict[str, Any]:
    """The tutorial's way and ours in turns, each in fresh processes; a JSON record and tables.

    Written into `cfg.run_dir` after each part. DataError.
    """
    from mnv2_lightning.data import files as data_files
    from mnv2_lightning.reports import benchmarks as report
    from mnv2_lightning.runs import files, noise
    from mnv2_lightning.runs.hardware import hardware
    from mnv2_lightning.runs.record import git_commit, versions

    noise.quiet()
    data_files.load("mnist", cfg.data.dir)  # before any clock starts
    if cfg.smoke:
        cfg.pairs = 1
        os.environ["OMP_NUM_THREADS"] = "1"  # as several parts run at once
    out = Path(cfg.run_dir)
    parts: dict[str, Any] = {}
    result: dict[str, Any] = {
        "smoke": cfg.smoke,
        "pairs": cfg.pairs,
        "hardware": hardware(),
        "versions": versions(),
        "git_commit": git_commit(),
        "parts": parts,
    }

    def run(part: str) -> Any:
        log.info("%s", part)
        return PARTS[part](cfg)

    at_once = 4 if cfg.smoke else 1  # what a smoke run measures means nothing
    with ThreadPoolExecutor(at_once) as pool:
        for part, found in zip(cfg.parts, pool.map(run, cfg.parts), strict=True):
            parts[part] = found
            files.write_json(out / "benchmark.json", result)
            files.write_text(out / "benchmark.md", report.markdown(result))
    if "growth" in parts:
        report.draw_growth(parts["growth"], parts.get("limits")).savefig(out / "growth.png")
    log.info("%s", report.markdown(result))
    log.info("written: %s", out / "benchmark.md")
    return result


def measure(pairs: int, **sides: Side) -> dict[str, list[dict[str, Any]]]:
    """Each side `pairs` times, in turns, the order reversed from one to the next."""
    from mnv2_lightning.benchmarks.side import run_side

    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for pair in range(pairs):
        for name in list(sides)[:: 1 if pair % 2 == 0 else -1]:
            function, options = sides[name]
            found[name].append(run_side(function, **options))
            shown = found[name][-1].get("images_per_second")
            log.info("  %-12s %s", name, f"{shown:,.1f} images/s" if shown else found[name][-1])
    return found


def limits(cfg: DictConfig) -> Any:
    """The machine's own: matrix product, memory."""
    return measure(1, machine=("machine.limits", {"steps": 2 if cfg.smoke else 10}))["machine"][0]


def same_work(cfg: DictConfig) -> Any:
    """The tutorial's network, batch and optimizer, at two sizes."""
    rows = []
    for image_size, batch_size in ((28, 8),) if cfg.smoke else ((224, 32), (28, 128)):
        length = _length(cfg, image_size, batch_size)
        overrides = [
            *_data(cfg),
            "experiment=tutorial",
            f"data.image_size={image_size}",
            f"data.batch_size={batch_size}",
        ]
        sides = measure(
            cfg.pairs,
            tutorial=(
                "reference.tutorial_loop",
                {
                    "data_dir": cfg.data.dir,
                    "image_size": image_size,
                    "batch_size": batch_size,
                    **length,
                },
            ),
            ours=("ours.trainer_loop", {"overrides": overrides, **length}),
        )
        rows.append({"image_size": image_size, "batch_size": batch_size, "sides": sides})
    return rows


def loop(cfg: DictConfig) -> Any:
    """Lightning's loop, with logs, callbacks, checkpoints and EMA, against a bare one with EMA."""
    length = _length(cfg, 28, 128)
    options = {"overrides": [*_data(cfg), "callbacks=[default,ema]"], **length}
    return measure(
        cfg.pairs,
        bare=("reference.bare_loop", options),
        trainer=("ours.trainer_loop", options),
    )


def feed(cfg: DictConfig) -> Any:
    """The data pipelines alone, and the training that they feed."""
    length = _length(cfg, 28, 128)
    augmented = [f"data.augment.{k}={v}" for k, v in AUGMENTED.items()]
    few = {"warmup": 1, "steps": 3 if cfg.smoke else 20}
    tutorial = {"data_dir": cfg.data.dir, "image_size": 28, "batch_size": 128, **few}
    return measure(
        cfg.pairs,
        tutorial=("reference.tutorial_feed", tutorial),
        plain=("ours.feed", {"overrides": _data(cfg), **length}),
        augmented=("ours.feed", {"overrides": [*_data(cfg), *augmented], **length}),
        training=("ours.trainer_loop", {"overrides": [*_data(cfg), *augmented], **length}),
    )


def time_to_accuracy(cfg: DictConfig) -> Any:
    """Whole trainings and their test accuracy: a plain small CNN, and `cfg.recipes`.

    A seed for each pair; beside them the rate of the tutorial, whose five epochs are too long.
    """
    image_size, batch_size = (28, 8) if cfg.smoke else (224, 32)
    options = {"data_dir": cfg.data.dir, "image_size": image_size, "batch_size": batch_size}
    length = _length(cfg, image_size, batch_size)
    short = ["trainer.max_steps=2", "trainer.limit_test_batches=2"] if cfg.smoke else []
    found: dict[str, list[Any]] = {}
    for seed in range(cfg.pairs):
        sides: dict[str, Side] = {"tutorial": ("reference.tutorial_loop", options | length)}
        for epochs in (1, 2):
            few = {"images": 2560} if cfg.smoke else {}
            plain = {"data_dir": cfg.data.dir, "epochs": epochs, "seed": seed, **few}
            sides[f"plain CNN, epochs: {epochs}"] = ("reference.plain_cnn", plain)
        for recipe in cfg.recipes[: 1 if cfg.smoke else None]:
            overrides = [*recipe.split(), *_data(cfg), *short, f"seed={seed}"]
            sides[recipe] = ("ours.training", {"overrides": overrides})
        for name, (run,) in measure(1, **sides).items():
            found.setdefault(name, []).append({"seed": seed} | run)
    return found


def inference(cfg: DictConfig) -> Any:
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
    return rows


def growth(cfg: DictConfig) -> Any:
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
    return rows


PARTS: dict[str, Callable[[DictConfig], Any]] = {
    part.__name__: part
    for part in (limits, same_work, loop, feed, inference, growth, time_to_accuracy)
}
AUGMENTED = {"degrees": 10, "translate": 0.1, "scale": 0.1, "shear": 0.1}


def _data(cfg: DictConfig) -> list[str]:
    return [f"data.dir={cfg.data.dir}"] if cfg.data.dir else []


def _length(cfg: DictConfig, image_size: int, batch_size: int) -> dict[str, int]:
    """Steps of warm-up and timed ones; more of small images, so that each takes seconds."""
    if cfg.smoke:
        return {"warmup": 1, "steps": 2}
    more = max(1, (224 // image_size) ** 2 * 32 // batch_size)
    return {"warmup": cfg.warmup, "steps": cfg.steps * more}


COMMAND = Command("benchmark", benchmark)
main = COMMAND.run


if __name__ == "__main__":
    main()
