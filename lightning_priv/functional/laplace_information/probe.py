"""The maximum a posteriori fit of a regularised linear probe, and its posterior precision.

A quasi-Newton iteration around an inverse Hessian: first that of zero weights, which is a Kronecker
product and costs one d1 x d1 factor, then, once near the optimum, one full Hessian in single
precision, which is enough to steer by. From there the steps converge superlinearly without another
one. The posterior precision, in the precision of the computation, is formed once, at the optimum.
Beyond ``FULL_PARAMETERS`` weights only the first kind is used, which is L-BFGS with a
data-dependent metric.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_priv.errors import ConvergenceError

from .heads import Head, HeadName, make_head
from .lbfgs import CurvaturePairs, line_search
from .moments import HessianSum
from .rows import Features, Labels, Rows, make_rows, with_bias
from .shards import Shards

FULL_PARAMETERS = 20_000  # above this many, no K x K matrix is formed
_NEAR = 1e-2  # gradient, relative to the first, at which the full Hessian pays
_PATIENCE = 25  # steps with one Hessian before it is renewed


@dataclass(frozen=True)
class ProbeFit:
    """A fitted probe.

    Args:
        weight: (C, d + bias), the bias last.
        l2: prior precision, on the summed loss.
        head: likelihood.
        bias: whether a constant feature was appended.
        noise_variance: of the regression head.
        gradient_norm: largest entry of the gradient at the fit.
        iterations: passes over the data.
        loss: summed negative log-likelihood plus l2/2 |weight|^2.
        n: samples, over all processes.
        factor: Cholesky factor of the posterior precision in the head's coordinates,
            (blocks, width d1, width d1), or None if it was not wanted.
    """

    weight: Tensor
    l2: float
    head: HeadName
    bias: bool
    noise_variance: float
    gradient_norm: float
    iterations: int
    loss: float
    n: int
    factor: Tensor | None = None

    @property
    def num_outputs(self) -> int:
        """Classes, or columns of outputs."""
        return len(self.weight)

    @property
    def num_parameters(self) -> int:
        """K, weights and biases."""
        return self.weight.numel()

    @property
    def likelihood(self) -> Head:
        """The head with its numbers."""
        return make_head(self.head, self.num_outputs, self.noise_variance)

    @property
    def coordinates(self) -> Tensor:
        """The weights in the head's coordinates, (blocks, width, d1)."""
        head = self.likelihood
        blocks = self.weight.unflatten(0, (head.blocks, -1))
        return head.basis(self.weight).mT @ blocks

    def logits(self, features: Tensor) -> Tensor:
        """Outputs (n, C) of features (n, d)."""
        x = with_bias(features, self.bias, self.weight.dtype, self.weight.device)
        return x @ self.weight.mT


def fit_probe(
    features: Features,
    labels: Labels = None,
    l2: float = 1.0,
    *,
    head: HeadName = "softmax",
    num_classes: int | None = None,
    noise_variance: float = 1.0,
    bias: bool = True,
    weights: Tensor | None = None,
    tolerance: float = 1e-9,
    max_iterations: int = 2000,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    chunk_rows: int = 16384,
    shards: Shards | None = None,
) -> ProbeFit:
    """Minimise sum_j l(z_j, theta) + l2/2 |theta|^2; the bias is penalised like the others.

    Args:
        features: (n, d), an array (memory-mapped if it is large), or an iterable of
            (features, labels) chunks that can be passed over several times.
        labels: (n,) classes for ``softmax``, (n,) zeros and ones for ``binary``, (n, C) of them
            for ``multilabel``, (n,) or (n, m) numbers for ``regression``; None with an iterable.
        l2: prior precision on the *summed* loss: n times the weight decay of a mean loss.
        head: the likelihood.
        num_classes: classes of ``softmax``; by default the highest label + 1.
        noise_variance: of ``regression``.
        bias: append a constant feature.
        weights: (n,) >= 0, how often each sample counts; 0 leaves it out.
        tolerance: largest entry that the gradient may have at the end.
        max_iterations: passes over the data at most.
        dtype: of the computation.
        device: of the computation; by default that of the features.
        chunk_rows: rows converted at a time.
        shards: this process among others; features are then its own rows only.

    Returns:
        The fit, the same on every process.

    Raises:
        ValueError: for wrong arguments or data (see the message).
        ConvergenceError: if the gradient stays above the tolerance.
    """
    rows = make_rows(
        features,
        labels,
        head=head,
        num_classes=num_classes,
        noise_variance=noise_variance,
        bias=bias,
        weights=weights,
        dtype=dtype,
        device=device,
        chunk_rows=chunk_rows,
        shards=shards,
    )
    return fit_rows(rows, l2, tolerance=tolerance, max_iterations=max_iterations)


