"""A picture of a digit in the form of MNIST: the specification that the page follows too.

`tests/vectors` holds pictures and their results.
"""

import torch
from torch import Tensor, nn

SIDE, BOX = 28, 20  # px: of the image, and the longest side of the digit in it
CENTER = 14.5  # px from the edge: where MNIST has the digit's center of mass
FLOOR = 0.1  # of the darkest ink; what is fainter is paper


class MNISTPreparation(nn.Module):
    """Grey pictures, (B, H, W) from 0 to 255, -> digits, (B, 28, 28) float32 from 0 to 255.

    The border tells whether the ink is darker or lighter than the paper. The ink's bounding box is
    resized to a longest side of 20 px, and put, by whole pixels, where its center of mass is in the
    middle, or as near to it as the box stays inside. An empty picture becomes zeros. All pictures
    of a batch have the same size.
    """

    def forward(self, pictures: Tensor) -> Tensor:
        ink = find_ink(pictures)
        rows, columns = ink.sum(2), ink.sum(1)  # (B, H), (B, W)
        (top, height), (left, width) = _extent(rows), _extent(columns)
        scale = torch.maximum(height, width).clamp(min=1) / BOX  # picture px per px of the result
        down, across = _resize(rows, top, height, scale), _resize(columns, left, width, scale)
        digits = down @ ink @ across.transpose(1, 2)
        digits = digits / digits.amax((1, 2), keepdim=True).clamp(min=1e-6)  # thin lines are faint
        # An enlarged digit, by up to 2, is blurred: give it back its contrast.
        enlarged = (1 / scale[:, :, None] - 1).clamp(0, 1)
        return 255 * (digits + enlarged * (digits - 0.4)).clamp(0, 1)


def find_ink(pictures: Tensor) -> Tensor:
    """The ink of grey pictures: (B, H, W) from 0 to 255 -> (B, H, W) from 0 to 1, 0 for paper."""
    x = pictures.float()
    edges = torch.stack(
        [x[:, 0].mean(1), x[:, -1].mean(1), x[:, :, 0].mean(1), x[:, :, -1].mean(1)]
    )
    border, lowest, highest = edges.mean(0), x.amin((1, 2)), x.amax((1, 2))
    is_dark_on_light = (border - lowest > highest - border)[:, None, None]
    # The edge with the least ink: a digit may touch the others.
    paper = torch.where(
        is_dark_on_light, edges.amax(0)[:, None, None], edges.amin(0)[:, None, None]
    )
    ink = torch.where(is_dark_on_light, paper - x, x - paper).clamp(min=0)
    ink = ink / ink.amax((1, 2), keepdim=True).clamp(min=1)
    return ink * (ink > FLOOR)


def _extent(profile: Tensor) -> tuple[Tensor, Tensor]:
    """First position with ink, and how many there are up to the last: (B, N) -> (B, 1), (B, 1)."""
    count = profile.shape[1]
    position = torch.arange(count, device=profile.device, dtype=profile.dtype)
    is_ink = (profile > 0).float()
    last = (is_ink * (position + 1)).amax(1, keepdim=True)
    first = count - (is_ink * (count - position)).amax(1, keepdim=True)
    return first, (last - first).clamp(min=0)


def _resize(profile: Tensor, first: Tensor, length: Tensor, scale: Tensor) -> Tensor:
    """The weight of each px of the picture in each px of the result: (B, N) -> (B, 28, N).

    A px of the result averages the area that it covers, at least 1 px wide: enlarging is bilinear.
    """
    position = torch.arange(profile.shape[1], device=profile.device, dtype=profile.dtype)
    mass = profile.sum(1, keepdim=True).clamp(min=1e-6)
    center = (profile * (position + 0.5)).sum(1, keepdim=True) / mass
    # Of the box, in px of the result; 0.501 decides ties, as rounding errors must not.
    start = torch.floor(CENTER - (center - first) / scale + 0.501)
    start = torch.minimum(start.clamp(min=0), torch.floor(SIDE - length / scale + 0.001))
    pixel = torch.arange(SIDE, device=profile.device, dtype=profile.dtype)[:, None] + 0.5
    middle = first[:, :, None] + (pixel - start[:, :, None]) * scale[:, :, None]  # (B, 28, 1)
    width = scale[:, :, None].clamp(min=1)
    begin, end = middle - width / 2, middle + width / 2
    overlap = torch.minimum(end, position + 1) - torch.maximum(begin, position)
    return overlap.clamp(min=0) / width
