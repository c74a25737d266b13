"""What ReLU destroys in few dimensions: `python -m mnv2_lightning.relu_collapse`."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2_lightning.cli.command import Command

if TYPE_CHECKING:
    import numpy as np
    from omegaconf import DictConfig

log = logging.getLogger(__name__)


def relu_collapse(cfg: DictConfig) -> dict[str, Any]:
    """Figure 1 of arXiv 1801.04381 as a PNG, and theorem 1's share beside a measured one.

    A point x in the plane can be recovered from ReLU(T x) if at least two of its outputs are
    positive (and their rows of T independent, which random rows are). For a T whose entries are
    symmetric about 0 each output is positive with probability 1/2.
    """
    import numpy as np

    from mnv2_lightning.cli import from_python
    from mnv2_lightning.reports import figures
    from mnv2_lightning.system import durable_files

    cfg = from_python.checked(COMMAND, cfg)
    rng = np.random.default_rng(cfg.seed)
    x = spiral(cfg.points)
    restored, rows = [], []
    for m in cfg.dimensions:
        restored.append(restore(x, rng.standard_normal((m, 2))))
        share, error = surviving_share(x, m, cfg.matrices, rng)
        rows.append({"m": m, "measured": share, "standard_error": error, "theorem": theorem(m)})
    out = Path(cfg.run_dir)
    durable_files.make_folder(out)
    figures.draw_collapse(x, restored, rows).savefig(out / "relu_collapse.png")
    result = {"points": cfg.points, "matrices": cfg.matrices, "seed": cfg.seed, "shares": rows}
    durable_files.write_json(out / "relu_collapse.json", result)
    log.info("share of points with two positive outputs or more, over %d random T", cfg.matrices)
    for row in rows:
        measured, error, share = (100 * row[k] for k in ("measured", "standard_error", "theorem"))
        message = "  m = %-3d measured %8.3f %% +- %.3f   theorem 1 %8.3f %%"
        log.info(message, row["m"], measured, error, share)
    log.info("written: %s", out / "relu_collapse.png")
    return result


def spiral(points: int, turns: float = 2.0) -> np.ndarray:
    """(2, points), radius 0.05 to 1."""
    import numpy as np

    angle = np.linspace(0, 2 * math.pi * turns, points)
    radius = np.linspace(0.05, 1, points)
    return radius * np.stack([np.cos(angle), np.sin(angle)])


def restore(x: np.ndarray, T: np.ndarray) -> np.ndarray:
    """pinv(T) ReLU(T x): (2, N) points and an (m, 2) matrix -> (2, N)."""
    import numpy as np

    return np.linalg.pinv(T) @ np.maximum(T @ x, 0)


def surviving_share(
    x: np.ndarray, m: int, matrices: int, rng: np.random.Generator
) -> tuple[float, float]:
    """The mean over random (m, 2) matrices of the share of points with at least two positive
    outputs, and its standard error over the matrices (the points under one T are correlated).
    """
    import numpy as np

    shares = [np.mean((rng.standard_normal((m, 2)) @ x > 0).sum(0) >= 2) for _ in range(matrices)]
    return float(np.mean(shares)), float(np.std(shares, ddof=1) / math.sqrt(matrices))


def theorem(m: int) -> float:
    """P(Binomial(m, 1/2) >= 2): theorem 1 of the paper's appendix A for n = 2."""
    return 1 - (1 + m) / 2**m


COMMAND = Command("relu_collapse", relu_collapse)
main = COMMAND.main

if __name__ == "__main__":
    main()
