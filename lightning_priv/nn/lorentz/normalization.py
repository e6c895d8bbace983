"""Lorentz batch normalisation."""

import math
from typing import Any

import torch
from torch import Tensor

from lightning_priv.errors import OffManifoldError
from lightning_priv.functional.lorentz_norm import (
    FAR_OUT,
    Average,
    lorentz_channel_mean,
    lorentz_normalize,
)
from lightning_priv.nn.lorentz._checks import check_channels
from lightning_priv.nn.lorentz._norm_base import (
    LorentzNorm,
    MeanReduction,
    Mode,
    Variance,
    check_choice,
)
from lightning_priv.nn.lorentz.manifold import LorentzManifold

__all__ = ["LorentzBatchNorm1d", "LorentzBatchNorm2d"]


class _LorentzBatchNorm(LorentzNorm):
    """Batch normalisation of space components (B, C) or (B, C, *); see ``LorentzBatchNorm2d``."""

    _dims: tuple[int, ...] = ()
    running_mean: Tensor
    running_spread: Tensor

    def __init__(
        self,
        num_features: int,
        manifold: LorentzManifold | None = None,
        eps: float = 1e-5,
        momentum: float = 0.1,
        stable: bool | None = None,
        variance: Variance = "mean_distance",
        mean_reduction: MeanReduction = "per_image",
        mode: Mode = "full",
        trivialize_beta: bool = False,
    ) -> None:
        super().__init__(num_features, manifold, eps, variance, mode, trivialize_beta)
        check_choice("mean_reduction", mean_reduction, ("per_image", "flat"))
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must lie in [0, 1], got {momentum}")
        self.momentum = momentum
        self.stable = stable
        self.mean_reduction: MeanReduction = mean_reduction
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_spread", torch.ones(1))

    @property
    def fusable(self) -> bool:
        """Whether ``fused.py`` computes this layer: local statistics and the published options."""
        return (
            self.variance == "mean_distance"
            and self.mean_reduction == "per_image"
            and self.mode == "full"
        )

    def _average(self) -> Average | None:
        """How means are formed in training; ``None`` for those of the local batch."""
        return None

    def forward(self, s: Tensor) -> Tensor:
        """Space components, shape (B, C) or (B, C, H, W), to the same shape."""
        check_channels(s, self.num_features, self._dims, type(self).__name__, 1)
        points = s.flatten(2) if s.dim() > 2 else s.unsqueeze(2)
        if self.training:
            self.check_batch(points.shape[0] * points.shape[2])
        if self.running_mean.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"{type(self).__name__} has {self.running_mean.dtype} parameters, too coarse "
                "for points of the manifold; use precision bf16-mixed, which keeps them in float32"
            )
        with torch.autocast(s.device.type, enabled=False):
            if points.dtype in (torch.float16, torch.bfloat16):
                points = points.float()
            return self._normalize(points).view(s.shape)

    def check_batch(self, values: int) -> None:
        """Raise ``ValueError`` unless there is more than one value per channel."""
        if values <= 1:
            raise ValueError(
                f"{type(self).__name__}({self.num_features}) needs more than one value per channel "
                f"in training, got {values}; use a larger batch, drop_last, or call .eval()"
            )

    def _normalize(self, points: Tensor) -> Tensor:
        k = self.k
        dtype = points.dtype
        average = self._average() if self.training else None

        def centre(points: Tensor) -> Tensor:
            if self.training:
                return lorentz_channel_mean(points, k, self.mean_reduction, average)
            return _exp_origin(self.running_mean.to(points.dtype), k)

        mean = centre(points)
        stable = self._use_stable(mean)
        if stable and _can_widen(points):
            points = points.double()
            mean = centre(points)
        y, spread = lorentz_normalize(
            points,
            mean,
            self.beta_space.to(points.dtype),
            None if self.gamma is None else self.gamma.to(points.dtype),
            None if self.training else self.running_spread.to(points.dtype),
            k,
            eps=self.eps,
            stable=stable,
            variance=self.variance,
            average=average,
        )
        if self.training:
            self.update_running_statistics(mean.detach().to(dtype), spread.detach().to(dtype))
        return y.to(dtype)

    def _use_stable(self, mean: Tensor) -> bool:
        if self.stable is not None:
            return self.stable
        if torch.compiler.is_compiling():
            return True  # no value may be read here
        far = float(mean.detach().norm())
        if not math.isfinite(far):
            raise OffManifoldError(
                f"{type(self).__name__}({self.num_features}) got NaN or infinite values; "
                "check the input data, lower the learning rate or clip the gradients"
            )
        return far > FAR_OUT * float(self.manifold.k.detach()) ** 0.5

    @torch.no_grad()
    def update_running_statistics(self, mean: Tensor, spread: Tensor) -> None:
        """Move the running statistics towards those of a batch.

        Args:
            mean: space components of the batch mean, shape (num_features,).
            spread: mean distance to it (``frechet``: mean squared distance), shape (1,).
        """
        tangent, p = self.running_mean, self.momentum
        k = self.k
        products: list[Any] = [tangent.dot(tangent), tangent.dot(mean), mean.dot(mean)]
        if tangent.device.type == "cpu" and not torch.compiler.is_compiling():
            # a value costs nothing to read there, arithmetic of floats less than that of tensors
            products, k = [product.item() for product in products], float(k)
        vv, vm, mm = products
        old, new = _mix(vv, vm, mm, k, p)
        self.running_mean.mul_(old).add_(mean * new)
        self.running_spread.lerp_(spread.to(self.running_spread.dtype), p)

    def extra_repr(self) -> str:
        """Fields shown by ``repr``."""
        text = f"{super().extra_repr()}, momentum={self.momentum}"
        flat = self.mean_reduction == "flat"
        return f"{text}, mean_reduction=flat" if flat else text


