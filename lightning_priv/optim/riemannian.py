"""geoopt's Riemannian optimizers with signatures that a YAML file can fill."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import geoopt
import torch
from torch import Tensor

__all__ = ["RiemannianAdam", "RiemannianAdamW", "RiemannianSGD"]

# torch wraps ``step`` of every class it makes an optimizer of, to run hooks; a step inside a step
# takes the plain one, so that hooks run once.
_adam_step = inspect.unwrap(geoopt.optim.RiemannianAdam.step)


class RiemannianSGD(geoopt.optim.RiemannianSGD):
    """Riemannian SGD of geoopt; ordinary parameters are treated as by ``torch.optim.SGD``.

    geoopt changes ``param.grad`` in place during the step (weight decay is added, the time sign of
    points flips): log or clip gradients before it. Its momentum starts at the first gradient and
    then decays and adds that gradient again, so the first step is (1 + momentum) times torch's.

    Args:
        params: parameters or parameter groups.
        lr: learning rate, >= 0.
        momentum: momentum factor, >= 0.
        dampening: dampening of the momentum.
        weight_decay: L2 penalty; it pulls points of a manifold towards the coordinates' zero.
        nesterov: use Nesterov momentum.
        stabilize: project points back on their manifolds every so many steps; 1 in HCNN.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.1,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        stabilize: int | None = 1,
    ) -> None:
        super().__init__(
            params,
            lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            stabilize=stabilize,
        )


class _WholeSteps(geoopt.optim.RiemannianAdam):
    """geoopt's Adam whose step counts are whole numbers also after a state is loaded."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Keep step counts whole numbers when a state is loaded.

        torch turns them into float32 tensors, in which geoopt would then compute its bias
        corrections: a resumed run would not equal an unbroken one.
        """
        super().__setstate__(state)
        for values in self.state.values():
            if "step" in values:
                values["step"] = int(values["step"])


class RiemannianAdam(_WholeSteps):
    """Riemannian Adam of geoopt; ordinary parameters are treated as by ``torch.optim.Adam``.

    Args:
        params: parameters or parameter groups.
        lr: learning rate, >= 0.
        betas: decay rates of the running averages of the gradient and of its square.
        eps: added to the denominator.
        weight_decay: L2 penalty.
        amsgrad: keep the maximum of the second moments.
        stabilize: project points back on their manifolds every so many steps; 1 in HCNN.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        stabilize: int | None = 1,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            stabilize=stabilize,
        )


class RiemannianAdamW(RiemannianAdam):
    """Riemannian Adam with decoupled weight decay; ordinary parameters as ``torch.optim.AdamW``.

    A point is decayed along the manifold: after the step it moves on the geodesic to the origin
    until its distance to it is (1 - lr weight_decay) times what it was, which is what AdamW does to
    a vector; its momentum is transported along. A point's step comes first because its gradient
    belongs to where the point was. Parameters without a gradient are left alone.

    Args:
        params: parameters or parameter groups.
        lr: learning rate, >= 0.
        betas: decay rates of the running averages of the gradient and of its square.
        eps: added to the denominator.
        weight_decay: decay rate; a group may have its own (0 for a learnable curvature, see
            ``parameter_groups``).
        amsgrad: keep the maximum of the second moments.
        stabilize: project points back on their manifolds every so many steps; 1 in HCNN.
        decay_points: decay points of a manifold; if false, only ordinary parameters.

    Raises:
        ValueError: if an argument is out of range, or a point that is to be decayed lies on a
            manifold without a map to and from an origin.

    Example:
        >>> parameter = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = RiemannianAdamW([parameter], lr=0.1, weight_decay=0.5)
        >>> parameter.grad = torch.zeros(2)
        >>> _ = optimizer.step()
        >>> parameter.data
        tensor([0.9500, 0.9500])
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        stabilize: int | None = 1,
        decay_points: bool = True,
    ) -> None:
        self._decay_points = decay_points
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            stabilize=stabilize,
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; see ``torch.optim.Optimizer``."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if not (self._decay_points and group["weight_decay"]):
            return
        for point in filter(_is_point, group["params"]):
            if not (hasattr(point.manifold, "expmap0") and hasattr(point.manifold, "logmap0")):
                raise ValueError(
                    f"points of {type(point.manifold).__name__} have no origin to decay to; set "
                    "decay_points=False or put them into a group with weight_decay=0"
                )

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
        rates = [group["weight_decay"] for group in self.param_groups]
        try:
            for group, rate in zip(self.param_groups, rates, strict=True):
                self._shrink_vectors(group, group["lr"] * rate)
                group["weight_decay"] = 0.0  # geoopt would add an L2 gradient
            _adam_step(self)
        finally:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["weight_decay"] = rate
        if self._decay_points:
            for group in self.param_groups:
                self._shrink_points(group, group["lr"] * group["weight_decay"])
        return loss

    @torch.no_grad()
    def _shrink_vectors(self, group: dict[str, Any], rate: float) -> None:
        for parameter in group["params"]:
            if rate and parameter.grad is not None and not _is_point(parameter):
                parameter.mul_(1 - rate)

    @torch.no_grad()
    def _shrink_points(self, group: dict[str, Any], rate: float) -> None:
        for point in group["params"]:
            if rate and point.grad is not None and _is_point(point):
                manifold, momentum = point.manifold, self.state[point]["exp_avg"]
                nearer = manifold.expmap0((1 - rate) * manifold.logmap0(point))
                momentum.copy_(manifold.transp(point, nearer, momentum))
                point.copy_(nearer)


def _is_point(parameter: Tensor) -> bool:
    return isinstance(parameter, (geoopt.ManifoldParameter, geoopt.ManifoldTensor))
