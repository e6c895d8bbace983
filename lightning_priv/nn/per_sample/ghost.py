"""Ghost clipping: norms first, keeping no gradient of a single record, then one weighted pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from lightning_priv.errors import UnsupportedModuleError
from lightning_priv.nn.per_sample.bk.parts import gram
from lightning_priv.nn.per_sample.bk.product import gram_squares
from lightning_priv.nn.per_sample.clipping import ClipRule
from lightning_priv.nn.per_sample.engine import Clipped, NonFiniteGradientError, PerSampleEngine
from lightning_priv.nn.per_sample.exits import Exit, ModelExits
from lightning_priv.nn.per_sample.layers import Call, Layer
from lightning_priv.nn.per_sample.precision import full_precision
from lightning_priv.nn.per_sample.sums import GradientSums
from lightning_priv.nn.per_sample.taps import LayerTaps

__all__ = ["GhostEngine"]


class GhostEngine(PerSampleEngine):
    """Two backward passes through the model; no gradient of a single record is kept.

    The first pass gives the norms, by Opacus' norm samplers where a layer has one and otherwise
    from gradients that are dropped at once (those of parameters used several times are kept until
    all uses are known). The second starts at the model's outputs with each row weighted by its
    factor.
    """

    name: ClassVar[str] = "ghost"
    clips_by_layer: ClassVar[bool] = False
    # in bf16 the second pass rounds differently from the first, and the bound C would not be kept
    mixed_precision: ClassVar[bool] = False
    # its norms are those of single rows; the views of a record have cross terms
    supports_views: ClassVar[bool] = False

    _taps: LayerTaps | None = None
    _model: ModelExits | None = None
    # modules whose backward pass forgets the weights of the rows, so that they must be told
    _forgetful: tuple[Any, ...] = ()

    def detach(self) -> None:
        """Take all hooks away."""
        if self._taps is not None:
            self._taps.remove()
        if self._model is not None:
            self._model.remove()
        self._taps = self._model = None
        self._forgetful = ()
        self._squared: dict[Parameter, Tensor] = {}
        self._several: dict[Parameter, Tensor] = {}

    def _attach(self, module: nn.Module) -> None:
        # first the taps: a layer that is called directly must be felt before its output leaves
        self._taps = taps = LayerTaps(self.layers, self._receive)
        self._model = ModelExits(module, self.layers, taps.begin_segment)
        self._forgetful = tuple(m for m in module.modules() if hasattr(m, "row_weights"))

    def begin(self, size: int, views: int = 1) -> None:
        """Watch the forward pass of ``size`` records."""
        if views != 1:
            raise ValueError(f"engine 'ghost' takes one row a record, got {views} views")
        assert self._taps is not None, "attach the engine first"
        assert self._model is not None, "attach the engine first"
        self._size = size
        self._squared, self._several = {}, {}
        self._taps.listen(size)
        self._model.listen(size)

    def abort(self) -> None:
        """Forget the forward pass that ``begin`` watched."""
        if self._taps is not None and self._model is not None:
            self._taps.pause()
            self._model.pause()
            self._taps.sources, self._model.exits = [], []
        self._squared, self._several = {}, {}

    def finish(self, loss: Tensor, rule: ClipRule, sums: GradientSums) -> Clipped:
        """Clip the gradients of the records of this batch and add them to ``sums``."""
        assert self._taps is not None, "attach the engine first"
        assert self._model is not None, "attach the engine first"
        self._taps.pause()
        self._model.pause()
        exits, self._model.exits = self._model.exits, []
        total_loss = self._scale(loss)
        # both passes in full float32: with TF32 the two would differ by more than the slack
        with full_precision():
            self._refuse_use_outside(total_loss)
            seeds = self._norm_pass(total_loss, exits)
            squares, layers = self._squares(self._collected(sums.dtype))
            norms = squares.sum(0).sqrt()
            finite = torch.isfinite(norms)
            if not bool(finite.all()):
                raise NonFiniteGradientError(finite)
            # norms come from Gram products, and the second pass rounds on its own
            factors = rule.factors(squares, layers, 1000 * torch.finfo(squares.dtype).eps)[0]
            self._weighted_pass(exits, seeds, factors, sums)
        return Clipped(norms, factors < 1)

    def _refuse_use_outside(self, loss: Tensor) -> None:
        """Raise if the loss uses a parameter other than through the model's outputs."""
        parameters = self.parameters
        with self._valves_shut(torch.zeros(self._size, device=loss.device)):
            found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        for parameter, gradient in zip(parameters, found, strict=True):
            # behind a shut valve a custom autograd.Function may still pass zeros on
            if gradient is not None and bool(gradient.ne(0).any()):
                raise UnsupportedModuleError(
                    f"{self.name_of(parameter)} is used by training_step outside its layer's "
                    "forward pass, where no gradient of single records can be had; move that into "
                    "forward"
                )

    def _norm_pass(self, loss: Tensor, exits: list[Exit]) -> tuple[Tensor | None, ...]:
        """Backward from the loss through the whole model; returns the gradients of the exits."""
        assert self._taps is not None
        sources, self._taps.sources = self._taps.sources, []
        if not sources:
            raise UnsupportedModuleError(
                "training_step called no trainable layer: its loss does not depend on the model. "
                "Call layers as modules (self.net(x)); functional calls with their weights are not "
                "seen"
            )
        self._taps.backward_runs = True
        try:
            found = torch.autograd.grad(
                loss,
                [*(leaving.outside for leaving in exits), *sources],
                retain_graph=True,
                allow_unused=True,
            )
        finally:
            self._taps.backward_runs = False
        return found[: len(exits)]

    def _collected(self, dtype: torch.dtype) -> dict[Parameter, Tensor]:
        """Squared norms of all parameters used."""
        for parameter, gradient in self._several.items():
            self._squared[parameter] = gradient.flatten(1).square().sum(1)
        squared = {p: s.to(dtype) for p, s in self._squared.items()}
        self._squared, self._several = {}, {}
        return squared

    def _weighted_pass(
        self,
        exits: list[Exit],
        seeds: tuple[Tensor | None, ...],
        factors: Tensor,
        sums: GradientSums,
    ) -> None:
        """Backward from each exit to the parameters of its own call only."""
        used = [(e.inside, s) for e, s in zip(exits, seeds, strict=True) if s is not None]
        weighted = [s * factors.to(s.dtype).view(-1, *([1] * (s.dim() - 1))) for _, s in used]
        parameters = self.parameters
        with self._valves_shut(factors):
            found = torch.autograd.grad(
                [inside for inside, _ in used], parameters, grad_outputs=weighted, allow_unused=True
            )
        seen: set[int] = set()
        for parameter, gradient in zip(parameters, found, strict=True):
            if gradient is None:
                continue
            # autograd gives parameters that were added up one tensor between them
            place = gradient.untyped_storage().data_ptr()
            sums.add(parameter, gradient.clone() if place in seen else gradient)
            seen.add(place)

    @contextmanager
    def _valves_shut(self, weights: Tensor) -> Iterator[None]:
        """No gradient passes between calls of the model; its rows have these weights."""
        assert self._model is not None
        self._model.shut = True
        for module in self._forgetful:
            module.row_weights = weights
        try:
            yield
        finally:
            self._model.shut = False
            for module in self._forgetful:
                module.row_weights = None

    def _receive(self, layer: Layer, call: Call, output_gradients: list[Tensor | None]) -> None:
        assert self._taps is not None
        once = all(self._taps.uses[p] == 1 for p in layer.parameters)
        gradient = output_gradients[0] if output_gradients else None
        if once and gradient is not None and _norms_are_cheap(layer, call, gradient):
            inputs = [t for t in (*call.args, *call.kwargs.values()) if isinstance(t, Tensor)]
            for parameter, squares in _cheap_squares(layer.module, inputs, gradient).items():
                layer.check_rows(parameter, squares.shape[0], call.size)
                self._squared[parameter] = squares
            return
        for parameter, gradients in layer.gradients(call, output_gradients).items():
            layer.check_rows(parameter, gradients.shape[0], call.size)
            if self._taps.uses[parameter] == 1:
                self._squared[parameter] = gradients.flatten(1).square().sum(1)
            elif parameter in self._several:
                self._several[parameter] = self._several[parameter] + gradients
            else:
                self._several[parameter] = gradients