class LorentzBatchNorm2d(_LorentzBatchNorm):
    """Lorentz batch normalisation of feature maps (Bdeir et al. 2024, section 4).

    Training: the mean is the centroid of the images' centroids, the spread the mean *distance* to
    it (the published code; its text speaks of a Fréchet variance); points are centred at the mean,
    scaled by gamma/(spread + eps) in the tangent space at the origin and centred at beta.
    Evaluation uses running statistics: a tangent vector at the origin and a spread.
    Statistics are those of the local batch: under DDP every rank has its own, see
    ``LorentzSyncBatchNorm2d``.

    Args:
        num_features: space channels.
        manifold: shared manifold; default k = 1.
        eps: added to the spread.
        momentum: weight of the new batch in the running statistics.
        stable: ``True`` always uses the form that is exact far from the origin (two passes, in
            float64 where the device has it), ``False`` never; ``None`` decides by the radius of the
            mean, which reads one number from the device for every call (and thereby notices NaN).
            Under ``torch.compile``, where nothing may be read, ``None`` takes two float32 passes.
        variance: ``mean_distance``, or ``frechet``: the spread is the mean squared distance and
            points are scaled by gamma/sqrt(spread + eps).
        mean_reduction: ``per_image``, or ``flat``: the centroid of all positions of all images.
        mode: ``full``, or ``centering_only``: no scaling and no gamma.
        trivialize_beta: hold beta as its space components, an ordinary parameter of shape
            (num_features,) that needs no Riemannian optimizer, in place of a point of the manifold.

    Shape:
        Input and output (B, num_features, H, W): space components.

    Raises:
        ValueError: on a wrong shape, or one value per channel in training.
        OffManifoldError: in training, if the input holds NaN or infinite values (unless ``stable``
            is given).

    Example:
        >>> import torch
        >>> LorentzBatchNorm2d(3)(torch.randn(2, 3, 4, 4)).shape
        torch.Size([2, 3, 4, 4])
    """

    _dims = (4,)


class LorentzBatchNorm1d(_LorentzBatchNorm):
    """Lorentz batch normalisation of vectors (B, C) or sequences (B, C, L).

    Arguments and formulas as in ``LorentzBatchNorm2d``.
    """

    _dims = (2, 3)


def _exp_origin(v: Tensor, k: float | Tensor) -> Tensor:
    """Space part of exp at the origin; values only, so no series is needed next to 0."""
    x = (v.dot(v) / k).sqrt().clamp_min(1e-18)
    return v * (x.sinh() / x)


def _mix(vv: Any, vm: Any, mm: Any, k: Any, p: float) -> tuple[Any, Any]:
    """Weights a, b with a v + b m = log_o( centroid( [exp_o(v), m], weights (1 - p, p) ) ).

    Args:
        vv: |v|^2 of the tangent vector v at the origin.
        vm: v.m; m are space components of a point.
        mm: |m|^2.
        k: squared radius.
        p: weight of m.

    Returns:
        Both weights; floats from floats, scalar tensors from scalar tensors.
    """
    tensors = isinstance(vv, Tensor)
    lib: Any = torch if tensors else math

    def at_least(value: Any, low: float) -> Any:
        return value.clamp_min(low) if tensors else max(value, low)

    # values only, so no series is needed next to 0
    x = at_least((vv / k) ** 0.5, 1e-18)
    stretch = lib.sinh(x) / x  # exp_o(v) = stretch v in space components
    times = (stretch * stretch * vv + k) ** 0.5 * (mm + k) ** 0.5
    # -<o, m> of two points is at least k
    product = at_least((times - stretch * vm) / k, 1.0)
    squared_length = (1 - p) ** 2 + p**2 + 2 * p * (1 - p) * product
    a, b = (1 - p) * stretch / squared_length**0.5, p / squared_length**0.5
    norm2 = a * a * vv + 2 * a * b * vm + b * b * mm
    x = at_least((at_least(norm2, 0.0) / k) ** 0.5, 1e-18)
    shrink = lib.asinh(x) / x
    return a * shrink, b * shrink


def _can_widen(points: Tensor) -> bool:
    """Whether to go on in float64; not in a compiled graph, which takes this form throughout."""
    return (
        points.dtype == torch.float32
        and points.device.type != "mps"
        and not torch.compiler.is_compiling()
    )
