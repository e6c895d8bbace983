"""Adam whose second moments do not contain the variance of the privacy noise."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

__all__ = ["DPAdamBC"]


class DPAdamBC(torch.optim.Optimizer):
    """Adam with the noise of DP-SGD taken out of its second moments.

    Gradients of private training are g + z, z of variance (sigma C / B)^2. The second moment of
    plain Adam then is about that variance in every coordinate, and Adam a slow SGD with momentum.
    Here (Tang, Shpilevskiy, Lécuyer 2024, arXiv 2312.14334)

        theta <- theta - lr m_hat / sqrt(max(v_hat - n_hat, floor)),

    m_hat and v_hat as in Adam and n_hat the average, with the same weights, of the steps' noise
    variances, so that it is right under schedules of sigma and adaptive clipping too. It works on
    released gradients only: privacy is not affected.

    ``DPSGDStrategy`` writes the noise variance of each step to ``noise_variance`` of every
    parameter group that has such a key; in training without noise this is Adam with a floor.

    Args:
        params: parameters or parameter groups.
        lr: learning rate, >= 0.
        betas: decay rates of the running averages of the gradient and of its square.
        floor: least corrected second moment, > 0. Noise alone leaves v_hat - n_hat with a standard
            deviation of about sqrt(2 (1 - beta_2) / (1 + beta_2)) (sigma C / B)^2 in the long run;
            coordinates whose gradients are smaller than that are scaled at random unless the floor
            is higher.
        weight_decay: decoupled weight decay, as in AdamW.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> parameter = torch.nn.Parameter(torch.zeros(1))
        >>> optimizer = DPAdamBC([parameter], lr=0.1)
        >>> parameter.grad = torch.tensor([5.0])
        >>> optimizer.param_groups[0]["noise_variance"] = 16.0  # 25 - 16 = 3 squared
        >>> optimizer.step()
        >>> round(float(parameter), 4)
        -0.1667
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        floor: float = 5e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not lr >= 0 or not weight_decay >= 0 or not floor > 0:
            raise ValueError(
                f"lr={lr}, weight_decay={weight_decay}, floor={floor}: lr and weight_decay must be "
                "at least 0, floor above 0"
            )
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas={betas}: both must be in [0, 1)")
        defaults = {
            **{"lr": lr, "betas": tuple(betas), "floor": floor, "weight_decay": weight_decay},
            "noise_variance": 0.0,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every parameter with a gradient.

        Args:
            closure: computes the loss and gradients anew before the step.

        Returns:
            What ``closure`` gave, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)
        return loss

    def _move(self, parameter: torch.Tensor, grad: torch.Tensor, group: dict[str, Any]) -> None:
        if grad.is_sparse:
            raise ValueError("DPAdamBC takes dense gradients; noise is never sparse")
        state = self.state[parameter]
        if not state:
            # tensors, so that a loaded state has the same types
            state["step"] = torch.zeros((), dtype=torch.float64)
            state["noise"] = torch.zeros((), dtype=torch.float64)
            state["mean"] = torch.zeros_like(parameter)
            state["square"] = torch.zeros_like(parameter)
        beta1, beta2 = group["betas"]
        state["step"] += 1
        state["mean"].lerp_(grad, 1 - beta1)
        state["square"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        state["noise"].mul_(beta2).add_((1 - beta2) * group["noise_variance"])
        steps = float(state["step"])
        first, second = 1 - beta1**steps, 1 - beta2**steps
        corrected = (state["square"] - float(state["noise"])).div_(second)
        if group["weight_decay"]:
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
        scale = corrected.clamp_min_(group["floor"]).sqrt_()
        parameter.addcdiv_(state["mean"], scale, value=-group["lr"] / first)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; numbers of steps and of noise keep their float64."""
        super().load_state_dict(state_dict)
        order = [p for group in self.param_groups for p in group["params"]]
        keys = [k for group in state_dict["param_groups"] for k in group["params"]]
        for parameter, key in zip(order, keys, strict=True):
            for name in ("step", "noise"):
                if key in state_dict["state"]:
                    value = state_dict["state"][key][name]
                    self.state[parameter][name] = value.detach().double().cpu().clone()
