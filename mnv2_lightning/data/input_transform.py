"""From images in [0, 1] to what a network takes."""

import torch.nn.functional as F
from torch import Tensor, nn


class InputTransform(nn.Module):
    """Crop, normalize and resize: (B, C, H, H) in [0, 1] -> (B, C, S, S), S = `image_size`."""

    def __init__(self, *, crop: int, image_size: int, mean: float, std: float) -> None:
        super().__init__()
        self.crop, self.image_size, self.mean, self.std = crop, image_size, mean, std

    def forward(self, x: Tensor) -> Tensor:
        if self.crop < x.shape[-1]:
            border = (x.shape[-1] - self.crop) // 2
            x = x[..., border : border + self.crop, border : border + self.crop]
        x = (x - self.mean) / self.std
        if x.shape[-1] != self.image_size:
            size = (self.image_size, self.image_size)
            x = F.interpolate(x, size, mode="bilinear", antialias=True)
        return x
