"""The fifteen corruptions of MNIST-C (Mu and Gilmer, arXiv 1906.02337), on whole batches.

Written anew, with the strengths of the published code (github.com/google-research/mnist-c); the
random numbers are others, so the images are in the style of MNIST-C, not its files.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

SIDE = 28  # px, of the images
CENTER = (SIDE - 1) / 2
CHUNK = 500  # images at a time; fog draws a map of 256 x 256 for each
FOG_SIDE = 256  # px of that map
LINE_WIDTH = 2.3  # px from the middle of a line, at which it has faded


def corrupt(images: Tensor, kind: str, *, seed: int = 0) -> Tensor:
    """(N, 28, 28) uint8 images, corrupted; a function of the images, `kind` and `seed`."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + list(CORRUPTIONS).index(kind))
    chunks = (chunk.float() / 255 for chunk in images.cpu().split(CHUNK))
    corrupted = [CORRUPTIONS[kind](chunk, generator) for chunk in chunks]
    return (torch.cat(corrupted).clamp(0, 1) * 255).round().byte().to(images.device)


def shot_noise(x: Tensor, generator: Generator) -> Tensor:
    photons = 3
    return torch.poisson(x * photons, generator) / photons


def impulse_noise(x: Tensor, generator: Generator) -> Tensor:
    is_hit = _uniform(x.shape, generator) < 0.17
    is_salt = _uniform(x.shape, generator) < 0.5
    return torch.where(is_hit, is_salt.float(), x)


def glass_blur(x: Tensor, generator: Generator) -> Tensor:
    """Blur, exchange pixels with neighbors twice, blur; along columns only, as published."""
    sigma, count = (0.7, 0.0), len(x)  # of rows and of columns
    x = (gaussian(x, sigma) * 255).floor() / 255
    every = torch.arange(count)
    for _ in range(2):
        for row in range(SIDE - 1, 1, -1):
            draws = torch.randint(2, (3, SIDE, count), generator=generator)
            for column in range(SIDE - 1, 1, -1):
                is_swapped, up, left = draws[:, column]
                there = every, row - is_swapped * up, column - is_swapped * left
                here, neighbor = x[:, row, column].clone(), x[there]
                x[there] = here
                x[:, row, column] = neighbor
    return gaussian(x, sigma)


def motion_blur(x: Tensor, generator: Generator) -> Tensor:
    """Average along a line from each pixel, at ±45 degrees, with half a Gaussian of sigma 3."""
    radius, sigma = 10, 3.0
    angle = (_uniform((len(x), 1, 1), generator) * 2 - 1) * math.pi / 4
    steps = torch.arange(2 * radius + 1)
    weights = torch.exp(-(steps**2) / (2 * sigma**2))
    rows, columns = torch.arange(SIDE)[:, None], torch.arange(SIDE)
    blurred = torch.zeros_like(x)
    for step, weight in zip(steps, weights / weights.sum(), strict=True):
        down, right = ((step * f(angle) - 0.5).ceil().long() for f in (torch.sin, torch.cos))
        row, column = (rows + down).clamp(0, SIDE - 1), (columns + right).clamp(0, SIDE - 1)
        blurred += weight * x[torch.arange(len(x))[:, None, None], row, column]
    return blurred


def shear(x: Tensor, generator: Generator) -> Tensor:
    angle = 0.4 * _signs(len(x), generator)
    one, zero = torch.ones_like(angle), torch.zeros_like(angle)
    return _affine(x, [[one, -angle.sin()], [zero, angle.cos()]])


def scale(x: Tensor, generator: Generator) -> Tensor:
    size = torch.full((len(x),), 1 / 0.7)
    return _affine(x, [[size, 0 * size], [0 * size, size]])


