"""Information of classes, groups or any sets of samples: what all their members tell together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_priv.functional.gaussian import kl_parts, whitened_kl_parts

from .alo import Leverage
from .downdate import newton_step
from .exact import select
from .heads import HeadName
from .moments import HessianSum
from .probe import ProbeFit, fit_rows, precision_factor
from .rows import Features, Labels, Rows, make_rows
from .shards import Shards


@dataclass(frozen=True)
class SetResult:
    """Information of sets.

    Args:
        scores: (g,) nats, mean_shift + curvature.
        mean_shift: (g,).
        curvature: (g,).
        sizes: (g,) samples of each set, over all processes.
        fit: the probe with all samples.
    """

    scores: Tensor
    mean_shift: Tensor
    curvature: Tensor
    sizes: Tensor
    fit: ProbeFit


def lsi_sets(
    features: Features,
    labels: Labels,
    groups: Tensor | Sequence[Tensor],
    l2: float = 1.0,
    covariance: Literal["full", "diag"] = "full",
    estimator: Literal["alo", "exact"] = "alo",
    *,
    head: HeadName = "softmax",
    num_classes: int | None = None,
    noise_variance: float = 1.0,
    bias: bool = True,
    fit: ProbeFit | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    chunk_rows: int = 16384,
    shards: Shards | None = None,
) -> SetResult:
    """Divergence between the posterior with all samples and the one without a whole set.

    Not the sum over members: near-duplicates cover for each other one at a time, not together.

    Args:
        features: as in :func:`lsi_scores`.
        labels: as in :func:`lsi_scores`.
        groups: (n,) set number of each sample from 0, negative for none (the labels give class
            information); or a list of index tensors, which may overlap.
        l2: prior precision on the summed loss.
        covariance: of the posteriors.
        estimator: ``alo`` one Newton step (good for small sets), ``exact`` a fit without the set.
        head: the likelihood.
        num_classes: classes of ``softmax``.
        noise_variance: of ``regression``.
        bias: append a constant feature.
        fit: a fit of the same samples.
        dtype: of the computation.
        device: of the computation.
        chunk_rows: rows converted at a time.
        shards: this process among others; ``features`` and ``groups`` are then its own rows.

    Returns:
        The same on every process.

    Raises:
        ValueError: for wrong arguments, or a set that holds no or all samples.
    """
    if covariance not in ("full", "diag") or estimator not in ("alo", "exact"):
        raise ValueError(
            "sets have covariance full or diag and estimator alo or exact; got "
            f"{covariance!r}, {estimator!r}"
        )
    rows = make_rows(
        features,
        labels,
        head=head,
        num_classes=num_classes,
        noise_variance=noise_variance,
        bias=bias,
        dtype=dtype,
        device=device,
        chunk_rows=chunk_rows,
        shards=shards,
    )
    members = _members(rows, groups)
    sizes = rows.sum(torch.tensor([len(m) for m in members], device=rows.device))
    if not bool(((sizes > 0) & (sizes < rows.total)).all()):
        raise ValueError(
            f"each set must hold some but not all of the {rows.total} samples; got sizes "
            f"{sizes.tolist()[:10]}"
        )
    if fit is None:
        fit = fit_rows(rows, l2)
    removal = _Removal(rows, fit, covariance)
    step = removal.refit if estimator == "exact" else removal.newton
    parts = [torch.stack(step(chosen)) for chosen in members]
    mean, curvature = torch.stack(parts, 1)
    return SetResult(mean + curvature, mean, curvature, sizes, fit)


def _members(rows: Rows, groups: Tensor | Sequence[Tensor]) -> list[Tensor]:
    if isinstance(groups, Tensor):
        if groups.shape != (rows.n,):
            raise ValueError(
                f"groups must be {rows.n} set numbers or a list of indices, got a tensor of shape "
                f"{tuple(groups.shape)}"
            )
        groups = groups.to(rows.device)
        highest = int(groups.max()) if rows.n else -1
        count = int(rows.shards.each(highest, groups).max()) + 1
        return [(groups == number).nonzero()[:, 0] for number in range(count)]
    members = [torch.as_tensor(g, device=rows.device).long().unique() for g in groups]
    for chosen in members:
        if len(chosen) and not (chosen[0] >= 0 and chosen[-1] < rows.n):
            raise ValueError(f"set indices must be from 0 to {rows.n - 1}, got {chosen.tolist()}")
    return members


class _Removal:
    def __init__(self, rows: Rows, fit: ProbeFit, covariance: str) -> None:
        self.rows, self.fit, self.covariance = rows, fit, covariance
        self.theta = fit.coordinates
        self.factor = fit.factor
        if self.factor is None:
            self.factor = precision_factor(rows, fit.l2, self.theta)
        self.lever = Leverage(fit, self.factor)

    def newton(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """One Newton step; in matrices of the set's size if that is less than the weights'."""
        rows, head, theta = self.rows, self.rows.head, self.theta
        x, y = (rows.shards.concatenate(part) for part in select(rows, chosen))
        u = (x @ theta.flatten(0, 1).mT).unflatten(1, theta.shape[:2])
        s, r = head.curvature(u), head.residual(u, y)
        if self.covariance == "full" and len(x) * head.width < theta[0].numel():
            blocks = [self._joint(x, s[:, b], r[:, b], b) for b in range(head.blocks)]
            return sum(b[0] for b in blocks), sum(b[1] for b in blocks)  # type: ignore[return-value]
        removed = HessianSum(head.blocks, head.width, rows.d1, theta)
        removed.add(x, s)
        hessian = removed.total()
        assert self.factor is not None
        left = self.factor @ self.factor.mT - hessian
        gradient = torch.einsum("mbw,md->bwd", r, x).flatten(1)
        delta = torch.linalg.solve(left, gradient[..., None])[..., 0]
        if self.covariance == "full":
            mean, shape = whitened_kl_parts(self.factor, -hessian, delta)
            return mean.sum(), shape.sum()
        return self._diagonal(theta + delta.view_as(theta), chosen)

    def _joint(self, x: Tensor, s: Tensor, r: Tensor, block: int) -> tuple[Tensor, Tensor]:
        k, width = r.shape
        unit = torch.zeros(k, width, *self.theta.shape, dtype=x.dtype, device=x.device)
        for a in range(width):
            unit[:, a, block, a] = x
        solved = self.lever.solve(unit.flatten(0, 1))[:, block]  # (k width, width, d1)
        g = torch.einsum("jad,kd->jka", solved, x).flatten(1)
        curvature = torch.block_diag(*s)
        step = newton_step(g[None, None], curvature[None, None], r.flatten()[None, None])
        return step.mean_shift[0], step.curvature[0]

    def refit(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """A fit without the set, and the divergence by definition."""
        rows, theta = self.rows, self.theta
        weights = torch.ones(rows.n, dtype=rows.dtype, device=rows.device)
        weights[chosen] = 0
        without = fit_rows(rows.weighted(weights), self.fit.l2, tolerance=1e-12, start=theta)
        if self.covariance == "diag":
            return self._diagonal(without.coordinates, chosen)
        moved = without.coordinates
        change = HessianSum(rows.head.blocks, rows.head.width, rows.d1, theta)
        for chunk in rows.weighted(weights):
            old, new = (
                (chunk.x @ t.flatten(0, 1).mT).unflatten(1, t.shape[:2]) for t in (theta, moved)
            )
            assert chunk.weight is not None
            kept = rows.head.curvature(new) * chunk.weight[:, None, None, None]
            change.add(chunk.x, kept - rows.head.curvature(old))
        change.sums = rows.sum(change.sums)
        assert self.factor is not None
        delta = (moved - theta).flatten(1)
        mean, shape = whitened_kl_parts(self.factor, change.total(), delta)
        return mean.sum(), shape.sum()

    def _diagonal(self, moved: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        rows, head, theta = self.rows, self.rows.head, self.theta
        weights = torch.ones(rows.n, dtype=rows.dtype, device=rows.device)
        weights[chosen] = 0
        sums = theta.new_zeros(2, head.outputs, rows.d1)
        for chunk in rows.weighted(weights):
            old, new = (
                head.output_diagonal(
                    head.to_outputs((chunk.x @ t.flatten(0, 1).mT).unflatten(1, t.shape[:2]))
                ).flatten(1)
                for t in (theta, moved)
            )
            assert chunk.weight is not None
            squares = chunk.x.square()
            sums[0] += old.mT @ squares
            sums[1] += (new * chunk.weight[:, None] - old).mT @ squares
        precision, change = rows.sum(sums)
        delta = (head.basis(theta) @ (moved - theta)).flatten()
        return kl_parts((precision + self.fit.l2).flatten(), change.flatten(), delta, "diag")
