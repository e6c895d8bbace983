"""A classification head without training: nearest class centroid."""

import torch
from torch import Tensor, nn

from lightning_priv.functional._stable import check_k
from lightning_priv.functional.geodesic_sets import class_centroids, pairwise_distance

__all__ = ["NearestCentroid"]


class NearestCentroid(nn.Module):
    """Logits -d(x, centroid)^2 / temperature from a few labelled points of each class.

    On a Lorentz encoder d is the geodesic distance and the centroid that of Law et al. 2019, as in
    prototypical networks on hyperbolic space. ``fit`` sets the centroids, also anew.

    Args:
        in_features: space components of a point.
        num_classes: number of classes.
        k: squared radius of the hyperboloid; ``None`` for Euclidean features.
        temperature: divides the squared distances, > 0.

    Shape:
        Input (B, in_features): space components; output (B, num_classes): logits.

    Raises:
        ValueError: if an argument is out of range.
        RuntimeError: from ``forward`` before ``fit``.

    Example:
        >>> head = NearestCentroid(2, 2)
        >>> _ = head.fit(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
        >>> head(torch.tensor([[2.0, 0.1]])).argmax(1)
        tensor([0])
    """

    centroids: Tensor
    fitted: Tensor

    def __init__(
        self, in_features: int, num_classes: int, k: float | None = 1.0, temperature: float = 1.0
    ) -> None:
        super().__init__()
        if in_features < 1 or num_classes < 2 or not temperature > 0:
            raise ValueError(
                f"in_features={in_features}, num_classes={num_classes}, temperature={temperature}: "
                "give at least 1, at least 2 and more than 0"
            )
        if k is not None:
            check_k(k)
        self.k = k
        self.temperature = temperature
        self.register_buffer("centroids", torch.zeros(num_classes, in_features))
        self.register_buffer("fitted", torch.tensor(False))

    @torch.no_grad()
    def fit(self, points: Tensor, labels: Tensor) -> "NearestCentroid":
        """Set the centroids from labelled points (support set).

        Args:
            points: space components, shape (N, in_features).
            labels: class numbers, shape (N,); every class must occur.
        """
        found = class_centroids(points, labels, len(self.centroids), self.k)
        self.centroids.copy_(found)
        self.fitted.fill_(True)
        return self

    def forward(self, points: Tensor) -> Tensor:
        """Space components to logits."""
        if not bool(self.fitted):
            raise RuntimeError("NearestCentroid has no centroids yet; call fit(points, labels)")
        return -pairwise_distance(points, self.centroids, self.k).square() / self.temperature
