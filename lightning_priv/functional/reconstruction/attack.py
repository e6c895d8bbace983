"""How far a concrete from-scratch attack stays behind the bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_priv.functional.reconstruction._arguments import Arguments

if TYPE_CHECKING:
    from lightning_priv.functional.reconstruction._arguments import Input, Output


def attack_noise_std(
    noise_multiplier: Input,
    max_norm: Input,
    max_grad_norm: Input,
    outputs: Input = 1,
    loss_scale: Input = 1.0,
    sink_norm: Input = 0.0,
    steps: Input = 1,
) -> Output:
    """Noise per value of the reconstruction by a linear layer that sums its outputs.

    s = sigma ||X|| max(||g||, C) / ||g_W|| / sqrt(steps),
    ||g_W|| = sqrt(outputs) loss_scale ||X||,  ||g||^2 = ||g_W||^2 + sink_norm^2

    It is never below sigma ||X|| / sqrt(steps), the value that the bounds assume, and equals it if
    the gradient reaches the clipping norm and nothing else contributes to it. The expected batch
    size does not enter: it scales signal and noise alike.

    Args:
        noise_multiplier: sigma.
        max_norm: L2 norm of the record as the network sees it.
        max_grad_norm: C, the clipping norm.
        outputs: rows of the reconstruction layer, each of whose gradients is the record.
        loss_scale: factor on the loss.
        sink_norm: norm of the gradient of all other parameters.
        steps: observations that are averaged.

    Returns:
        Standard deviations in the caller's type; the mean error is their square.

    Example:
        >>> attack_noise_std(0.1, 4.0, 1.0), attack_noise_std(0.1, 4.0, 20.0)
        (0.4, 2.0)
    """
    arguments = Arguments(
        {
            "max_grad_norm": "max_norm",
            "outputs": "whole_steps",
            "loss_scale": "max_norm",
            "sink_norm": "eigenvalues",
        },
        noise_multiplier=noise_multiplier,
        max_norm=max_norm,
        max_grad_norm=max_grad_norm,
        outputs=outputs,
        loss_scale=loss_scale,
        sink_norm=sink_norm,
        steps=steps,
    )

    def deviation(a: Any) -> Any:
        layer = a.outputs**0.5 * a.loss_scale * a.max_norm
        whole = (layer**2 + a.sink_norm**2) ** 0.5
        clipped = a.ops.where(whole > a.max_grad_norm, whole, a.max_grad_norm)
        return a.noise_multiplier * a.max_norm * (clipped / layer) / a.steps**0.5

    return arguments.map(deviation)
