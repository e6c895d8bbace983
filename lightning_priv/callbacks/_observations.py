"""What an attacker sees of the records of a private step, and of its noise."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_priv.functional.audit import Release
from lightning_priv.nn.leak import LeakLayer

__all__ = ["Observations", "Step", "noise_of"]


@dataclass(frozen=True)
class Step:
    """One released step and, for scoring only, what went into it.

    Attributes:
        gradient: released gradient of the leak layer's weight, shape (rows + silent, N).
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

    For each record, the attacker knows the other records of the batch and takes them away: the
    setting of the reconstruction bounds.

    Args:
        limit: records to keep.
        each: new records to take from one step.

    Attributes:
        records: shape (C, ...) each.
        y: observations in the units of the network's inputs, same shape.
        noise_std: s of each.
        members: scores of one record a step that took part.
        others: scores of one record a step, tested where it did not take part.
        noise: numbers of each step that are noise alone, in units of the noisy sum.
        stated: sigma C of each step.
        batches: realised number of records of each step.
    """

    limit: int
    each: int = 4
    records: list[Tensor] = field(default_factory=list)
    y: list[Tensor] = field(default_factory=list)
    noise_std: list[float] = field(default_factory=list)
    noise_multipliers: list[float] = field(default_factory=list)
    members: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    noise: list[Tensor] = field(default_factory=list)
    stated: list[float] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    def add(self, layer: LeakLayer, step: Step) -> tuple[Tensor, Tensor, Tensor] | None:
        """Read one step.

        Args:
            layer: the leak layer.
            step: what it released.

        Returns:
            Observations, their noise and the records that they show, of all records of the step;
            None if there was none.
        """
        release = step.release
        silence = noise_of(layer, step.gradient) * release.denominator
        if silence.numel():
            self.noise.append(silence.flatten().double())
            self.stated.append(release.noise_std)
        self.batches.append(len(step.records))
        if not len(step.records):
            return None
        flat = step.records.flatten(1).double()
        weight = release.factor(step.gradient_norms.double()) * layer.loss_scale  # beta L
        total = release.denominator * step.gradient[: layer.rows].double().mean(0)
        left = total - weight @ flat  # the noise, once all records are taken away
        y = flat + left / weight[:, None]
        s = release.noise_std / (layer.rows**0.5 * weight)
        self._score(layer, step, total - weight[1:] @ flat[1:], flat[0])
        seen = y.view(step.records.shape).to(step.records.dtype)
        for i in range(min(self.each, len(flat))):
            known = any(torch.equal(step.records[i], record) for record in self.records)
            if len(self.records) < self.limit and not known:
                self.records.append(step.records[i])
                self.y.append(seen[i])
                self.noise_std.append(float(s[i]))
                self.noise_multipliers.append(release.noise_multiplier)
        return seen, s, step.records

    def _score(self, layer: LeakLayer, step: Step, alone: Tensor, record: Tensor) -> None:
        """The likelihood-ratio statistic of one record, where it took part and where not."""
        direction = record / record.norm().clamp(min=1e-12)
        bound = step.release.max_grad_norm
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
