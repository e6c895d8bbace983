"""Elementary functions that stay exact, with finite gradients, where the textbook form is 0/0."""

import math

import torch
from torch import Tensor

# Below these arguments the series are exact to float64 rounding (next term < 1e-17).
_SERIES_SINH = 1e-3
_SERIES_ASINH = 1e-3
_SERIES_LOG = 1e-2  # (next term 2e-16 relative; the closed form cancels below)


def _near(q: Tensor, small: Tensor) -> Tensor:
    """Arguments of a series: 0 where it is not taken.

    There its powers would overflow (q^6 in float32 from 3e6 on), and 0 * inf in the backward pass
    of ``torch.where`` is NaN, although the value comes from the other branch.
    """
    return torch.where(small, q, torch.zeros_like(q))


def sinhc(q: Tensor) -> Tensor:
    """sinh(sqrt(q)) / sqrt(q) for q >= 0, smooth at 0; shape and dtype of ``q``."""
    small = q < _SERIES_SINH
    root = torch.where(small, torch.ones_like(q), q).sqrt()
    n = _near(q, small)
    series = 1 + n / 6 * (1 + n / 20 * (1 + n / 42 * (1 + n / 72)))
    return torch.where(small, series, torch.sinh(root) / root)


def asinhc(q: Tensor) -> Tensor:
    """asinh(sqrt(q)) / sqrt(q) for q >= 0, smooth at 0; shape and dtype of ``q``."""
    small = q < _SERIES_ASINH
    root = torch.where(small, torch.ones_like(q), q).sqrt()
    n = _near(q, small)
    series = 1 - n * (1 / 6 - n * (3 / 40 - n * (15 / 336 - n * (105 / 3456 - n * 945 / 42240))))
    return torch.where(small, series, torch.asinh(root) / root)


def atanhc(q: Tensor) -> Tensor:
    """atanh(sqrt(q)) / sqrt(q) for 0 <= q < 1, smooth at 0; shape and dtype of ``q``."""
    small = q < _SERIES_ASINH
    root = torch.where(small, torch.full_like(q, 0.25), q).sqrt()
    series = 1 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q / 11))))
    return torch.where(small, series, torch.atanh(root) / root)


def tanhc(q: Tensor) -> Tensor:
    """tanh(sqrt(q)) / sqrt(q) for q >= 0, smooth at 0; shape and dtype of ``q``."""
    small = q < _SERIES_SINH
    root = torch.where(small, torch.ones_like(q), q).sqrt()
    n = _near(q, small)
    series = 1 - n * (1 / 3 - n * (2 / 15 - n * (17 / 315 - n * (62 / 2835 - n * 1382 / 155925))))
    return torch.where(small, series, torch.tanh(root) / root)


def log_sinhc(q: Tensor) -> Tensor:
    """log( sinh(sqrt(q)) / sqrt(q) ) for q >= 0, smooth at 0 and without overflow far out."""
    small = q < _SERIES_LOG
    x = torch.where(small, torch.ones_like(q), q).sqrt()
    far = x + torch.log(-torch.expm1(-2 * x) / (2 * x))
    n = _near(q, small)
    return torch.where(small, n * (1 / 6 - n * (1 / 180 - n * (1 / 2835 - n / 37800))), far)


def safe_sqrt(q: Tensor) -> Tensor:
    """sqrt(q) for q >= 0 with gradient 0, not infinity, at q = 0 (the subgradient of a norm)."""
    zero = q <= 0
    return torch.where(zero, torch.zeros_like(q), torch.where(zero, torch.ones_like(q), q).sqrt())


def widen(x: Tensor) -> Tensor:
    """The tensor in float64 where the device has it, for differences of large squares."""
    return x if x.device.type == "mps" else x.double()


def root(k: float | Tensor) -> float | Tensor:
    """sqrt(k) of a curvature parameter given as a number or a scalar tensor."""
    return k.sqrt() if isinstance(k, Tensor) else math.sqrt(k)


def check_k(k: float | Tensor) -> None:
    """Raise ``ValueError`` unless ``k`` is one positive number.

    The value of a tensor is looked at on the CPU only: elsewhere reading it would wait.
    """
    if isinstance(k, Tensor):
        if k.numel() != 1:
            raise ValueError(f"k must be one number, got a tensor of shape {tuple(k.shape)}")
        if k.device.type != "cpu" or torch.compiler.is_compiling():
            return
        k = float(k.detach())
    if not (k > 0 and math.isfinite(k)):
        raise ValueError(
            f"k must be a finite number > 0, got {k}; k is the squared radius, "
            "the sectional curvature is -1/k (k=2 means curvature -1/2)"
        )
