"""Limited-memory BFGS directions around a given inverse Hessian."""

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor


class CurvaturePairs:
    """The last steps and gradient changes, and the direction they give.

    Args:
        memory: pairs kept.
    """

    def __init__(self, memory: int = 20) -> None:
        self._pairs: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=memory)

    def add(self, step: Tensor, change: Tensor) -> None:
        """Keep a pair if it shows positive curvature beyond rounding."""
        product = (step * change).sum()
        if bool(product > 1e-14 * step.norm() * change.norm()):
            self._pairs.append((step, change, product))

    def direction(self, gradient: Tensor, solve: Callable[[Tensor], Tensor]) -> Tensor:
        """Minus the inverse Hessian times the gradient (two-loop recursion).

        Args:
            gradient: any shape.
            solve: applies the inverse Hessian that the pairs correct.
        """
        q, back = gradient.clone(), []
        for step, change, product in reversed(self._pairs):
            weight = (step * q).sum() / product
            q -= weight * change
            back.append(weight)
        direction = solve(q)
        for (step, change, product), weight in zip(self._pairs, reversed(back), strict=True):
            direction += (weight - (change * direction).sum() / product) * step
        return -direction


Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]


def line_search(
    evaluate: Evaluate, point: Tensor, step: Tensor, loss: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor, int] | None:
    """Halve a descent step until the loss falls; None if it never does.

    Close to the optimum the loss no longer shows a fall; there a smaller slope along the step
    decides (the approximate condition of Hager and Zhang, 2005).

    Args:
        evaluate: loss and gradient at a point.
        point: where the step starts.
        step: its direction and first length.
        loss: at ``point``.
        gradient: at ``point``.

    Returns:
        The new point, its loss and gradient, and how often it evaluated.
    """
    slope = float((gradient * step).sum())
    if not slope < 0:
        return None
    noise = 1e2 * torch.finfo(loss.dtype).eps * float(loss.abs())
    length = 1.0
    for passes in range(1, 31):
        new = point + length * step
        new_loss, new_gradient = evaluate(new)
        change = float(new_loss - loss)
        new_slope = float((new_gradient * step).sum())
        if change <= 1e-4 * length * slope:
            return new, new_loss, new_gradient, passes
        if change <= noise and abs(new_slope) <= 0.9 * abs(slope):
            return new, new_loss, new_gradient, passes
        length /= 2
    return None


def minimise(
    evaluate: Evaluate,
    start: Tensor,
    solve: Callable[[Tensor], Tensor],
    tolerance: float,
    max_steps: int = 5000,
) -> tuple[Tensor, float]:
    """Minimise by limited-memory BFGS around a given inverse Hessian.

    Args:
        evaluate: loss and gradient at a point.
        start: first point.
        solve: applies an approximate inverse Hessian.
        tolerance: largest gradient entry at the end.
        max_steps: steps at most.

    Returns:
        The point and its largest gradient entry, which the caller compares with the tolerance.
    """
    point, pairs, fresh = start, CurvaturePairs(), True
    loss, gradient = evaluate(point)
    for _ in range(max_steps):
        if float(gradient.abs().amax()) <= tolerance:
            break
        taken = line_search(evaluate, point, pairs.direction(gradient, solve), loss, gradient)
        if taken is None:
            if fresh:
                break
            pairs, fresh = CurvaturePairs(), True
            continue
        new, loss, new_gradient, _ = taken
        pairs.add(new - point, new_gradient - gradient)
        point, gradient, fresh = new, new_gradient, False
    return point, float(gradient.abs().amax())
