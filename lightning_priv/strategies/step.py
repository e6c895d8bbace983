"""The logical step: clipped gradients of its physical batches, one draw of noise, one mean."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn import Parameter

from lightning_priv.errors import PrivacyError
from lightning_priv.functional.gradient import adaptive_gradient_noise, updated_clip_norm
from lightning_priv.nn.per_sample import (
    AutomaticClipping,
    Clipped,
    ClipRule,
    FlatClipping,
    GradientSums,
    LayerClipping,
    NonFiniteGradientError,
    PerSampleEngine,
)
from lightning_priv.strategies.averaged_log import averaged_log
from lightning_priv.strategies.batches import has_rows, merge_outputs, take_rows
from lightning_priv.strategies.noise import NoiseSource
from lightning_priv.strategies.probe import call_training_step
from lightning_priv.strategies.settings import PrivacySettings
from lightning_priv.strategies.views import rows_of_views

__all__ = ["Adaptation", "LogicalStep", "make_step"]

_SKIPPED = (
    "batches for which training_step returned no loss: if that depends on a record, the gradients "
    "of all others in its batch depend on it"
)


@dataclass
class Adaptation:
    """How the clipping norm follows a quantile of the gradient norms.

    Attributes:
        target_quantile: fraction of records to be left unclipped.
        learning_rate: of the geometric update.
        count_noise: standard deviation of the noise on the number of unclipped records; None for a
            20th of the denominator, as in Andrew et al. 2021, but at least twice sigma.
    """

    target_quantile: float
    learning_rate: float
    count_noise: float | None

    def noise_on_count(self, noise_multiplier: float, denominator: float) -> float:
        """Standard deviation of the noise on the count."""
        if self.count_noise is not None:
            return self.count_noise
        return max(denominator / 20, 2 * noise_multiplier)


@dataclass
class LogicalStep:
    """Collects one logical batch and releases it.

    Attributes:
        engine: gives clipped sums; attached to the module.
        rule: how to clip; its norm moves if ``adaptation`` is set.
        noise: source of the noise, used by rank zero alone.
        adaptation: adaptive clipping, or None.
        physical: largest number of records to be passed through the model at once, or None.
        views: rows that the training step gets of each record.
        seen: norms and clipping of the records since ``begin``; private.
        pass_number: for shuffled records, the pass that the step belongs to.
        uncovered: sentences on what epsilon does not cover.
    """

    engine: PerSampleEngine
    rule: ClipRule
    noise: NoiseSource
    adaptation: Adaptation | None = None
    physical: int | None = None
    views: int = 1
    seen: list[Clipped] = field(default_factory=list)
    pass_number: int | None = None
    uncovered: list[str] = field(default_factory=list)
    _sums: GradientSums | None = None
    _size: int = 0
    _collected: bool = False
    _warned: bool = False

    def begin(self, pass_number: int | None = None) -> None:
        """Forget whatever was collected and not released."""
        self.pass_number = pass_number
        for parameter in self.engine.parameters:
            parameter.grad = None
        self._sums = GradientSums(self.engine.parameters)
        self.seen = []
        self._size = 0

    def slices(self, size: int) -> Iterator[slice]:
        """Physical batches of a batch of ``size`` records."""
        step = self.physical or max(size, 1)
        for start in range(0, size, step):
            yield slice(start, min(start + step, size))

    def add(self, batch: Any, size: int, run: Callable[[Any], tuple[Tensor | None, Any]]) -> Any:
        """Pass one physical batch through the user's training step and collect its gradients.

        Args:
            batch: batch of ``size`` records.
            size: number of records.
            run: gives (loss, anything) of the rows of a batch; no loss counts as a zero gradient.

        Returns:
            What ``run`` returned.
        """
        if not has_rows(batch, size):
            raise PrivacyError(
                f"nothing in the training batch has {size} rows, one a record, although {size} "
                "records were drawn; batch-transfer hooks must keep one row a record"
            )
        with self.watching(size):
            loss, rest = run(rows_of_views(batch, size, self.views))
        if loss is None:
            self.engine.abort()
            self._note_skipped()
            return loss, rest
        try:
            self.collect(loss)
        except NonFiniteGradientError as error:
            rows = error.finite.nonzero().flatten()
            if len(rows) == size:
                raise
            if len(rows):
                self.add(take_rows(batch, rows, size), len(rows), run)
        return loss.detach(), rest

    def _note_skipped(self) -> None:
        if _SKIPPED not in self.uncovered:
            self.uncovered.append(_SKIPPED)
            warnings.warn(
                f"DP-SGD: not covered by epsilon: {_SKIPPED}. A record whose gradient is not "
                "finite is left out by itself: return its loss all the same",
                stacklevel=2,
            )

    def run(self, module: LightningModule, batch: Any, batch_idx: int, size: int) -> dict[str, Any]:
        """Pass a logical batch through the user's training step, one physical batch after another.

        Args:
            module: holds the training step.
            batch: this rank's share, possibly empty; then the training step is not called.
            batch_idx: number of the batch.
            size: records in it.

        Returns:
            The mean loss over the records, detached, and whatever else the training step returned.
        """

        def training_step(rows: Any) -> tuple[Tensor | None, dict[str, Any]]:
            output = call_training_step(module, rows, batch_idx)
            if isinstance(output, Mapping):
                return output.get("loss"), {k: v for k, v in output.items() if k != "loss"}
            return output, {}

        outputs: list[tuple[int, Tensor | None, dict[str, Any]]] = []
        slices = list(self.slices(size))
        if len(slices) == 1:
            outputs.append((size * self.views, *self.add(batch, size, training_step)))
        elif slices:
            with averaged_log(module) as next_batch:
                for rows in slices:
                    count = rows.stop - rows.start
                    next_batch(count)
                    part = take_rows(batch, rows, size)
                    rows_seen = count * self.views
                    outputs.append((rows_seen, *self.add(part, count, training_step)))
        total = size * self.views
        losses = [n / total * loss.float() for n, loss, _ in outputs if loss is not None]
        mean = torch.stack(losses).sum() if losses else torch.zeros((), device=module.device)
        return {"loss": mean, **merge_outputs([(n, extra) for n, _, extra in outputs])}

    @contextmanager
    def watching(self, size: int) -> Iterator[None]:
        """Watch the forward pass of ``size`` records."""
        self._size = size
        self._collected = False
        self.engine.begin(size, self.views)
        try:
            yield
        except BaseException:
            self.engine.abort()
            raise

    def collect(self, loss: Tensor) -> None:
        """Backward pass of the batch watched: clip and add.

        Raises:
            PrivacyError: for a second backward pass of the same records.
        """
        if self._collected or self._sums is None:
            raise PrivacyError(
                "a second backward pass on the same records before the next batch: their gradients "
                "would count twice. Add the losses up and call manual_backward once, then step once"
            )
        self._collected = True
        if self._size == 0:
            return
        try:
            self.seen.append(self.engine.finish(loss, self.rule, self._sums))
        finally:
            self.engine.abort()
        if self.engine.unused and not self._warned:
            self._warned = True
            rank_zero_warn(
                f"DP-SGD: {', '.join(self.engine.unused)} took no part in the loss; noise is added "
                "to them all the same. Freeze what is not to be trained"
            )

    def require_collected(self) -> None:
        """Raise if there is nothing to be released.

        Raises:
            PrivacyError: for a second optimizer step on the same batch.
        """
        if self._sums is None:
            raise PrivacyError(
                "an optimizer step without a training step before it: the gradients of this batch "
                "were released already, and a second release is not accounted for"
            )

    def release(
        self,
        noise_multiplier: float,
        denominator: float,
        reduce: Callable[[Tensor], Tensor] | None,
        draws_noise: bool,
        others: Iterable[Parameter] = (),
    ) -> float:
        """Write the noised mean gradient to ``p.grad`` of every parameter covered.

        Args:
            noise_multiplier: sigma that the step is accounted with.
            denominator: expected number of records, never the realised one.
            reduce: sum over the ranks; None if there is one.
            draws_noise: whether this rank adds the noise; exactly one does.
            others: parameters that are not covered; they get no gradient at all.

        Returns:
            The standard deviation of the noise in every number of ``p.grad``; public.
        """
        self.require_collected()
        sums, self._sums = self._sums, None
        assert sums is not None
        bound = self.rule.max_grad_norm
        sigma = noise_multiplier
        if self.adaptation is not None:
            count_noise = self.adaptation.noise_on_count(noise_multiplier, denominator)
            sigma = adaptive_gradient_noise(noise_multiplier, count_noise)
            self._adapt(noise_multiplier, denominator, reduce, draws_noise)
        parameters = sums.parameters()
        found = [sums[p] for p in parameters]
        for values in found:
            # clipped sums are finite; an overflow on the way must not show that a record was there
            torch.nan_to_num_(values, nan=0.0, posinf=0.0, neginf=0.0)
        if draws_noise:
            self.noise.add_to(found, sigma * bound)
        if reduce is not None:
            del found
            sums.replace(reduce)
        for parameter in parameters:
            parameter.grad = sums[parameter].div_(denominator).to(parameter.dtype)
        for parameter in others:
            if parameter not in sums:
                parameter.grad = None
        return sigma * bound / denominator

    def _adapt(
        self,
        noise_multiplier: float,
        denominator: float,
        reduce: Callable[[Tensor], Tensor] | None,
        draws_noise: bool,
    ) -> None:
        """Move the clipping norm by the noisy, centred count of unclipped records."""
        adaptation = self.adaptation
        assert adaptation is not None
        centred = sum(0.5 * len(s.clipped) - float(s.clipped.sum()) for s in self.seen)
        device = self.engine.parameters[0].device
        count = torch.tensor([centred], dtype=torch.float64, device=device)
        if draws_noise and noise_multiplier > 0:
            self.noise.add_to([count], adaptation.noise_on_count(noise_multiplier, denominator))
        if reduce is not None:
            count = reduce(count)
        fraction = float(count) / denominator + 0.5
        self.rule.max_grad_norm = updated_clip_norm(
            self.rule.max_grad_norm, fraction, adaptation.target_quantile, adaptation.learning_rate
        )


_RULES: dict[str, type[ClipRule]] = {
    "flat": FlatClipping,
    "per_layer": LayerClipping,
    "automatic": AutomaticClipping,
    "adaptive": FlatClipping,
}


def make_step(
    settings: PrivacySettings, engine: PerSampleEngine, noise: NoiseSource, max_grad_norm: float
) -> LogicalStep:
    """The logical step that the settings describe, with the present clipping norm."""
    adaptation = None
    if settings.clipping == "adaptive":
        adaptation = Adaptation(
            settings.target_quantile, settings.clip_learning_rate, settings.count_noise
        )
    rule = _RULES[settings.clipping](max_grad_norm)
    physical, views = settings.physical_batch_size, settings.augmentation_multiplicity
    return LogicalStep(engine, rule, noise, adaptation, physical, views)
