"""Batch norms folded into the convolutions before them, for inference."""

from itertools import pairwise

from torch import nn
from torch.nn.utils import fuse_conv_bn_eval


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Fold each batch norm that follows a convolution in an `nn.Sequential`, in place.

    `network` must be in evaluation mode; it computes the same but for rounding.
    """
    for module in network.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for (name, conv), (after, norm) in pairwise(list(module.named_children())):
            if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
                continue
            if norm.running_mean is not None:  # None: track_running_stats=False
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, after, nn.Identity())
    return network
