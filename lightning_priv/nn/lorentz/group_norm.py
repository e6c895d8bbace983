"""Lorentz normalisation of single samples."""

import torch
from torch import Tensor

from lightning_priv.functional.lorentz_norm import lorentz_image_mean, lorentz_normalize
from lightning_priv.nn.lorentz._checks import check_channels
from lightning_priv.nn.lorentz._norm_base import LorentzNorm, Mode, Variance
from lightning_priv.nn.lorentz.manifold import LorentzManifold

__all__ = ["LorentzGroupNorm"]


class LorentzGroupNorm(LorentzNorm):
    """Lorentz normalisation by the statistics of one sample's positions.

    As ``LorentzBatchNorm2d``, with the centroid of, and the mean distance over, the positions of
    each image alone: samples never mix, which per-sample clipping (DP-SGD) requires, and there are
    no running statistics. A map of a single position would always land on beta; it is not centred,
    only scaled, by its distance to the origin.

    Args:
        num_features: space channels.
        manifold: shared manifold; default k = 1.
        eps: added to the spread.
        variance: as in ``LorentzBatchNorm2d``.
        mode: as in ``LorentzBatchNorm2d``.
        trivialize_beta: as in ``LorentzBatchNorm2d``.

    Shape:
        Input and output (B, num_features, *): space components.

    Raises:
        ValueError: on a wrong number of channels or dimensions.

    Example:
        >>> LorentzGroupNorm(3)(torch.randn(2, 3, 4, 4)).shape
        torch.Size([2, 3, 4, 4])
    """

    def __init__(
        self,
        num_features: int,
        manifold: LorentzManifold | None = None,
        eps: float = 1e-5,
        variance: Variance = "mean_distance",
        mode: Mode = "full",
        trivialize_beta: bool = False,
    ) -> None:
        super().__init__(num_features, manifold, eps, variance, mode, trivialize_beta)

    def forward(self, s: Tensor) -> Tensor:
        """Space components, shape (B, C), (B, C, L) or (B, C, H, W), to the same shape."""
        check_channels(s, self.num_features, (2, 3, 4), "LorentzGroupNorm", 1)
        points = s.flatten(2) if s.dim() > 2 else s.unsqueeze(2)
        with torch.autocast(s.device.type, enabled=False):
            if points.dtype in (torch.float16, torch.bfloat16):
                points = points.float()
            k = self.k
            one = points.shape[2] == 1
            mean = torch.zeros_like(points[:, :, 0]) if one else lorentz_image_mean(points, k)
            # the two-pass form always: no value is read, so torch.func can map this over samples
            y, _ = lorentz_normalize(
                points,
                mean,
                self.beta_space,
                self.gamma,
                None,
                k,
                eps=self.eps,
                stable=True,
                variance=self.variance,
            )
            return y.view(s.shape)
