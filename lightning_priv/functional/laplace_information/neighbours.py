"""Shapley values of training samples for a vote of nearest neighbours, exact in one sort."""

import torch
from torch import Tensor

_BYTES = 2**27


def knn_shapley(
    features: Tensor,
    labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    neighbours: int = 10,
) -> Tensor:
    """Mean Shapley value of each training sample for the k-nearest-neighbour vote.

    With the training samples sorted by distance to a test sample (Jia et al., 2019, theorem 1):
    s_n = 1[y_n = y] min(k, n) / (n k) and
    s_i = s_{i+1} + (1[y_i = y] - 1[y_{i+1} = y]) / k min(k, i) / i.

    Args:
        features: (n, d).
        labels: (n,) classes.
        test_features: (m, d).
        test_labels: (m,).
        neighbours: k.

    Returns:
        (n,) values, whose sum is the mean utility (fraction of right votes) over the test set.

    Raises:
        ValueError: for no samples or ``neighbours`` below 1.
    """
    if neighbours < 1 or len(features) == 0 or len(test_features) == 0:
        raise ValueError(
            f"need neighbours >= 1 and samples on both sides; got {neighbours}, "
            f"{len(features)} and {len(test_features)}"
        )
    return _mean_values(features, labels, test_features, test_labels, neighbours, own=False)


def self_knn_shapley(features: Tensor, labels: Tensor, neighbours: int = 10) -> Tensor:
    """The same with every sample tested by all others; a sample does not vote for itself."""
    if len(features) < 2:
        raise ValueError(f"knn_shapley needs at least two samples, got {len(features)}")
    if neighbours < 1:
        raise ValueError(f"neighbours must be at least 1, got {neighbours}")
    return _mean_values(features, labels, features, labels, neighbours, own=True)


def _mean_values(x: Tensor, y: Tensor, test_x: Tensor, test_y: Tensor, k: int, own: bool) -> Tensor:
    n = len(x) - own
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    place = torch.arange(1, n + 1, dtype=torch.float64, device=x.device)
    weight = place.clamp(max=k) / (k * place)
    step = max(1, _BYTES // (8 * len(x)))
    for start in range(0, len(test_x), step):
        distance = torch.cdist(test_x[start : start + step], x)
        if own:
            index = torch.arange(start, start + len(distance), device=x.device)
            distance[index - start, index] = torch.inf  # sorted last, and left out
        order = distance.argsort(dim=1, stable=True)[:, :n]
        match = (y[order] == test_y[start : start + step, None]).double()
        change = torch.cat([(match[:, :-1] - match[:, 1:]) * weight[:-1], match[:, -1:]], 1)
        change[:, -1] *= weight[-1]
        values = change.flip(1).cumsum(1).flip(1)
        total.scatter_add_(0, order.flatten(), values.flatten())
    return (total / len(test_x)).to(x.dtype)
