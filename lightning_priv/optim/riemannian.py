"""geoopt's Riemannian optimizers with signatures that a YAML file can fill."""

from collections.abc import Iterable
from typing import Any

import geoopt

__all__ = ["RiemannianAdam", "RiemannianSGD"]


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


class RiemannianAdam(geoopt.optim.RiemannianAdam):
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

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Keep step counts whole numbers when a state is loaded.

        torch turns them into float32 tensors, in which geoopt would then compute its bias
        corrections: a resumed run would not equal an unbroken one.
        """
        super().__setstate__(state)
        for values in self.state.values():
            if "step" in values:
                values["step"] = int(values["step"])
