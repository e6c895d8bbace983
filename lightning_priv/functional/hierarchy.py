"""Do general things lie nearer the origin than special ones: radii of a hierarchy's levels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_priv.functional.geodesic_sets import radius_certainty
from lightning_priv.functional.lorentz import to_point

__all__ = ["HierarchyRadii", "hierarchy_radii"]


@dataclass(frozen=True, slots=True)
class HierarchyRadii:
    """Distances to the origin of the levels of a hierarchy, from general to special.

    Any centroid lies nearer the origin than the points around it, whatever they are. So radii that
    grow with the level prove nothing by themselves: compare ``superclass`` with ``random``.

    Attributes:
        root: of the centroid of all samples, shape ().
        superclass: of the superclasses' centroids, shape (S,).
        class_centroid: of the classes' centroids, shape (C,).
        sample: of the samples, shape (N,).
        random: mean radius of the superclasses' centroids when the classes are dealt at random to
            superclasses of the same sizes, shape (groupings,).
        p_value: share of these (and of the true grouping) that are not below the true mean.
    """

    root: Tensor
    superclass: Tensor
    class_centroid: Tensor
    sample: Tensor
    random: Tensor
    p_value: float


def hierarchy_radii(
    s: Tensor,
    labels: Tensor,
    superclass_of: Tensor,
    k: float | None = 1.0,
    groupings: int = 200,
    generator: torch.Generator | None = None,
) -> HierarchyRadii:
    """Distances to the origin of samples and of the centroids of classes, superclasses and all.

    A network has learnt a hierarchy if the classes of a superclass lie together: then the
    superclasses' centroids are farther from the origin than those of random groups of classes.

    Args:
        s: space components of points, shape (N, n), or Euclidean vectors.
        labels: class numbers, shape (N,).
        superclass_of: superclass number of each class, shape (C,), from 0 without gaps. Classes
            without a sample are left out, and so are superclasses without such a class.
        k: squared radius of the hyperboloid, > 0; ``None`` for Euclidean means and norms.
        groupings: random groupings of the classes to compare with.
        generator: for the groupings.

    Returns:
        The radii, in float64.

    Raises:
        ValueError: if the shapes do not fit, a label has no superclass, or there are fewer than two
            superclasses.
    """
    if s.dim() != 2 or labels.shape != s.shape[:1] or not len(s):
        raise ValueError(
            f"give points, shape (N, n), and a class for each, got {tuple(s.shape)} and "
            f"{tuple(labels.shape)}"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= len(superclass_of):
        raise ValueError(
            f"labels lie in [{int(labels.min())}, {int(labels.max())}], and superclass_of tells "
            f"the superclass of {len(superclass_of)} classes; give one for each class"
        )
    wide = s.double()
    points = wide if k is None else to_point(wide, k)
    present, labels = labels.unique(return_inverse=True)
    _, groups = superclass_of.to(labels.device)[present].unique(return_inverse=True)
    superclasses = int(groups.max()) + 1
    if superclasses < 2:
        raise ValueError("the samples are of one superclass; a hierarchy needs at least two")
    sums = _sums(points, labels, len(present))
    counts = torch.bincount(labels, minlength=len(present)).double()

    def radii(order: Tensor) -> Tensor:
        """Of the superclasses when class i stands in the place of class order[i]."""
        own = groups[order]
        grouped = torch.zeros(superclasses, dtype=counts.dtype, device=s.device)
        return _radius(_sums(sums, own, superclasses), grouped.index_add(0, own, counts), k)

    superclass = radii(torch.arange(len(present), device=s.device))
    random = torch.stack(
        [
            radii(torch.randperm(len(present), generator=generator).to(s.device)).mean()
            for _ in range(groupings)
        ]
        or [superclass.new_zeros(())]
    )[:groupings]
    # equal groupings may differ in the last digit
    not_below = random >= superclass.mean() * (1 - 1e-9)
    return HierarchyRadii(
        root=_radius(sums.sum(0, keepdim=True), counts.sum()[None], k)[0],
        superclass=superclass,
        class_centroid=_radius(sums, counts, k),
        sample=radius_certainty(wide, k),
        random=random,
        p_value=(1 + int(not_below.sum())) / (1 + groupings),
    )


def _sums(points: Tensor, groups: Tensor, count: int) -> Tensor:
    return points.new_zeros(count, points.shape[1]).index_add_(0, groups, points)


def _radius(sums: Tensor, counts: Tensor, k: float | None) -> Tensor:
    """Distance to the origin of the centroids of points with these sums.

    The Lorentz centroid of points with the sum a = (t, s) is r a / sqrt(-<a, a>), and a point's
    distance to the origin is r asinh(|space| / r).
    """
    if k is None:
        return (sums / counts[:, None]).norm(dim=1)
    space = sums[:, 1:].norm(dim=1)
    length = ((sums[:, 0] - space) * (sums[:, 0] + space)).sqrt()
    return k**0.5 * (space / length).asinh()
