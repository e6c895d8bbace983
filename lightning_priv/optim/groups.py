"""Parameter groups of the HCNN recipe."""

from typing import Any

from geoopt import Manifold, ManifoldParameter
from torch import nn

__all__ = ["GROUP_NAMES", "parameter_groups"]

GROUP_NAMES = frozenset({"euclidean", "scale", "curvature", "manifold"})


def parameter_groups(
    module: nn.Module, lr: float, manifold_lr_scale: float = 0.2, k_lr: float = 1e-4
) -> list[dict[str, Any]]:
    """Split parameters into the groups ``euclidean``, ``scale``, ``curvature`` and ``manifold``.

    Points of a manifold (the betas of Lorentz batch norms) learn at ``manifold_lr_scale * lr``; a
    learnable curvature learns at ``k_lr`` without weight decay (Bdeir et al. 2024, official code).
    Scalars called ``scale`` (the normalised ``LorentzLinear``'s), which that code does not train at
    all, learn at ``lr`` without weight decay. Points come last, so that an optimizer which puts
    them back on their manifold after its step does so with the new curvature. Empty groups are left
    out.

    Args:
        module: the network.
        lr: learning rate of all other parameters.
        manifold_lr_scale: factor for points of a manifold.
        k_lr: learning rate of learnable curvatures: the parameters of a manifold itself.

    Returns:
        Parameter groups with the keys ``params``, ``lr``, ``name`` (and ``weight_decay``).

    Raises:
        ValueError: if the module has no trainable parameter, a factor is negative, or a layer has a
            learnable k that is no parameter of the module.
    """
    if not (manifold_lr_scale >= 0 and k_lr >= 0):
        raise ValueError(
            f"manifold_lr_scale and k_lr must be at least 0, got {manifold_lr_scale} and {k_lr}"
        )
    curvatures = {
        id(p) for m in module.modules() if isinstance(m, Manifold) for p in m.parameters()
    }
    trainable = [p for p in module.parameters() if p.requires_grad]
    if not trainable:
        raise ValueError("the module has no parameter that requires a gradient")
    for name, layer in module.named_modules():
        own = getattr(layer, "manifold", None)  # layers hold their manifold as a plain reference
        if isinstance(own, Manifold) and any(id(p) not in curvatures for p in own.parameters()):
            raise ValueError(
                f"the learnable k of {name or type(layer).__name__} is no parameter of the module "
                "and would not be trained; register its manifold: self.manifold = manifold"
            )
    curvature = [p for p in trainable if id(p) in curvatures]
    manifold = [p for p in trainable if isinstance(p, ManifoldParameter)]
    scale = [
        p
        for name, p in module.named_parameters()
        if p.requires_grad and name.split(".")[-1] == "scale" and p.dim() == 0
    ]
    special = {id(p) for p in curvature + manifold + scale}
    groups: list[dict[str, Any]] = [
        {
            "name": "euclidean",
            "params": [p for p in trainable if id(p) not in special],
            "lr": lr,
        },
        {"name": "scale", "params": scale, "lr": lr, "weight_decay": 0.0},
        {"name": "curvature", "params": curvature, "lr": k_lr, "weight_decay": 0.0},
        {"name": "manifold", "params": manifold, "lr": lr * manifold_lr_scale},
    ]
    return [group for group in groups if group["params"]]
