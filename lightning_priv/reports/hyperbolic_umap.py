"""Any features on the hyperbolic plane by UMAP (optional package umap-learn)."""

import torch
from torch import Tensor

from lightning_priv.errors import ConfigurationError
from lightning_priv.functional.geodesic_sets import pairwise_distance
from lightning_priv.functional.lorentz import to_point
from lightning_priv.functional.poincare import lorentz_to_ball

__all__ = ["hyperbolic_umap", "require_umap"]


def require_umap() -> None:
    """Raise ``ConfigurationError`` unless umap-learn is installed."""
    from importlib.util import find_spec

    if find_spec("umap") is None:
        raise ConfigurationError(
            "the UMAP picture needs umap-learn; run: pip install lightning-priv[umap], or set "
            "umap: false"
        )


def hyperbolic_umap(
    s: Tensor, k: float | None = 1.0, neighbours: int = 15, seed: int = 0
) -> Tensor:
    """Points of the Poincaré disk whose neighbours are those of the features.

    UMAP (McInnes et al. 2018) with the hyperboloid as output space; neighbours are by geodesic
    distance, which the algorithm gets as a matrix. The disk has curvature -1. Unlike a projection,
    the picture keeps neighbours and clusters; radii in it are not those of the features.

    Args:
        s: space components, shape (N, n), or Euclidean vectors.
        k: squared radius of the hyperboloid, > 0; ``None`` for Euclidean distances.
        neighbours: neighbours of a point to keep; at most N - 1.
        seed: seed of the layout.

    Returns:
        Points of the open unit disk, shape (N, 2).

    Raises:
        ConfigurationError: if umap-learn is not installed.
        ValueError: if there are too few points.
    """
    require_umap()
    if s.dim() != 2 or not 2 <= neighbours < len(s):
        raise ValueError(
            f"give points, shape (N, n) with N above neighbours={neighbours} (at least 2), got "
            f"{tuple(s.shape)}"
        )
    from umap import UMAP

    distances = pairwise_distance(s.double(), s.double(), k)
    reducer = UMAP(
        n_neighbors=neighbours,
        metric="precomputed",
        output_metric="hyperboloid",
        random_state=seed,
        n_jobs=1,
    )
    # UMAP gives space components of the hyperboloid of k = 1
    found = torch.from_numpy(reducer.fit_transform(distances.cpu().numpy())).double()
    return lorentz_to_ball(to_point(found)).float()
