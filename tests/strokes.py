"""The ten digits as lines, and pictures of them."""

import math

import numpy as np

Point = tuple[float, float]  # x, y; (0, 0) is the top left, (1, 1) the bottom right
Line = list[Point]


def arc(x: float, y: float, radius: Point, start: float, end: float) -> Line:
    """Of an ellipse, between angles in degrees: 0 is right, 90 the bottom."""
    angles = np.radians(np.linspace(start, end, 13))
    return [(x + radius[0] * math.cos(a), y + radius[1] * math.sin(a)) for a in angles]


DIGITS: list[list[Line]] = [
    [arc(0.5, 0.5, (0.3, 0.48), -90, 270)],
    [[(0.42, 0.15), (0.55, 0), (0.55, 1)]],
    [[*arc(0.5, 0.27, (0.3, 0.26), -170, 40), (0.2, 1), (0.85, 1)]],
    [[*arc(0.45, 0.25, (0.3, 0.24), -150, 90), *arc(0.45, 0.74, (0.34, 0.26), -90, 150)]],
    [[(0.35, 0), (0.15, 0.55), (0.85, 0.55)], [(0.68, 0.1), (0.62, 1)]],
    [[(0.8, 0), (0.3, 0), (0.25, 0.42), *arc(0.45, 0.68, (0.35, 0.3), -110, 140)]],
    [[(0.62, 0), (0.35, 0.35), *arc(0.48, 0.74, (0.27, 0.25), 180, -180)]],
    [[(0.15, 0.02), (0.85, 0), (0.4, 1)]],
    [[*arc(0.5, 0.25, (0.24, 0.24), 90, -270), *arc(0.5, 0.75, (0.28, 0.26), -90, 270)]],
    [[*arc(0.47, 0.28, (0.28, 0.27), 0, -360), (0.72, 0.5), (0.62, 1)]],
]


def place(lines: list[Line], left: float, top: float, size: float) -> list[Line]:
    """Lines whose unit square has this place and side."""
    return [[(left + size * x, top + size * y) for x, y in line] for line in lines]


def render(
    lines: list[Line], shape: tuple[int, int], *, pen: float, paper: float = 0, ink: float = 255
) -> np.ndarray:
    """(H, W) uint8 with smooth edges. `lines` and the width of the pen: in px."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    distance = np.full(shape, np.inf)
    for line in lines:
        for (x0, y0), (x1, y1) in zip(line, [*line[1:], line[-1]], strict=True):
            dx, dy = x1 - x0, y1 - y0
            along = ((x - x0) * dx + (y - y0) * dy) / max(dx * dx + dy * dy, 1e-9)
            along = along.clip(0, 1)
            distance = np.minimum(distance, np.hypot(x0 + along * dx - x, y0 + along * dy - y))
    share = (pen / 2 + 0.5 - distance).clip(0, 1)
    return np.rint(paper + (ink - paper) * share).astype(np.uint8)
