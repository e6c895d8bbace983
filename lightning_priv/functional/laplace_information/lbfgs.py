"""Limited-memory BFGS directions around a given inverse Hessian."""

from collections import deque
from collections.abc import Callable

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
