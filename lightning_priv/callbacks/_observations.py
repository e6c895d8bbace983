"""What an attacker sees of the records of a private step, and of its noise."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_priv.functional.audit import (
    NoiseReport,
    Release,
    audit_noise,
    epsilon_lower_bound,
    mu_lower_bound,
    one_run_epsilon,
)
from lightning_priv.nn.leak import ImprintLayer, LeakLayer

from ._imprint import read_imprint

__all__ = ["Observations", "Step", "noise_of"]

_NOISE = 4096  # numbers of a step that are enough for the tests of its noise


@dataclass(frozen=True)
class Step:
    """One released step and, for scoring only, what went into it.

    Attributes:
        gradient: released gradient of the leak layer's weight, shape (rows or neurons, N).
        records: inputs of the leak layer, of all processes, shape (k, ...).
        gradient_norms: norms of the records' whole gradients, shape (k,).
        release: what everybody knows.
    """

    gradient: Tensor
    records: Tensor
    gradient_norms: Tensor
    release: Release


@dataclass
class Observations:
    """Collects observations of distinct records over steps.

    For each record behind a ``LeakLayer``, the attacker knows the other records of the batch and
    takes them away: the setting of the reconstruction bounds. Behind an ``ImprintLayer`` he needs
    not, but sees only records that share no neuron.

    Args:
        limit: records to keep.
        each: new records to take from one step.

    Attributes:
        records: shape (C, ...) each.
        y: observations in the units of the network's inputs, same shape.
        noise_std: s of each.
        members: scores of one record a step that took part.
        others: scores of one record a step, tested where it did not take part.
        sigmas: noise multipliers of the steps that were scored.
        noise: numbers of each step that are noise alone, in units of the noisy sum.
        stated: sigma C of each step.
        batches: realised number of records of each step.
        alone: how many records had a neuron of their own, behind an ``ImprintLayer``.
        canaries: flat canaries of unit norm, shape (m, N), or None.
        canary_scores: what speaks for each canary so far, shape (m,).
    """

    limit: int
    each: int = 4
    records: list[Tensor] = field(default_factory=list)
    y: list[Tensor] = field(default_factory=list)
    noise_std: list[float] = field(default_factory=list)
    noise_multipliers: list[float] = field(default_factory=list)
    members: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    sigmas: list[float] = field(default_factory=list)
    noise: list[Tensor] = field(default_factory=list)
    stated: list[float] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    alone: int = 0
    canaries: Tensor | None = None
    canary_scores: Tensor | None = None

    def add(
        self, layer: LeakLayer | ImprintLayer, step: Step
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """Read one step.

        Args:
            layer: the leak layer.
            step: what it released.

        Returns:
            Observations, their noise and the records that they show, of all records of the step;
            None if there was none.
        """
        read = self._imprinted if isinstance(layer, ImprintLayer) else self._leaked
        seen = read(layer, step)  # type: ignore[arg-type]
        for y, s, record in [] if seen is None else [*zip(*seen, strict=True)][: self.each]:
            known = any(torch.equal(record, other) for other in self.records)
            if len(self.records) < self.limit and not known:
                self.records.append(record)
                self.y.append(y)
                self.noise_std.append(float(s))
                self.noise_multipliers.append(step.release.noise_multiplier)
        return seen

    def _imprinted(self, layer: ImprintLayer, step: Step) -> tuple[Tensor, Tensor, Tensor] | None:
        release, (neurons, pixels) = step.release, step.gradient.shape
        found = read_imprint(layer, step.gradient, step.records, step.gradient_norms, release)
        rows = min(neurons // 2, max(1, _NOISE // pixels))  # as many in each step
        if len(found.noise) >= rows:
            self.noise.append(found.noise[:rows].flatten())
            self.stated.append(release.noise_std)
        self.batches.append(len(step.records))
        self.alone += int(found.alone.sum())
        if not bool(found.alone.any()):
            return None
        records = step.records[found.alone]
        return found.y.view(records.shape).to(records.dtype), found.noise_std, records

    def _leaked(self, layer: LeakLayer, step: Step) -> tuple[Tensor, Tensor, Tensor] | None:
        release = step.release
        silence = noise_of(layer, step.gradient) * release.denominator
        if silence.numel():
            self.noise.append(silence.flatten().double())
            self.stated.append(release.noise_std)
        self.batches.append(len(step.records))
        flat = step.records.flatten(1).double()
        weight = release.factor(step.gradient_norms.double()) * layer.loss_scale  # beta L
        total = release.denominator * step.gradient[: layer.rows].double().mean(0)
        ordinary = ~self._are_canaries(flat)
        if self.canaries is not None:  # the auditor knows every record but them
            score = self.canaries @ (total - weight[ordinary] @ flat[ordinary])
            # the likelihood ratio: a step of less noise counts for more
            score = score * release.max_grad_norm / max(release.noise_std, 1e-6) ** 2
            before = 0 if self.canary_scores is None else self.canary_scores
            self.canary_scores = before + score
        if not bool(ordinary.any()):
            return None
        left = total - weight @ flat  # the noise, once all records are taken away
        flat, weight, records = flat[ordinary], weight[ordinary], step.records[ordinary]
        y = flat + left / weight[:, None]
        s = release.noise_std / (layer.rows**0.5 * weight)
        self._score(layer, step, left + weight[0] * flat[0], flat[0])
        return y.view(records.shape).to(records.dtype), s, records

    def noise_report(
        self, processes: int, false_alarm: float, denominator: float
    ) -> NoiseReport | None:
        """Test the noise of the last 64 steps; None if none was read, or none is stated.

        Args:
            processes: how many took part.
            false_alarm: largest probability that correct noise is flagged.
            denominator: B of the last release.
        """
        if not self.noise or min(self.stated) == 0:
            return None
        residuals = torch.stack(self.noise[-64:])
        stated = torch.tensor(self.stated[-64:], dtype=torch.float64)
        size = float(stated[0])
        if stated.max() > stated.min():  # a schedule of the noise
            residuals, size = residuals / stated[:, None], 1.0
        return audit_noise(residuals.numpy(), size, processes, false_alarm, denominator=denominator)

    def step_bound(self) -> str:
        """What the scores of one record a step prove of the step of least noise, in words."""
        least = min(self.sigmas)
        mu = mu_lower_bound(self.members, self.others)
        delta = 1e-2  # what so few trials can see
        epsilon = epsilon_lower_bound(self.members, self.others, delta)
        return (
            f"mu >= {mu.value:.3g} (stated {1 / max(least, 1e-12):.3g}), epsilon >= "
            f"{epsilon.value:.3g} at delta = {delta:g}; 95 % confidence, {len(self.others)} trials"
        )

    def run_bound(self, included: Tensor, stated: float, delta: float) -> str:
        """What guesses about canaries prove of the whole run, in words.

        The quarter of the canaries with the highest scores is guessed to have been there, that with
        the lowest not to.

        Args:
            included: which canaries were there, shape (m,).
            stated: epsilon of the run.
            delta: of the statement.
        """
        assert self.canary_scores is not None
        count = len(self.canary_scores)
        order, each = self.canary_scores.argsort(), max(1, count // 4)
        right = int(included[order[-each:]].sum()) + int((~included[order[:each]]).sum())
        bound = one_run_epsilon(2 * each, right, count, delta)
        verdict = "; the stated epsilon is refuted" if bound > stated else ""
        if verdict:
            rank_zero_warn(f"ReconstructionAudit: epsilon is at least {bound:.3g}{verdict}")
        return (
            f"epsilon >= {bound:.3g} at delta = {delta:.3g} (stated {stated:.4g}); 95 % "
            f"confidence, {right} of {2 * each} guesses about {count} canaries right{verdict}"
        )

    def _are_canaries(self, flat: Tensor) -> Tensor:
        """Which records are canaries, shape (k,)."""
        if self.canaries is None:
            return torch.zeros(len(flat), dtype=torch.bool)
        return torch.cdist(flat, self.canaries, 1).eq(0).any(1)  # no (k, m, N) in memory

    def _score(self, layer: LeakLayer, step: Step, alone: Tensor, record: Tensor) -> None:
        """The likelihood-ratio statistic of one record, where it took part and where not."""
        direction = record / record.norm().clamp(min=1e-12)
        bound = step.release.max_grad_norm
        self.sigmas.append(step.release.noise_multiplier)
        self.members.append(float(alone @ direction) * layer.rows**0.5 / bound)
        silent = layer.silence(step.gradient)
        if len(silent):
            row = silent[0].double() * step.release.denominator
            self.others.append(float(row @ direction) / bound)


def noise_of(layer: LeakLayer, gradient: Tensor) -> Tensor:
    """Numbers of the released gradient that hold no signal, whatever the batch.

    The silent rows, or without them orthonormal contrasts of the rows, whose signals are equal.

    Args:
        layer: the leak layer.
        gradient: of its weight, shape (rows + silent, N).

    Returns:
        Shape (m, N); m is 0 for a single row without silent ones.
    """
    if layer.silent_rows:
        return layer.silence(gradient)
    rows = gradient[: layer.rows]
    count = len(rows)
    contrasts = torch.zeros(count - 1, count, dtype=gradient.dtype, device=gradient.device)
    for k in range(1, count):  # Helmert: row k against the mean of those before it
        contrasts[k - 1, :k] = 1 / (k * (k + 1)) ** 0.5
        contrasts[k - 1, k] = -k / (k * (k + 1)) ** 0.5
    return contrasts @ rows
