"""A picture of a digit in the form of MNIST: the specification that the page follows too.

`tests/test_preparation.py` holds test vectors.
"""

import torch
from torch import Tensor, nn

SIDE, BOX = 28, 20  # px: of the image, and the longest side of the digit in it
FLOOR = 0.1  # of the darkest ink: what is fainter is paper
CENTER = 14.5  # px from the edge: where MNIST has the digit's center of mass


class MNISTPreparation(nn.Module):
    """Grey pictures, (B, H, W) from 0 to 255, -> digits, (B, 28, 28) float32 from 0 to 255.

    The ink is what differs from the mean of the border, darker or lighter. Its bounding box is
    resized to a longest side of 20 px by area, and put, by whole pixels, where its center of mass
    is in the middle, or as near as the box stays inside. An empty picture becomes zeros. All
    pictures of a batch have the same size.
    """

    def forward(self, images: Tensor) -> Tensor:
        ink = find_ink(images)
        rows, columns = ink.sum(2), ink.sum(1)  # (B, H), (B, W)
        top, height = _extent(rows)
        left, width = _extent(columns)
        scale = torch.maximum(height, width).clamp(min=1) / BOX  # picture px per px of the result
        down = _resize(rows, top, height, scale)  # (B, 28, H)
        across = _resize(columns, left, width, scale)  # (B, 28, W)
        digits = down @ ink @ across.transpose(1, 2)
        # The ink of one px of the picture, spread over several, is not less bright.
        return digits / digits.amax((1, 2), keepdim=True).clamp(min=1e-6) * 255


def find_ink(images: Tensor) -> Tensor:
    """The ink of grey pictures: (B, H, W) from 0 to 255 -> (B, H, W) from 0 to 1, 0 for paper."""
    x = images.float()
    edges = x[:, 0].mean(1), x[:, -1].mean(1), x[:, :, 0].mean(1), x[:, :, -1].mean(1)
    paper = (torch.stack(edges).mean(0))[:, None, None]
    darkest, lightest = x.amin((1, 2), keepdim=True), x.amax((1, 2), keepdim=True)
    is_dark_on_light = (paper - darkest > lightest - paper).float()
    ink = (x - paper) * (1 - 2 * is_dark_on_light)
    ink = ink.clamp(min=0)
    ink = ink / ink.amax((1, 2), keepdim=True).clamp(min=1)
    return ink * (ink > FLOOR)


def _extent(profile: Tensor) -> tuple[Tensor, Tensor]:
    """First position with ink, and the number up to the last: (B, N) -> (B, 1), (B, 1)."""
    position = torch.arange(profile.shape[1], device=profile.device, dtype=profile.dtype)
    is_ink = (profile > 0).float()
    last = (is_ink * (position + 1)).amax(1, keepdim=True)
    first = profile.shape[1] - (is_ink * (profile.shape[1] - position)).amax(1, keepdim=True)
    return first, (last - first).clamp(min=0)


def _resize(profile: Tensor, first: Tensor, length: Tensor, scale: Tensor) -> Tensor:
    """Weights of each px in each px of the result: (B, N) -> (B, 28, N)."""
    position = torch.arange(profile.shape[1], device=profile.device, dtype=profile.dtype)
    mass = profile.sum(1, keepdim=True).clamp(min=1e-6)
    center = (profile * (position + 0.5)).sum(1, keepdim=True) / mass
    start = torch.floor(CENTER - (center - first) / scale + 0.501)
    start = torch.minimum(start.clamp(min=0), torch.floor(SIDE - length / scale + 1e-3))
    pixel = torch.arange(SIDE, device=profile.device, dtype=profile.dtype)
    begin = first[:, :, None] + (pixel[:, None] - start[:, :, None]) * scale[:, :, None]
    end = begin + scale[:, :, None]
    overlap = torch.minimum(end, position + 1) - torch.maximum(begin, position)
    return overlap.clamp(min=0) / scale[:, :, None]
