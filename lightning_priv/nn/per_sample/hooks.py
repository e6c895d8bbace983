"""Engines that form each record's whole gradient, by Opacus' grad samplers or by functorch."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from lightning_priv.errors import UnsupportedModuleError
from lightning_priv.nn.per_sample.clipping import ClipRule
from lightning_priv.nn.per_sample.engine import Clipped, PerSampleEngine
from lightning_priv.nn.per_sample.layers import Call, Layer
from lightning_priv.nn.per_sample.sums import GradientSums
from lightning_priv.nn.per_sample.taps import LayerTaps

__all__ = ["FunctorchEngine", "HooksEngine"]


class HooksEngine(PerSampleEngine):
    """Opacus' grad sampler for each layer that has one, functorch for the others.

    Memory: one gradient for each record of the physical batch. Layers used several times and tied
    weights add up before the norm is taken.
    """

    name: ClassVar[str] = "hooks"

    _taps: LayerTaps | None = None

    def detach(self) -> None:
        """Take all hooks away."""
        if self._taps is not None:
            self._taps.remove()
            self._taps = None
        self._samples: dict[Parameter, Tensor] = {}

    def _attach(self, module: nn.Module) -> None:
        self._taps = LayerTaps(self.layers, self._receive)

    def begin(self, size: int, views: int = 1) -> None:
        """Watch the forward pass of ``size`` records of ``views`` rows each."""
        assert self._taps is not None, "attach the engine first"
        self._size, self._views = size, views
        self._samples = {}
        self._taps.listen(size * views)

    def abort(self) -> None:
        """Forget the forward pass that ``begin`` watched."""
        if self._taps is not None:
            self._taps.pause()
            self._taps.sources = []
        self._samples = {}

    def whole_gradients(self, loss: Tensor) -> dict[Parameter, Tensor]:
        """Gradients of the sum of the records' losses by plain autograd, for comparison.

        The graph stays for ``per_sample_gradients``.
        """
        parameters = self.parameters
        found = torch.autograd.grad(
            self._scale(loss), parameters, retain_graph=True, allow_unused=True
        )
        return {p: g for p, g in zip(parameters, found, strict=True) if g is not None}

    def per_sample_gradients(self, loss: Tensor) -> dict[Parameter, Tensor]:
        """Gradients (records, *parameter) of each record's own loss, for the parameters used."""
        self._pass(loss)
        return self._take()

    def _pass(self, loss: Tensor) -> None:
        """Backward from the loss; the taps receive what arrives at the layers."""
        taps = self._taps
        assert taps is not None, "attach the engine first"
        taps.pause()
        total = self._scale(loss)
        if not taps.sources:
            raise UnsupportedModuleError(
                "training_step called no trainable layer: its loss does not depend on the model. "
                "Call layers as modules (self.net(x)); functional calls with their weights are not "
                "seen"
            )
        taps.backward_runs = True
        try:
            torch.autograd.grad(total, taps.sources, allow_unused=True)
        finally:
            taps.backward_runs = False
            taps.sources = []

    def _take(self) -> dict[Parameter, Tensor]:
        samples, self._samples = self._samples, {}
        return samples

    def finish(self, loss: Tensor, rule: ClipRule, sums: GradientSums) -> Clipped:
        """Clip the gradients of the records of this batch and add them to ``sums``."""
        samples = self.per_sample_gradients(loss)
        accumulated = sums.dtype
        norms = {p: g.flatten(1).to(accumulated).square().sum(1) for p, g in samples.items()}
        squares, layers = self._squares(norms)
        # the norms err by a few units in the last place
        factors = rule.factors(squares, layers, 16 * torch.finfo(accumulated).eps)
        total = squares.sum(0).sqrt()
        finite = torch.isfinite(total)
        every = bool(finite.all())
        for row, parameter in enumerate(list(samples)):
            gradient = samples.pop(parameter).flatten(1).to(accumulated)
            if not every:
                gradient = torch.where(finite[:, None], gradient, 0)
            weights = factors[row if len(factors) > 1 else 0]
            sums.add(parameter, (weights @ gradient).view_as(parameter))
        return Clipped(total, (factors < 1).any(0))

    def _receive(self, layer: Layer, call: Call, output_gradients: list[Tensor | None]) -> None:
        for parameter, gradient in layer.gradients(call, output_gradients).items():
            layer.check_rows(parameter, gradient.shape[0], call.size)
            record = self._by_record(gradient)
            if parameter in self._samples:
                self._samples[parameter] = self._samples[parameter] + record
            else:
                self._samples[parameter] = record


class FunctorchEngine(HooksEngine):
    """Functorch for every layer: slower, and free of any formula written for a special layer."""

    name: ClassVar[str] = "functorch"

    def _every_layer_by_functorch(self) -> bool:
        return True