def rotate(x: Tensor, generator: Generator) -> Tensor:
    angle = 0.4 * _signs(len(x), generator)
    return _affine(x, [[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])


def brightness(x: Tensor, generator: Generator) -> Tensor:
    return x + 0.5


def translate(x: Tensor, generator: Generator) -> Tensor:
    one = torch.ones(len(x))
    shift = torch.stack([3 * _signs(len(x), generator) for _ in range(2)], 1)
    return _affine(x, [[one, 0 * one], [0 * one, one]], shift)


def stripe(x: Tensor, generator: Generator) -> Tensor:
    """Invert the left and the right quarter."""
    columns = torch.arange(SIDE)
    return torch.where((columns < 7) | (columns >= 21), 1 - x, x)


def fog(x: Tensor, generator: Generator) -> Tensor:
    """Add a corner of a random height map, by the diamond-square algorithm, and scale back."""
    strength, decay = 3.0, 1.4
    height = torch.zeros(len(x), FOG_SIDE, FOG_SIDE)
    step, wibble = FOG_SIDE, 100.0

    def noisy_mean(total: Tensor) -> Tensor:
        return total / 4 + wibble * wibble * (_uniform(total.shape, generator) * 2 - 1)

    while step >= 2:
        half = step // 2
        corners = height[:, ::step, ::step]
        rows = corners + corners.roll(-1, 1)
        squares = height[:, half::step, half::step]
        squares.copy_(noisy_mean(rows + rows.roll(-1, 2)))
        beside = squares + squares.roll(1, 1) + corners + corners.roll(-1, 2)
        height[:, ::step, half::step] = noisy_mean(beside)
        above = squares + squares.roll(1, 2) + corners + corners.roll(-1, 1)
        height[:, half::step, ::step] = noisy_mean(above)
        step, wibble = half, wibble / decay
    low, high = height.amin((1, 2), keepdim=True), height.amax((1, 2), keepdim=True)
    height = (height[:, :SIDE, :SIDE] - low) / (high - low)
    brightest = x.amax((1, 2), keepdim=True)
    return (x + strength * height) * brightest / (brightest + strength)


def spatter(x: Tensor, generator: Generator) -> Tensor:
    """Drops of a dark gray mud."""
    liquid = gaussian(0.65 + 0.3 * torch.randn(x.shape, generator=generator), 1.0)
    mud = gaussian((liquid > 0.65).float(), 1.5)
    mud = torch.where(mud < 0.8, 0.0, mud)
    return x * (1 - mud) + 63 / 255 * mud


def dotted_line(x: Tensor, generator: Generator) -> Tensor:
    """A line from the left to the right edge, two columns in four."""
    left, right = torch.randint(SIDE - 1, (2, len(x)), generator=generator).float()
    zero = torch.zeros(len(x))
    line = _line((zero, left), (zero + SIDE - 1, right))
    return x + line * (torch.arange(SIDE) % 4 >= 2)


def zigzag(x: Tensor, generator: Generator) -> Tensor:
    """Seven strokes from column 2 to column 25, up to 2 px off a sloping line."""
    first, last, length, off = 2, 25, 2.0, 2.0
    row = torch.randint(SIDE - 1, (len(x),), generator=generator).float()
    slope = torch.randint(-5, 5, (len(x),), generator=generator).float().div(last - first).atan()
    whole = (last - first) / slope.cos()  # 23 to 23.6
    along = [torch.zeros_like(whole)]
    across = [torch.zeros_like(whole)]
    for turn in range(6):
        along.append(torch.full_like(whole, (2 * turn + 1) * length))
        across.append(torch.full_like(whole, (-1) ** turn * off))
    along.append(whole)
    across.append(across[-1] / (2 * (whole - 10 * length)))
    cos, sin, turns = slope.cos(), slope.sin(), zip(along, across, strict=True)
    ends = [(first + a * cos - b * sin, row + a * sin + b * cos) for a, b in turns]
    for start, end in pairwise(ends):
        x = (x + _line(start, end)).clamp(0, 1)
    return x


def canny_edges(x: Tensor, generator: Generator) -> Tensor:
    """Canny's edges: smooth, differentiate, thin, keep the weak ones that touch a strong one."""
    ones = torch.ones_like(x)
    smooth = gaussian(x, 1.0, mode="constant") / (gaussian(ones, 1.0, mode="constant") + 1e-9)
    padded = F.pad(smooth[:, None], (1, 1, 1, 1), mode="replicate")
    sobel = torch.tensor([[-1.0, -2, -1], [0, 0, 0], [1, 2, 1]])
    by_row, by_column = F.conv2d(padded, torch.stack([sobel, sobel.T])[:, None]).unbind(1)
    magnitude = torch.hypot(by_row, by_column)
    # The two neighbors along the gradient, interpolated between the eight around a pixel.
    down, right = by_row / (magnitude + 1e-12), by_column / (magnitude + 1e-12)
    larger = torch.maximum(down.abs(), right.abs()).clamp(min=1e-6)
    is_peak = torch.ones_like(x, dtype=torch.bool)
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    for sign in (1, -1):
        row, column = rows + sign * down / larger, columns + sign * right / larger
        is_peak &= magnitude >= _bilinear(magnitude, row, column)
    inside = (rows > 0) & (rows < SIDE - 1) & (columns > 0) & (columns < SIDE - 1)
    weak = (is_peak & inside & (magnitude > 0.1)).float()
    strong = weak * (magnitude > 0.2)
    while True:
        grown = weak * F.max_pool2d(strong, 3, stride=1, padding=1)
        if torch.equal(grown, strong):
            return strong
        strong = grown


CORRUPTIONS: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    function.__name__: function
    for function in (
        shot_noise,
        impulse_noise,
        glass_blur,
        motion_blur,
        shear,
        scale,
        rotate,
        brightness,
        translate,
        stripe,
        fog,
        spatter,
        dotted_line,
        zigzag,
        canny_edges,
    )
}


