"""The book-keeping engine."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from lightning_priv.nn.per_sample.bk.attention import AttentionTap, Projection
from lightning_priv.nn.per_sample.bk.parts import Dense, Part, Scope
from lightning_priv.nn.per_sample.bk.routes import Routes
from lightning_priv.nn.per_sample.bk.rules import Rule, by_fallback
from lightning_priv.nn.per_sample.bk.table import rule_for
from lightning_priv.nn.per_sample.clipping import ClipRule
from lightning_priv.nn.per_sample.engine import Clipped
from lightning_priv.nn.per_sample.hooks import HooksEngine
from lightning_priv.nn.per_sample.layers import Call, Layer
from lightning_priv.nn.per_sample.precision import full_precision
from lightning_priv.nn.per_sample.sums import GradientSums
from lightning_priv.nn.per_sample.taps import LayerTaps

__all__ = ["BookKeepingEngine"]


class BookKeepingEngine(HooksEngine):
    """One backward pass without weight gradients; norms and weighted sums layer by layer.

    While the backward pass is at a layer, its operands are at hand: the norms of its per-record
    gradients are formed in whichever way is cheapest for its shape, and only what the weighted sum
    will need is kept, the gradients themselves or the operands. When all norms are known, each
    layer's weighted sum goes straight into the sums (Bu et al. 2023, book-keeping; Bu et al. 2022,
    mixed ghost clipping, for the choice by layer).

    Layers without a rule of their own fall back to Opacus' grad samplers or functorch; for
    parameters used several times (tied weights, repeated calls) the uses are added up before the
    norm is taken. Both are exact.

    Args:
        loss_reduction: whether the loss is the mean or the sum of the records' losses.
        reproducible: choose routes by rule instead of by timing, so that a run can be repeated to
            the last bit.
    """

    name: ClassVar[str] = "bk"

    def __init__(
        self, loss_reduction: Literal["mean", "sum"] = "mean", reproducible: bool = False
    ) -> None:
        super().__init__(loss_reduction, reproducible)
        self._routes = Routes(reproducible)
        self._rules: dict[int, Rule] = {}
        self._attention: list[AttentionTap] = []
        self._parts: list[Part] = []
        self._squared: dict[Parameter, Tensor] = {}
        self._keeps_all = False

    def detach(self) -> None:
        """Take all hooks away."""
        super().detach()
        for tap in self._attention:
            tap.remove()
        self._attention = []
        self._rules = {}
        self._parts, self._squared = [], {}

    def _attach(self, module: nn.Module) -> None:
        for layer in self.layers:
            rule = rule_for(layer.module)
            if rule is not None:
                self._rules[id(layer)] = rule
                layer.joint = rule.joint
        attention = [i for i in self.layers if type(i.module) is nn.MultiheadAttention]
        others = [i for i in self.layers if type(i.module) is not nn.MultiheadAttention]
        self._taps = taps = LayerTaps(others, self._receive)
        self._attention = [AttentionTap(layer, taps) for layer in attention]

    def abort(self) -> None:
        """Forget the forward pass that ``begin`` watched."""
        super().abort()
        self._parts, self._squared = [], {}

    def per_sample_gradients(self, loss: Tensor) -> dict[Parameter, Tensor]:
        """Gradients (records, *parameter) of each record's own loss, for the parameters used."""
        self._keeps_all = True
        try:
            return super().per_sample_gradients(loss)
        finally:
            self._keeps_all = False

    def finish(self, loss: Tensor, rule: ClipRule, sums: GradientSums) -> Clipped:
        """Clip the gradients of the records of this batch and add them to ``sums``."""
        with full_precision():
            self._pass(loss)
            scope = self._scope()
            parts, self._parts = self._parts, []
            # parameters used several times: only now are all their uses known
            parts += [Dense(p, g, scope.of_records()) for p, g in self._take().items()]
            for part in parts:
                if part.parameter not in self._squared:
                    self._squared[part.parameter] = part.measure()
            norms = {p: s.to(sums.dtype) for p, s in self._squared.items()}
            self._squared = {}
            squares, layers = self._squares(norms)
            # the norms err by a few units in the last place, those from Gram products by more
            units = 1000 if any(part.from_gram for part in parts) else 16
            factors = rule.factors(squares, layers, units * torch.finfo(squares.dtype).eps)
            total = squares.sum(0).sqrt()
            finite = torch.isfinite(total)
            every = bool(finite.all())
            rows = {p: i if len(factors) > 1 else 0 for i, p in enumerate(norms)}
            while parts:
                part = parts.pop()
                if not every:
                    part.blank(finite)
                found = part.weighted_sum(factors[rows[part.parameter]])
                sums.add(part.parameter, found, part.block)
            self._routes.settle()
        return Clipped(total, (factors < 1).any(0))

    def _scope(self) -> Scope:
        return Scope(self._size, self._views, self._routes)

    def _receive(self, layer: Layer, call: Call, output_gradients: list[Tensor | None]) -> None:
        assert self._taps is not None
        scope = self._scope()
        for part in self._parts_of(layer, call, output_gradients, scope):
            parameter = part.parameter
            if self._keeps_all or self._taps.uses[parameter] > 1:
                self._add_sample(part)
                continue
            squares = part.measure()
            before = self._squared.get(parameter)
            self._squared[parameter] = squares if before is None else before + squares
            self._parts.append(part)

    def _parts_of(
        self, layer: Layer, call: Call, output_gradients: list[Tensor | None], scope: Scope
    ) -> list[Part]:
        if isinstance(layer, Projection):
            return layer.parts(call, output_gradients, scope)
        rule = self._rules.get(id(layer))
        parts = None if rule is None else rule.parts(layer, call, output_gradients, scope)
        return by_fallback(layer, call, output_gradients, scope) if parts is None else parts

    def _add_sample(self, part: Part) -> None:
        gradients = part.gradients()
        if part.block is not None:
            whole = gradients.new_zeros(len(gradients), *part.parameter.shape)
            whole[:, part.block] = gradients
            gradients = whole
        before = self._samples.get(part.parameter)
        self._samples[part.parameter] = gradients if before is None else before + gradients
