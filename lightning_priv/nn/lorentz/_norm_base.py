"""What the Lorentz normalisations have in common: centre beta, target spread gamma, options."""

from typing import Literal

import torch
from geoopt import ManifoldParameter
from torch import Tensor, nn

from lightning_priv.nn.lorentz._base import LorentzModule
from lightning_priv.nn.lorentz.manifold import LorentzManifold

Variance = Literal["mean_distance", "frechet"]
Mode = Literal["full", "centering_only"]
MeanReduction = Literal["per_image", "flat"]


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


class LorentzNorm(LorentzModule):
    """Base of the normalisations."""

    def __init__(
        self,
        num_features: int,
        manifold: LorentzManifold | None,
        eps: float,
        variance: Variance,
        mode: Mode,
        trivialize_beta: bool,
    ) -> None:
        super().__init__(manifold)
        check_choice("variance", variance, ("mean_distance", "frechet"))
        check_choice("mode", mode, ("full", "centering_only"))
        if num_features < 1 or not eps >= 0:
            raise ValueError(
                f"num_features must be at least 1 and eps at least 0, got {num_features} and {eps}"
            )
        self.num_features = num_features
        self.eps = eps
        self.variance: Variance = variance
        self.mode: Mode = mode
        self.trivialize_beta = trivialize_beta
        if trivialize_beta:
            self.beta = nn.Parameter(torch.zeros(num_features))
        else:
            self.beta = ManifoldParameter(
                self.manifold.origin(num_features + 1, dtype=torch.get_default_dtype()),
                manifold=self.manifold,
            )
        self.gamma = nn.Parameter(torch.ones(1)) if mode == "full" else None

    @property
    def beta_space(self) -> Tensor:
        """Space components of the new centre, shape (num_features,)."""
        return self.beta if self.trivialize_beta else self.beta[1:]

    def extra_repr(self) -> str:
        """Fields shown by ``repr``."""
        options = [f"{self.num_features}", f"eps={self.eps}"]
        if self.variance != "mean_distance":
            options.append(f"variance={self.variance}")
        if self.mode != "full":
            options.append(f"mode={self.mode}")
        if self.trivialize_beta:
            options.append("trivialize_beta=True")
        return ", ".join(options)
