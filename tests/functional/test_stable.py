"""Elementary functions: values, and gradients that stay finite far out as well as at 0."""

import math

import pytest
import torch
from torch.testing import assert_close

from lightning_priv.functional._stable import asinhc, log_sinhc, sinhc, tanhc
from lightning_priv.functional.lorentz import log_map_origin, to_point

FUNCTIONS = {
    asinhc: (lambda x: math.asinh(x) / x, 1e15),
    tanhc: (lambda x: math.tanh(x) / x, 1e15),
    log_sinhc: (lambda x: x + math.log1p(-math.exp(-2 * x)) - math.log(2 * x), 1e15),
    sinhc: (lambda x: math.sinh(x) / x, 80.0),
}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_far_out(function, dtype):
    """The powers of the series that is not taken there must not overflow into 0 * inf."""
    want, largest = FUNCTIONS[function]
    for x in (0.5, 3.0, 20.0, largest):
        q = torch.tensor(x * x, dtype=dtype, requires_grad=True)
        y = function(q)
        y.backward()
        assert_close(y.item(), want(x), rtol=2e-5 if dtype == torch.float32 else 1e-12, atol=0)
        assert torch.isfinite(q.grad)
    q = torch.zeros((), dtype=dtype, requires_grad=True)
    function(q).backward()
    assert torch.isfinite(q.grad)
    assert q.grad != 0


@pytest.mark.parametrize("k", [0.1, 1.0])
def test_gradient_of_the_logarithm_far_out(k):
    """The radius asinh(|s|/r) r has the gradient s / (|s| sqrt(1 + |s|^2/k))."""
    s = torch.tensor([[4e4, 1.1e5], [1e6, -2e6], [1e12, 1e12]], requires_grad=True)
    radius = log_map_origin(to_point(s, k), k).norm(dim=1)
    radius.sum().backward()
    exact = s.detach().double()
    norm = exact.norm(dim=1, keepdim=True)
    want = exact / norm / (1 + norm.square() / k).sqrt()
    assert_close(s.grad.double(), want, rtol=1e-3, atol=0)
