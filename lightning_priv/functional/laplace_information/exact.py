"""Exact leave-one-out fits, many at a time.

Each starts at its Newton step and repeats theta <- theta - M_i grad_i(theta), where M_i inverts
P - H_i by the frozen factor of P and a small correction, sharpened by limited-memory BFGS pairs of
each fit's own. What has not converged in the end (high leverage, tiny l2) is fitted by itself.
With several processes every gradient is summed over them, and none needs the others' samples.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .alo import Leverage
from .downdate import newton_step
from .ekfac import EkfacLeverage
from .many import many_gradients, own_gradients
from .probe import fit_rows
from .rows import Rows

AnyLeverage = Leverage | EkfacLeverage
TOLERANCE = 1e-12
_MAX_STEPS = 60
_MEMORY = 8
_BLOCK_BYTES = 2**27  # pairs of one block of fits


def leave_one_out(
    rows: Rows,
    l2: float,
    lever: AnyLeverage,
    chosen: Tensor,
    tolerance: float = TOLERANCE,
) -> Tensor:
    """Weights of the probe without each chosen sample, in coordinates.

    Args:
        rows: the samples of this process.
        l2: prior precision.
        lever: the fit with all samples.
        chosen: (k,) indices into this process's rows.
        tolerance: largest entry of the final gradients.

    Returns:
        (k, blocks, width, d1).
    """
    theta = lever.theta
    out = theta.new_zeros(len(chosen), *theta.shape)
    done = torch.zeros(len(chosen), dtype=torch.bool, device=theta.device)
    size = theta.numel() * theta.element_size() * 2 * _MEMORY
    block = max(1, min(128, _BLOCK_BYTES // size))
    for part in turns(rows, len(chosen), block):
        out[part], done[part] = _block(rows, l2, lever, chosen[part], tolerance)
    _one_by_one(rows, l2, lever, chosen, out, done)
    return out


def turns(rows: Rows, count: int, block: int) -> Iterator[slice]:
    """Blocks of this process's ``count`` items; empty ones while other processes have more."""
    for number in range(most(rows, -(-count // block))):
        yield slice(min(number * block, count), min((number + 1) * block, count))


def most(rows: Rows, count: int) -> int:
    """The highest count of any process."""
    like = torch.zeros((), device=rows.device)
    return count if rows.shards.world_size == 1 else int(rows.shards.each(count, like).max())


def select(rows: Rows, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Features (k, d1) and targets of chosen rows."""
    head = rows.head
    x = torch.zeros(len(chosen), rows.d1, dtype=rows.dtype, device=rows.device)
    y = x.new_zeros(len(chosen), head.blocks, head.outputs // head.blocks)
    for chunk in rows:
        inside = (chosen >= chunk.start) & (chosen < chunk.start + len(chunk.x))
        local = chosen[inside] - chunk.start
        x[inside], y[inside] = chunk.x[local], chunk.y[local]
    return x, y


def _block(
    rows: Rows, l2: float, lever: AnyLeverage, chosen: Tensor, tolerance: float
) -> tuple[Tensor, Tensor]:
    head, theta = rows.head, lever.theta
    x, y = select(rows, chosen)
    u = (x @ theta.flatten(0, 1).mT).unflatten(1, theta.shape[:2])
    s, g = head.curvature(u), lever.forms.of(x)
    step = newton_step(g, s, head.residual(u, y))
    woodbury = torch.linalg.solve(_eye(g) - s @ g, s)  # (I - S G)^-1 S
    thetas = theta + lever.deltas(x, step.v)
    done = torch.zeros(len(chosen), dtype=torch.bool, device=theta.device)
    active = torch.arange(len(chosen), device=theta.device)
    history: list[tuple[Tensor, Tensor, Tensor]] = []
    last: tuple[Tensor, Tensor] | None = None
    for _ in range(_MAX_STEPS):
        if most(rows, len(active)) == 0:
            break
        current = thetas[active]
        gradient = _gradients(rows, l2, current, x[active], y[active])
        if last is not None:
            history = _remember(history, current - last[0], gradient - last[1])
        size = gradient.abs().amax((1, 2, 3))
        keep = size > tolerance
        done[active[~keep]] = True
        active = active[keep]
        current, gradient = current[keep], gradient[keep]
        history = [(a[keep], b[keep], c[keep]) for a, b, c in history]
        last = (current, gradient)

        def solve(q: Tensor, index: Tensor = active) -> Tensor:
            moved = lever.solve(q)
            along = torch.einsum("bkwd,bd->bkw", moved, x[index])
            fix = (woodbury[index] @ along[..., None])[..., 0]
            return moved + lever.deltas(x[index], fix)

        thetas[active] = current + _direction(gradient, history, solve)
    return thetas, done


def _gradients(rows: Rows, l2: float, thetas: Tensor, x: Tensor, y: Tensor) -> Tensor:
    shards = rows.shards
    if shards.world_size == 1:
        total = many_gradients(rows, thetas)
    else:
        counts = shards.each(len(thetas), thetas).long().tolist()
        start = sum(counts[: shards.rank])
        total = many_gradients(rows, shards.concatenate(thetas))[start : start + len(thetas)]
    return total - own_gradients(rows.head, thetas, x, y) + l2 * thetas


def _remember(
    history: list[tuple[Tensor, Tensor, Tensor]], step: Tensor, change: Tensor
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Add the fits' last pairs; a pair without curvature gets weight 0."""
    product = _dot(step, change)
    floor = 1e-14 * step.flatten(1).norm(dim=1) * change.flatten(1).norm(dim=1)
    good = product > floor.view_as(product)
    weight = torch.where(good, 1 / torch.where(good, product, 1.0), 0.0)
    return [*history[-(_MEMORY - 1) :], (step, change, weight)]


def _direction(
    gradient: Tensor,
    history: list[tuple[Tensor, Tensor, Tensor]],
    solve: Callable[[Tensor], Tensor],
) -> Tensor:
    q, back = gradient.clone(), []
    for step, change, weight in reversed(history):
        factor = weight * _dot(step, q)
        q -= factor * change
        back.append(factor)
    direction = solve(q)
    for (step, change, weight), factor in zip(history, reversed(back), strict=True):
        direction += (factor - weight * _dot(change, direction)) * step
    return -direction


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2, 3), keepdim=True)


def _eye(g: Tensor) -> Tensor:
    return torch.eye(g.shape[-1], dtype=g.dtype, device=g.device)


def _one_by_one(
    rows: Rows,
    l2: float,
    lever: AnyLeverage,
    chosen: Tensor,
    out: Tensor,
    done: Tensor,
) -> None:
    """Full fits, with line search, of what is left; every process takes part in each."""
    shards, left = rows.shards, (~done).nonzero()[:, 0]
    whose = torch.full_like(left, shards.rank)
    for rank, position in shards.concatenate(torch.stack([whose, left], 1)).tolist():
        weights = torch.ones(rows.n, dtype=rows.dtype, device=rows.device)
        if rank == shards.rank:
            weights[chosen[position]] = 0
        fit = fit_rows(rows.weighted(weights), l2, tolerance=TOLERANCE, start=lever.theta)
        if rank == shards.rank:
            out[position] = fit.coordinates
