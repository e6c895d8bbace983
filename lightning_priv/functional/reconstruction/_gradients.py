"""Autograd for the gamma law; imported only when a tensor is given."""

from typing import Any

import torch
from torch import Tensor

from lightning_priv.functional.reconstruction import _law
from lightning_priv.functional.reconstruction._ops import torch_ops


class _Tail(torch.autograd.Function):
    """Tail in ``ratio``; the derivative is again built from differentiable pieces."""

    @staticmethod
    def forward(
        ctx: Any, ratio: Tensor, offset: Tensor, shape: Any, upper: bool, log: bool
    ) -> Tensor:
        ctx.options = (shape, upper, log)
        ctx.save_for_backward(ratio, offset)
        return _law.tail_kernel(shape, ratio, offset, ops=torch_ops(), upper=upper, log=log)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ratio, offset = ctx.saved_tensors
        shape, upper, log = ctx.options
        positive = ratio > 0
        safe = torch.where(positive, ratio, 1.0)
        log_slope = _Density.apply(safe, torch.where(positive, offset, 0.0), shape)
        if log:
            log_slope = log_slope - _Tail.apply(safe, offset, shape, upper, True)
        slope = torch.exp(log_slope) / safe
        sign = -1.0 if upper else 1.0
        return grad * torch.where(positive, sign * slope, 0.0), None, None, None, None


class _Density(torch.autograd.Function):
    """log of x^a e^-x / Gamma(a) in ``ratio``: derivative -a offset / ratio."""

    @staticmethod
    def forward(ctx: Any, ratio: Tensor, offset: Tensor, shape: Any) -> Tensor:
        ctx.shape = shape
        ctx.save_for_backward(ratio, offset)
        return _law.log_kernel(shape, ratio, offset, ops=torch_ops(), kind="density")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ratio, _ = ctx.saved_tensors
        return grad * ctx.shape * (1.0 / ratio - 1.0), None, None


class _Quantile(torch.autograd.Function):
    """Ratio at a probability, differentiated by the implicit function theorem."""

    @staticmethod
    def forward(
        ctx: Any, probability: Tensor, shape: Any, upper: bool, log: bool, log_result: bool
    ) -> Tensor:
        options = {"upper": upper, "log": log, "log_result": log_result}
        result = _law.quantile_kernel(shape, probability, ops=torch_ops(), **options)
        ctx.options = (shape, upper, log, log_result)
        ctx.save_for_backward(probability, result)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        probability, result = ctx.saved_tensors
        shape, upper, log, log_result = ctx.options
        ratio = torch.exp(result) if log_result else result
        log_slope = _Density.apply(ratio, ratio - 1.0, shape)  # of the tail in log(ratio)
        if log:
            log_slope = log_slope - probability
        slope = torch.exp(-log_slope) * (-1.0 if upper else 1.0)
        if not log_result:
            slope = slope * ratio
        return grad * slope, None, None, None, None


def tail_with_gradient(shape: Any, ratio: Tensor, offset: Tensor, upper: bool, log: bool) -> Tensor:
    """:func:`_law.tail` on tensors; gradients flow to ``ratio``."""
    return _Tail.apply(ratio, offset.detach(), shape, upper, log)


def log_with_gradient(shape: Any, ratio: Tensor, offset: Tensor, kind: _law.Kind) -> Tensor:
    """Logarithm of a tail or of the density in log(ratio); gradients flow to ``ratio``."""
    if kind == "density":
        return _Density.apply(ratio, offset.detach(), shape)
    return _Tail.apply(ratio, offset.detach(), shape, kind == "upper", True)


def quantile_with_gradient(
    shape: Any, probability: Tensor, *, upper: bool, log: bool, log_result: bool
) -> Tensor:
    """:func:`_law.ratio_at` on tensors; gradients flow to ``probability``."""
    return _Quantile.apply(probability, shape, upper, log, log_result)