def fit_rows(
    rows: Rows,
    l2: float,
    *,
    tolerance: float = 1e-9,
    max_iterations: int = 2000,
    start: Tensor | None = None,
    full: bool | None = None,
) -> ProbeFit:
    """Fit the probe to checked rows; arguments as in :func:`fit_probe`.

    Args:
        rows: the samples.
        l2: prior precision.
        tolerance: largest entry of the final gradient.
        max_iterations: passes at most.
        start: first weights in coordinates, (blocks, width, d1).
        full: whether to form the K x K Hessian; by default if K <= 20,000.
    """
    if not 0 < l2 < float("inf"):
        raise ValueError(f"l2 must be a finite number > 0, got {l2}; without a prior no posterior")
    head, shape = rows.head, (rows.head.blocks, rows.head.width, rows.d1)
    if full is None:
        full = rows.num_parameters <= FULL_PARAMETERS
    theta = torch.zeros(shape, dtype=rows.dtype, device=rows.device) if start is None else start
    gram, scale = _second_moments(rows)
    floor = 8 * torch.finfo(rows.dtype).eps * scale  # rounding of a gradient entry
    tolerance = max(tolerance, floor)
    first = torch.linalg.cholesky(head.first_curvature * gram + l2 * _eye(gram))
    factor: Tensor | None = None

    def evaluate(weights: Tensor) -> tuple[Tensor, Tensor]:
        return objective(rows, l2, weights)

    loss, gradient = evaluate(theta)
    initial = size = float(gradient.abs().amax())
    steps, age, pairs = 1, 0, CurvaturePairs()
    while size > tolerance:
        if steps >= max_iterations:
            raise _not_converged(size, tolerance, steps)
        renew = size <= _NEAR * initial if factor is None else age >= _PATIENCE
        if full and (renew or age >= _PATIENCE):
            factor, age, pairs = _steering_factor(rows, l2, theta), 0, CurvaturePairs()

        def solve(g: Tensor, factor: Tensor | None = factor) -> Tensor:
            if factor is None:
                return torch.cholesky_solve(g.flatten(0, 1).mT, first).mT.unflatten(0, shape[:2])
            flat = g.flatten(1)[..., None].to(factor.dtype)
            return torch.cholesky_solve(flat, factor)[..., 0].reshape(shape).to(g.dtype)

        step = pairs.direction(gradient, solve)
        taken = line_search(evaluate, theta, step, loss, gradient)
        if taken is None:
            if size <= 1e3 * tolerance and age == 0 and factor is not None:
                break  # as small as the rounding of the loss lets one see
            if age == 0 and (factor is not None or not full):
                raise _not_converged(size, tolerance, steps)
            age = _PATIENCE
            continue
        new, loss, new_gradient, passes = taken
        pairs.add(new - theta, new_gradient - gradient)
        theta, gradient = new, new_gradient
        size, age, steps = float(gradient.abs().amax()), age + 1, steps + passes
    if full:  # the precision belongs to the optimum, and one more step costs little beside it
        factor = precision_factor(rows, l2, theta)
        shift = torch.cholesky_solve(gradient.flatten(1)[..., None], factor)[..., 0]
        polished = theta - shift.reshape(shape)
        new_loss, new_gradient = evaluate(polished)
        if float(new_gradient.abs().amax()) <= size:
            theta, loss, gradient = polished, new_loss, new_gradient
    return _probe_fit(rows, l2, theta, loss, gradient, steps, factor if full else None)


