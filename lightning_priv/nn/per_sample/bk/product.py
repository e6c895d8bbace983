"""Weights of linear maps that are applied at every position of a record."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import Parameter

from lightning_priv.nn.per_sample.bk.parts import (
    Part,
    Scope,
    blanked,
    gram,
    squares_of,
    weighted,
)

__all__ = ["Product", "gram_squares", "worth_keeping"]

_TRIAL_RECORDS = 4
_UNITS = 40  # in the last place


class Product(Part):
    """The weight W of y = W x at T positions; a record's gradient is sum_t g_t x_t^T.

    Three ways to the norm. *outer*, for T = 1: |g|^2 |x|^2. *gram*: sum over t, s of
    (x_t.x_s)(g_t.g_s), for few positions. *direct*: the gradient itself, which is kept if it is not
    much larger than x and g. Unless it is kept, the weighted sum is formed from x and g again, as
    one matrix product for the whole batch.

    Args:
        parameter: the weight, shape (P, D), or the rows ``block`` of it.
        x: inputs of each row, shape (rows, *, D).
        g: output gradients of each row, shape (rows, *, P).
        scope: the batch.
        block: see ``Part``.
        route: taken instead of the fastest.
    """

    def __init__(
        self,
        parameter: Parameter,
        x: Tensor,
        g: Tensor,
        scope: Scope,
        block: slice | None = None,
        route: str | None = None,
    ) -> None:
        super().__init__(parameter, scope, block)
        # the positions of all views of a record: their gradients add up before the norm
        self._x = x.reshape(scope.records, -1, x.shape[-1])
        self._g = g.reshape(scope.records, -1, g.shape[-1])
        self._kept: Tensor | None = None
        self._route = route

    def gradients(self) -> Tensor:
        """The gradients themselves."""
        return torch.bmm(self._g.mT, self._x)

    def measure(self) -> Tensor:
        """Squared norms, shape (records,)."""
        x, g = self._x, self._g
        if x.shape[1] == 1:
            return squares_of(x) * squares_of(g)
        if (self._route or self._choose()) == "gram":
            return self._gram()
        if worth_keeping(x.shape[2] * g.shape[2], x, g):
            self._kept = self.gradients()
            self._x = self._g = x.new_empty(0)
            return squares_of(self._kept)
        size = x.element_size() * x.shape[2] * g.shape[2]
        chunks = self.scope.chunks(size, x.device)
        return torch.cat([squares_of(torch.bmm(g[c].mT, x[c])) for c in chunks])

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """The sum of the gradients, each times its factor."""
        if self._kept is not None:
            return weighted(self._kept, factors)
        x, g = self._x, self._g
        weights = factors.to(x.dtype)[:, None, None]
        x, g = (x * weights, g) if x.shape[2] < g.shape[2] else (x, g * weights)
        return g.flatten(0, 1).t() @ x.flatten(0, 1)

    def blank(self, keep: Tensor) -> None:
        """Set the other records' numbers to zero."""
        if self._kept is not None:
            self._kept = blanked(self._kept, keep)
        else:
            self._x, self._g = blanked(self._x, keep), blanked(self._g, keep)

    def _gram(self) -> Tensor:
        self.from_gram = True
        x, g = self._x, self._g
        chunks = self.scope.chunks(2 * x.element_size() * x.shape[1] ** 2, x.device)
        return torch.cat([gram_squares(gram(x[c]), gram(g[c])) for c in chunks])

    def _choose(self) -> str:
        x, g = self._x, self._g
        positions, inputs, outputs = x.shape[1], x.shape[2], g.shape[2]
        gram, direct = positions * (inputs + outputs), inputs * outputs
        if gram > 8 * direct:
            return "direct"
        if direct > 8 * gram:
            return "gram"
        key = (Product, positions, inputs, outputs, x.dtype, x.device)
        trials = {name: self._trial(name) for name in ("gram", "direct")}
        rule = "gram" if gram < direct else "direct"
        return self.scope.routes.choose(key, rule, trials, x.device.type == "cuda")

    def _trial(self, route: str) -> Callable[[], object]:
        """One run on made-up numbers; holds shapes only, none of this batch's tensors."""
        records = min(self.scope.records, _TRIAL_RECORDS)
        scope, parameter = Scope(records, 1, self.scope.routes), self.parameter
        x, g = (records, *self._x.shape[1:]), (records, *self._g.shape[1:])
        ones = partial(torch.ones, dtype=self._x.dtype, device=self._x.device)

        def run() -> None:
            part = Product(parameter, ones(x), ones(g), scope, route=route)
            part.measure()
            part.weighted_sum(ones(records))

        return run


def gram_squares(inputs: Tensor, outputs: Tensor) -> Tensor:
    """Squared norms from Gram matrices of inputs and of output gradients, never below the truth.

    The sum over t, s of K_ts G_ts cancels where a gradient is much shorter than its terms are; the
    rounding it may hide is added, so that no factor lets a norm exceed its bound: blocked kernels
    were seen to be off by up to 35 units in the last place, for rows of equal numbers.

    Args:
        inputs: K, shape (records, T, T), as ``gram`` gives it.
        outputs: G, likewise.

    Returns:
        Squared norms, shape (records,).
    """
    lengths = (inputs.diagonal(dim1=1, dim2=2) * outputs.diagonal(dim1=1, dim2=2)).clamp_min_(0)
    eps = max(torch.finfo(inputs.dtype).eps, torch.finfo(outputs.dtype).eps)
    rounding = _UNITS * eps * lengths.sqrt_().sum(1).square_()
    return (inputs * outputs).sum((1, 2)).clamp_min_(0) + rounding


def worth_keeping(elements: int, x: Tensor, g: Tensor) -> bool:
    """Whether gradients of ``elements`` numbers a record may stay in memory in place of x and g."""
    return elements * len(x) <= 3 * (x.numel() + g.numel())
