"""The ways round what is slow on small maps give what PyTorch's layers give."""

import pytest
import torch
from torch import nn

from mnv2_lightning.networks.small_maps import BatchNorm2d, DepthwiseConv2d, PointwiseConv2d

SIZES = [(1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (4, 4), (5, 5)]


def assert_as_plain(
    ours: nn.Module, size: tuple[int, int], kind: type[nn.Module], *, up_to: int
) -> None:
    """Outputs and gradients are those of PyTorch's layer, gone round up to that many px;
    channels_last stays so.
    """
    x = torch.randn(4, 6, *size, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    y = ours(x)
    expected = kind.forward(ours, x)
    torch.testing.assert_close(y, expected)
    assert (type(y.grad_fn) is not type(expected.grad_fn)) == (max(size) <= up_to)
    assert y.is_contiguous(memory_format=torch.channels_last)
    seed, inputs = torch.randn_like(y), (x, *ours.parameters())
    found = torch.autograd.grad(y, inputs, seed)
    torch.testing.assert_close(found, torch.autograd.grad(expected, inputs, seed))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel", "bias"), [(3, False), (3, True), (5, False)])
def test_depthwise(size: tuple[int, int], stride: int, kernel: int, bias: bool) -> None:
    padding = kernel // 2
    layer = DepthwiseConv2d(6, 6, kernel, stride, padding=padding, groups=6, bias=bias)
    assert_as_plain(layer.double(), size, nn.Conv2d, up_to=2)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_pointwise(size: tuple[int, int], bias: bool) -> None:
    assert_as_plain(PointwiseConv2d(6, 9, 1, bias=bias).double(), size, nn.Conv2d, up_to=4)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_batch_norm(size: tuple[int, int]) -> None:
    """In training, with the running statistics; in evaluation it is PyTorch's."""
    ours, plain = BatchNorm2d(6).double(), BatchNorm2d(6).double()
    assert_as_plain(ours, size, nn.BatchNorm2d, up_to=1)
    x = torch.randn(4, 6, *size, dtype=torch.float64)
    ours.reset_running_stats()
    ours(x), nn.BatchNorm2d.forward(plain, x)
    torch.testing.assert_close(dict(ours.named_buffers()), dict(plain.named_buffers()))
    torch.testing.assert_close(ours.eval()(x), plain.eval()(x))