def _norm_samplers() -> dict[type[nn.Module], Any]:
    from opacus.grad_sample import GradSampleHooksFastGradientClipping as FastClipping

    return FastClipping.NORM_SAMPLERS


def _cheap_squares(
    module: nn.Module, inputs: list[Tensor], gradient: Tensor
) -> dict[Parameter, Tensor]:
    """Squared norms of the gradients of a layer's parameters, shape (records,) each."""
    if not isinstance(module, nn.Linear) or gradient.dim() != 3:
        norms = _norm_samplers()[type(module)](module, inputs, gradient)
        return {parameter: values.square() for parameter, values in norms.items()}
    # Opacus' sampler takes the same products, but not the rounding that they may hide
    found: dict[Parameter, Tensor] = {}
    if module.weight.requires_grad:
        x = inputs[0].to(gradient.dtype)
        found[cast(Parameter, module.weight)] = gram_squares(gram(x), gram(gradient))
    if module.bias is not None and module.bias.requires_grad:
        found[module.bias] = gradient.sum(1).square().sum(1)
    return found


def _norms_are_cheap(layer: Layer, call: Call, gradient: Tensor) -> bool:
    """Whether Opacus' norm sampler covers this call and is cheaper than the gradients."""
    module = layer.module
    if layer.functorch or type(module) not in _norm_samplers():
        return False
    if isinstance(module, nn.Linear):
        if gradient.dim() == 3:
            return gradient.shape[1] ** 2 <= module.in_features * module.out_features
        return gradient.dim() == 2
    return isinstance(module, nn.Embedding) and module.padding_idx is None
