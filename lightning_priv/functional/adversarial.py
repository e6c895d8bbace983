"""Adversarial images by the sign of the gradient, within a budget in each pixel."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lightning_priv.errors import DivergenceError

__all__ = ["fgsm", "pgd"]

Classify = Callable[[Tensor], Tensor]
Bounds = tuple[float | Tensor, float | Tensor]


def fgsm(
    classify: Classify,
    x: Tensor,
    y: Tensor,
    epsilon: float | Tensor,
    bounds: Bounds | None = None,
) -> Tensor:
    """Fast gradient sign method: x + epsilon sign(grad of the cross entropy) (Goodfellow 2015).

    Args:
        classify: from inputs, shape (B, ...), to logits, shape (B, C); in evaluation mode.
        x: inputs, shape (B, ...).
        y: labels, shape (B,).
        epsilon: largest change of an entry, 0 or more: a number or a tensor that broadcasts to
            ``x`` (one budget for each channel).
        bounds: smallest and largest value of an entry (numbers or tensors); results are clipped.

    Returns:
        Inputs with |x' - x| <= epsilon, of the shape of ``x``.

    Raises:
        ValueError: if a budget is negative, or ``x`` lies outside of the bounds.
        DivergenceError: if the gradient is NaN.
    """
    return pgd(classify, x, y, epsilon, steps=1, step_size=epsilon, bounds=bounds)


def pgd(
    classify: Classify,
    x: Tensor,
    y: Tensor,
    epsilon: float | Tensor,
    steps: int = 7,
    step_size: float | Tensor | None = None,
    bounds: Bounds | None = None,
    random_start: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient descent in the l_infinity ball (Madry et al. 2018).

    The HCNN paper takes 7 steps of a quarter of the budget from the input itself.

    Args:
        classify: as in ``fgsm``.
        x: inputs, shape (B, ...).
        y: labels, shape (B,).
        epsilon: as in ``fgsm``.
        steps: gradient steps, at least 1.
        step_size: length of a step; default a quarter of ``epsilon``.
        bounds: as in ``fgsm``.
        random_start: start at a random place in the ball.
        generator: for the random start.

    Returns:
        Inputs with |x' - x| <= epsilon, of the shape of ``x``.

    Raises:
        ValueError: if ``steps`` is below 1, a budget is negative, or ``x`` lies outside of the
            bounds.
        DivergenceError: if a gradient is NaN: its sign would be no attack, and the accuracy left
            would look like robustness.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    budget = torch.as_tensor(epsilon, dtype=x.dtype, device=x.device)
    if bool((budget < 0).any()):
        raise ValueError(f"epsilon must be at least 0, got {epsilon}")
    step = budget / 4 if step_size is None else torch.as_tensor(step_size).to(x)
    x = x.detach()
    low, high = _box(x, budget, bounds)
    current = x.clone()
    if random_start:
        noise = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        current = (x + budget * (2 * noise - 1)).clamp(low, high)
    for _ in range(steps):
        current.requires_grad_()
        with torch.enable_grad():
            loss = F.cross_entropy(classify(current), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, current)
        if bool(gradient.isnan().any()):
            where = "the inputs hold" if bool(x.isnan().any()) else "the network gives"
            raise DivergenceError(
                f"{where} NaN, so there is no gradient to attack along; check the data and the "
                "checkpoint, or attack in float32 (trainer.precision: 32-true)"
            )
        current = (current.detach() + step * gradient.sign()).clamp(low, high)
    return current


def _box(x: Tensor, budget: Tensor, bounds: Bounds | None) -> tuple[Tensor, Tensor]:
    """The ball around x, in numbers of x's type: rounding may not carry out of it."""
    low, high = x - budget, x + budget
    # x - (x - e) may round to more than e
    low = torch.where(x - low > budget, torch.nextafter(low, x), low)
    high = torch.where(high - x > budget, torch.nextafter(high, x), high)
    if bounds is None:
        return low, high
    least, most = (torch.as_tensor(b, dtype=x.dtype, device=x.device) for b in bounds)
    slack = 1e-4 * (most - least)
    if bool(((x < least - slack) | (x > most + slack)).any()):
        raise ValueError(
            f"inputs lie in [{float(x.min()):.4g}, {float(x.max()):.4g}], outside of the bounds; "
            "give the bounds in the units of the inputs"
        )
    # inputs themselves may round to just outside
    return torch.maximum(low, torch.minimum(least, x)), torch.minimum(high, torch.maximum(most, x))