def _probe_fit(
    rows: Rows,
    l2: float,
    theta: Tensor,
    loss: Tensor,
    gradient: Tensor,
    passes: int,
    factor: Tensor | None,
) -> ProbeFit:
    head = rows.head
    return ProbeFit(
        (head.basis(theta) @ theta).flatten(0, 1),
        l2,
        head.name,
        rows.bias,
        getattr(head, "noise_variance", 1.0),
        float(gradient.abs().amax()),
        passes,
        float(loss),
        rows.total,
        factor,
    )


def at_weights(rows: Rows, l2: float, theta: Tensor) -> ProbeFit:
    """The probe at given weights, in coordinates, with its precision where K allows it."""
    loss, gradient = objective(rows, l2, theta)
    full = rows.num_parameters <= FULL_PARAMETERS
    return _probe_fit(
        rows, l2, theta, loss, gradient, 0, precision_factor(rows, l2, theta) if full else None
    )


def objective(rows: Rows, l2: float, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Summed loss with prior, and its gradient in coordinates, over all processes."""
    head, basis = rows.head, rows.head.basis(theta)
    weights = basis @ theta  # (blocks, outputs of a block, d1)
    total = torch.zeros(weights.numel() + 1, dtype=theta.dtype, device=theta.device)
    sums = total[1:].view(-1, rows.d1)
    for chunk in rows:
        z = (weights.flatten(0, 1) @ chunk.x.mT).unflatten(0, weights.shape[:2])
        loss, residual = head.losses(z, chunk.y.movedim(0, -1))
        if chunk.weight is not None:
            loss, residual = loss * chunk.weight, residual * chunk.weight
        total[0] += loss.sum()
        sums.addmm_(residual.flatten(0, 1), chunk.x)
    total = rows.sum(total)
    gradient = basis.mT @ total[1:].view_as(weights) + l2 * theta
    return total[0] + 0.5 * l2 * theta.square().sum(), gradient


def precision(rows: Rows, l2: float, theta: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """P = H + l2 I in coordinates, (blocks, width d1, width d1), over all processes.

    Args:
        rows: the samples.
        l2: prior precision.
        theta: where, in coordinates.
        dtype: in which sums are formed; default: that of ``theta``.
    """
    dtype = dtype or theta.dtype
    moments = HessianSum(
        rows.head.blocks, rows.head.width, rows.d1, theta.new_empty(0, dtype=dtype)
    )
    for chunk in rows:
        u = (chunk.x @ theta.flatten(0, 1).mT).unflatten(1, theta.shape[:2])
        s = rows.head.curvature(u.to(dtype))
        s = s if chunk.weight is None else s * chunk.weight[:, None, None, None].to(dtype)
        moments.add(chunk.x.to(dtype), s)
    moments.sums = rows.sum(moments.sums)
    total = moments.total()
    total.diagonal(dim1=-2, dim2=-1).add_(l2)
    return total


def precision_factor(rows: Rows, l2: float, theta: Tensor) -> Tensor:
    """Lower Cholesky factor of :func:`precision`."""
    return torch.linalg.cholesky(precision(rows, l2, theta))


def _steering_factor(rows: Rows, l2: float, theta: Tensor) -> Tensor:
    """Factor of the precision in float32; in that of the computation where this is not definite."""
    factor, info = torch.linalg.cholesky_ex(precision(rows, l2, theta, torch.float32))
    return precision_factor(rows, l2, theta) if bool(info.any()) else factor


def _second_moments(rows: Rows) -> tuple[Tensor, float]:
    """Sum of x x^T, and the scale of a gradient entry: the largest sum of |x_f|."""
    like = torch.zeros((), dtype=rows.dtype, device=rows.device)
    total = like.new_zeros(rows.d1 + 1, rows.d1)
    for chunk in rows:
        x = chunk.x if chunk.weight is None else chunk.x * chunk.weight[:, None]
        total[:-1].addmm_(chunk.x.mT, x)
        total[-1] += x.abs().sum(0)
    total = rows.sum(total)
    return total[:-1], float(total[-1].max())


def _eye(matrix: Tensor) -> Tensor:
    return torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)


def _not_converged(size: float, tolerance: float, steps: int) -> ConvergenceError:
    return ConvergenceError(
        f"the probe's gradient is {size:.2g} after {steps} passes, above the tolerance "
        f"{tolerance:.2g}; standardise the features, raise l2, or raise max_iterations"
    )
