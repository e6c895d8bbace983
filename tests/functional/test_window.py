"""Window sums against a convolution with ones, and their transposes."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812
from torch.testing import assert_close

from lightning_priv.functional.window import window_sum, window_sum_transpose

CASES = [
    ((3, 3), (1, 1), (1, 1), (1, 1)),
    ((3, 3), (2, 2), (1, 1), (1, 1)),
    ((1, 1), (2, 2), (0, 0), (1, 1)),
    ((1, 1), (2, 1), (1, 1), (1, 1)),
    ((4, 2), (2, 3), (1, 0), (1, 1)),
    ((3, 2), (2, 1), (2, 2), (2, 1)),
    ((3, 3), (3, 2), (0, 0), (1, 2)),
]


@pytest.mark.parametrize("window", CASES)
@pytest.mark.parametrize("shape", [(7, 6), (8, 9)])
def test_sum_is_a_convolution_with_ones_and_the_transpose_its_adjoint(window, shape):
    torch.manual_seed(0)
    kernel, stride, padding, dilation = window
    q = torch.randn(2, 1, *shape, dtype=torch.float64, requires_grad=True)
    ones = torch.ones(1, 1, *kernel, dtype=torch.float64)
    want = F.conv2d(q, ones, None, stride, padding, dilation)
    assert_close(window_sum(q, *window), want, rtol=1e-12, atol=1e-12)
    g = torch.randn_like(want)
    (adjoint,) = torch.autograd.grad(want, q, g)
    assert_close(window_sum_transpose(g, shape, *window), adjoint, rtol=1e-12, atol=1e-12)