def gaussian(x: Tensor, sigma: float | tuple[float, float], mode: str = "replicate") -> Tensor:
    """(N, H, W) convolved with a Gaussian, up to four `sigma`, which may differ by dimension."""
    sigmas = sigma if isinstance(sigma, tuple) else (sigma, sigma)
    y = x[:, None]
    for dimension, width in enumerate(sigmas):
        if radius := int(4 * width + 0.5):
            weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / width) ** 2)
            kernel = (weights / weights.sum()).view(1, 1, *((-1, 1) if dimension == 0 else (1, -1)))
            pad = (0, 0, radius, radius) if dimension == 0 else (radius, radius, 0, 0)
            y = F.conv2d(F.pad(y, pad, mode=mode), kernel)
    return y[:, 0]


def _uniform(shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator)


def _signs(count: int, generator: Generator) -> Tensor:
    return torch.randint(2, (count,), generator=generator).float() * 2 - 1


def _affine(x: Tensor, matrix: list[list[Tensor]], shift: Tensor | None = None) -> Tensor:
    """The value of `x` at matrix (p - center) + center + shift for each pixel p = (column, row)."""
    side = torch.arange(SIDE) - CENTER
    rows, columns = torch.meshgrid(side, side, indexing="ij")
    (a, b), (c, d) = ([entry[:, None, None] for entry in row] for row in matrix)
    column, row = a * columns + b * rows + CENTER, c * columns + d * rows + CENTER
    if shift is not None:
        column, row = column + shift[:, 0, None, None], row + shift[:, 1, None, None]
    return _bilinear(x, row, column)


def _bilinear(x: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """`x`, (N, 28, 28), at real positions, (N, 28, 28); 0 outside."""
    grid = torch.stack([column, row], -1) / CENTER - 1
    return F.grid_sample(x[:, None], grid, align_corners=True)[:, 0]


def _line(start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor]) -> Tensor:
    """(N, 28, 28) lines between (column, row) points, (N,) each; they fade with distance."""
    (c0, r0), (c1, r1) = ([value[:, None, None] for value in point] for point in (start, end))
    rows, columns = torch.arange(SIDE)[:, None], torch.arange(SIDE)
    distance = (rows - r0 - (r1 - r0) / (c1 - c0) * (columns - c0)).abs()
    line = (torch.log(1 - distance.clamp(max=LINE_WIDTH - 1e-6) / LINE_WIDTH) + 1).clamp(0, 1)
    return line * ((columns >= c0.floor()) & (columns < c1.ceil()))
