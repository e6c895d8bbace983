"""Weights of convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import prod

import torch
from torch import Tensor
from torch.nn import Parameter

from lightning_priv.nn.per_sample.bk.parts import (
    Part,
    Scope,
    add_weighted,
    blanked,
    gram,
    squares_of,
    weighted,
)
from lightning_priv.nn.per_sample.bk.product import gram_squares, worth_keeping
from lightning_priv.nn.per_sample.bk.windows import Geometry, patch_gram, patch_rows, patches
from lightning_priv.nn.per_sample.bk.winograd import fits, weight_gradient

__all__ = ["Convolution"]

_TRIAL_RECORDS = 16
#: routes that cost this many times the cheapest, counted in multiplications, are not tried
_PRUNE = 4
#: multiplications in the time that it takes to write a number to memory and read it again
_MEMORY = 50
#: multiplications in the time that *winograd* takes to transform a number
_TRANSFORM = 200


class Convolution(Part):
    """The weight of a convolution in one, two or three dimensions.

    Ways to the norm, for T output positions, windows of D numbers and P output channels:

    - *single*: the weight gradient of one record after the other, by the ordinary kernel; cheap
      where T is large, since nothing is unfolded and the operands are in the cache.
    - *unfold*: patches times output gradients, all records at once; for GPUs, and tiny layers.
    - *pixels*: sum over t, s of (patch_t.patch_s)(g_t.g_s), with the patches' products from shifted
      windows of the pixels' products (``patch_gram``); for small T.
    - *patches*: the same with patches; for groups, several views, and the smallest T.

    The first two have the gradients in hand and keep them if they are not much larger than the
    operands; otherwise the weighted sum is one weight gradient of the whole batch, with the factors
    folded into the output gradients. What is kept stays in the pieces in which it was made: they
    fit where the backward pass has just let go of feature maps, and nothing is copied.

    Args:
        parameter: the weight, shape (P, C / groups, *kernel).
        x: inputs, shape (rows, C, *spatial).
        g: output gradients, shape (rows, P, *outputs).
        geometry: of the convolution; ``x`` is padded with zeros only.
        scope: the batch.
        route: taken instead of the fastest.
    """

    def __init__(
        self,
        parameter: Parameter,
        x: Tensor,
        g: Tensor,
        geometry: Geometry,
        scope: Scope,
        route: str | None = None,
    ) -> None:
        super().__init__(parameter, scope)
        self._x, self._g = x, g
        self._geometry = geometry
        self._shape = (g.shape[1], x.shape[1] // geometry.groups, *geometry.kernel)
        self._route = route
        self._kept: list[Tensor] | None = None

    def gradients(self) -> Tensor:
        """The gradients themselves."""
        if self._kept is None:
            route = self._route or self._choose()
            direct = self._single() if route in ("single", "pixels") else self._unfold()
            return torch.cat(list(direct))
        return torch.cat(self._kept)

    def measure(self) -> Tensor:
        """Squared norms, shape (records,)."""
        route = self._route or self._choose()
        if route == "pixels":
            return self._gram(self._pixel_grams, prod(self._x.shape[2:]))
        if route == "patches":
            return self._gram(self._patch_grams, self._positions)
        return self._scan(route, squares_of)

    def scan(self, look: Callable[[Tensor], Tensor]) -> Tensor:
        """What ``look`` says of the gradients, some records at a time; then as after ``measure``.

        Args:
            look: from gradients (n, *weight) to a tensor with n rows.
        """
        direct = self._route in ("single", "unfold")
        route = self._route if direct and self._route else self._choose(directly=True)
        return self._scan(route, look)

    def _scan(self, route: str, look: Callable[[Tensor], Tensor]) -> Tensor:
        keep = worth_keeping(prod(self._shape), self._x, self._g)
        kept, seen = [], []
        for gradients in self._single() if route == "single" else self._unfold():
            seen.append(look(gradients))
            if keep:
                kept.append(gradients)
        if keep:
            self._kept = kept
            self._x = self._g = self._x.new_empty(0)
        return torch.cat(seen)

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """The sum of the gradients, each times its factor."""
        if self._kept is not None:
            pieces = zip(self._kept, factors.split([len(k) for k in self._kept]), strict=True)
            total = weighted(*next(pieces))
            for kept, weights in pieces:
                add_weighted(total, kept, weights)
            return total
        x, g = self._x, self._g
        weights = self.scope.by_rows(factors).to(x.dtype).view(-1, *[1] * (x.dim() - 1))
        x, g = (x * weights, g) if x.numel() < g.numel() else (x, g * weights)
        return self._summed(x, g, self._choose_sum())

    def blank(self, keep: Tensor) -> None:
        """Set the other records' numbers to zero."""
        if self._kept is not None:
            parts = zip(self._kept, keep.split([len(k) for k in self._kept]), strict=True)
            self._kept = [blanked(kept, of_kept) for kept, of_kept in parts]
        else:
            rows = self.scope.by_rows(keep)
            self._x, self._g = blanked(self._x, rows), blanked(self._g, rows)

    @property
    def _positions(self) -> int:
        return prod(self._g.shape[2:]) * self.scope.views

    def _rows(self, records: slice) -> slice:
        return slice(records.start * self.scope.views, records.stop * self.scope.views)

    def _summed(self, x: Tensor, g: Tensor, way: str) -> Tensor:
        """The weight gradient summed over the rows of ``x``."""
        if way == "winograd":
            return weight_gradient(x, g, self._geometry)
        if way == "product":
            return self._weight_gradient_by_product(x, g)
        return self._weight_gradient(x, g)

    def _weight_gradient(self, x: Tensor, g: Tensor) -> Tensor:
        """The same by the convolution's own kernel."""
        geo = self._geometry
        like = x.new_empty(1).expand(self._shape)  # only its shape is read
        found: Tensor = torch.ops.aten.convolution_backward(
            g, x, like, None, geo.stride, geo.padding, geo.dilation, False,
            [0] * len(geo.stride), geo.groups, [False, True, False],
        )[1]  # fmt: skip
        return found

    def _weight_gradient_by_product(self, x: Tensor, g: Tensor) -> Tensor:
        """The same as one matrix product, patches unfolded."""
        outputs, inputs, *kernel = self._shape
        by_channel = g.transpose(0, 1).reshape(outputs, -1)
        found = by_channel @ patch_rows(x, self._geometry, tuple(g.shape[2:]))
        return found.view(outputs, *kernel, inputs).movedim(-1, 1).contiguous()

    def _single(self) -> Iterator[Tensor]:
        views = self.scope.views
        for x, g in zip(self._x.split(views), self._g.split(views), strict=True):
            yield self._weight_gradient(x, g)[None]

    def _operands(self, records: slice) -> tuple[Tensor, Tensor]:
        """Patches and output gradients, shapes (records * groups, D or P / groups, T)."""
        groups, views = self._geometry.groups, self.scope.views
        x, g = self._x[self._rows(records)], self._g[self._rows(records)]
        columns = patches(x, self._geometry, tuple(g.shape[2:]))
        g = g.reshape(len(g), groups, g.shape[1] // groups, -1)
        if views > 1:  # the positions of all views of a record side by side
            columns = columns.unflatten(0, (-1, views)).permute(0, 2, 3, 1, 4).flatten(3)
            g = g.unflatten(0, (-1, views)).permute(0, 2, 3, 1, 4).flatten(3)
        return columns.flatten(0, 1), g.flatten(0, 1)

    def _unfold(self) -> Iterator[Tensor]:
        window = prod(self._shape[1:]) * self._geometry.groups
        size = self._x.element_size() * max(window * self._positions, prod(self._shape))
        for part in self.scope.chunks(size, self._x.device):
            columns, g = self._operands(part)
            yield torch.bmm(g, columns.mT).view(part.stop - part.start, *self._shape)

    def _gram(self, grams: Callable[[slice], tuple[Tensor, Tensor]], positions: int) -> Tensor:
        self.from_gram = True
        size = 4 * self._x.element_size() * self._geometry.groups * positions**2
        found = []
        for part in self.scope.chunks(size, self._x.device):
            squares = gram_squares(*grams(part))
            found.append(squares.view(part.stop - part.start, -1).sum(1))
        return torch.cat(found)

    def _pixel_grams(self, records: slice) -> tuple[Tensor, Tensor]:
        g = self._g[records].flatten(2)
        inputs = patch_gram(self._x[records], self._geometry, tuple(self._g.shape[2:]))
        return inputs, gram(g.mT)

    def _patch_grams(self, records: slice) -> tuple[Tensor, Tensor]:
        columns, g = self._operands(records)
        return gram(columns.mT), gram(g.mT)

    def _choose(self, directly: bool = False) -> str:
        x, g, geo = self._x, self._g, self._geometry
        groups, positions = geo.groups, self._positions
        inputs, outputs = prod(self._shape[1:]), g.shape[1] // groups
        again = positions * inputs * outputs * groups  # the weighted sum, if nothing is kept
        written = _MEMORY * prod(self._shape)
        cost = {"single": again + written, "unfold": again + written + positions * inputs * groups}
        cost["patches"] = again + groups * positions**2 * (inputs + outputs)
        ones = all(s == 1 for s in geo.stride)
        pixels = prod(x.shape[2:])
        if groups == 1 and self.scope.views == 1 and prod(geo.kernel) > 1:
            cost["pixels"] = (
                again + pixels**2 * x.shape[1] + positions**2 * (outputs + prod(geo.kernel))
            )
        if directly:
            cost = {name: cost[name] for name in ("single", "unfold")}
        best = min(cost.values())
        kept = worth_keeping(prod(self._shape), x, g)
        trials = {
            name: self._trial(_TRIAL_RECORDS, partial(_measured, route=name, kept=kept))
            for name, steps in cost.items()
            if steps <= _PRUNE * best
        }
        on_gpu = x.device.type == "cuda"
        # windows that overlap little, or are few numbers, cost little to unfold
        rule = "unfold" if on_gpu or not ones or inputs <= 64 else "single"
        if positions <= 64 and not directly:
            rule = min((n for n in ("pixels", "patches") if n in cost), key=lambda n: cost[n])
        shapes = (x.shape[1:], g.shape[1:], self.scope.views, x.dtype, x.device)
        key = (Convolution, directly, geo, *shapes)
        return self.scope.routes.choose(key, rule if rule in trials else "single", trials, on_gpu)

    def _choose_sum(self) -> str:
        """How to sum if nothing was kept: the convolution's own kernel, a product, or *winograd*.

        Kernels reorder the weight, which is most of the work where it has more numbers than the
        feature maps; a product unfolds these instead. *Winograd* takes fewer multiplications, and
        pays for many channels on a CPU.
        """
        x, g, geo = self._x, self._g, self._geometry
        on_gpu = x.device.type == "cuda"
        positions = len(g) * prod(g.shape[2:])
        ways = ["kernel"]
        if geo.groups == 1 and positions <= 2 * g.shape[1]:
            ways.append("product")
        if fits(geo) and x.device.type == "cpu":
            saved, transformed = 5 * x.shape[1] * g.shape[1], x.shape[1] + g.shape[1]
            if saved > _TRANSFORM * transformed:
                ways.append("winograd")
        shapes = (len(x).bit_length(), x.shape[1:], g.shape[1:], x.dtype, x.device)
        return self.scope.routes.choose(
            (Convolution, "sum", geo, *shapes),
            "kernel" if on_gpu else ways[-1],
            {way: self._trial(self.scope.records, partial(_summed, way=way)) for way in ways},
            on_gpu,
        )

    def _trial(self, records: int, run: Callable[[Convolution], object]) -> Callable[[], object]:
        """One run on made-up numbers; holds shapes only, none of this batch's tensors."""
        scope = Scope(min(records, self.scope.records), self.scope.views, self.scope.routes)
        rows = scope.records * scope.views
        x, g = (rows, *self._x.shape[1:]), (rows, *self._g.shape[1:])
        parameter, geometry = self.parameter, self._geometry
        ones = partial(torch.ones, dtype=self._x.dtype, device=self._x.device)
        return lambda: run(Convolution(parameter, ones(x), ones(g), geometry, scope))


def _summed(part: Convolution, way: str) -> None:
    part._summed(part._x, part._g, way)


def _measured(part: Convolution, route: str, kept: bool) -> None:
    """The norms; and the weighted sum, if some routes keep the gradients that it needs."""
    part._route = route
    x, g = part._x, part._g
    part.measure()
    if part._kept is not None:
        part.weighted_sum(part._kept[0].new_ones(part.scope.records))
    elif kept:
        part._weight_gradient(x, g * 1.0)
