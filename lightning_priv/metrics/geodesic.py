"""What an encoder's points are good for: retrieval, few-shot classification, outliers."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc
from torchmetrics.utilities.data import dim_zero_cat

from lightning_priv.functional._stable import check_k
from lightning_priv.functional.geodesic_sets import (
    class_centroids,
    pairwise_distance,
    radius_certainty,
)

__all__ = ["FewShotAccuracy", "RadiusAUROC", "RetrievalByDistance"]


class _Points(Metric):
    """Base: collects space components (or Euclidean vectors) and a whole number for each."""

    full_state_update = False
    higher_is_better = True
    points: list[Tensor]
    numbers: list[Tensor]

    def __init__(self, k: float | None) -> None:
        super().__init__()
        if k is not None:
            check_k(k)
        self.k = k
        self.add_state("points", [], "cat")
        self.add_state("numbers", [], "cat")

    def _take(self, points: Tensor, numbers: Tensor) -> None:
        if points.dim() != 2 or numbers.shape != points.shape[:1]:
            raise ValueError(
                f"give points, shape (B, n), and a number for each, got {tuple(points.shape)} and "
                f"{tuple(numbers.shape)}"
            )
        self.points.append(points.detach())
        self.numbers.append(numbers.detach().long())

    def _all(self) -> tuple[Tensor, Tensor]:
        if len(self.points) == 0:  # a list, or one tensor once processes have joined
            raise RuntimeError(f"{type(self).__name__} has no points yet; call update first")
        return dim_zero_cat(self.points), dim_zero_cat(self.numbers)


class RetrievalByDistance(_Points):
    """How often the nearest points are of the same class.

    ``compute`` gives ``recall``: the share of samples with a sample of their class among the
    ``top`` nearest others (recall@top); and ``map_r``: mean average precision at R, R being the
    number of other samples of the class (Musgrave et al. 2020). Samples whose class has no other
    sample are left out.

    Args:
        top: neighbours to look at, at least 1.
        k: squared radius of the hyperboloid whose space components are given; ``None`` for
            Euclidean features.

    Raises:
        ValueError: if an argument is out of range; from ``compute`` if no class has two samples.
    """

    def __init__(self, top: int = 1, k: float | None = 1.0) -> None:
        super().__init__(k)
        if top < 1:
            raise ValueError(f"top must be at least 1, got {top}")
        self.top = top

    def update(self, points: Tensor, labels: Tensor) -> None:
        """Take a batch: points (B, n), classes (B,)."""
        self._take(points, labels)

    def compute(self) -> dict[str, Tensor]:
        """Recall and mean average precision."""
        points, labels = self._all()
        hits, precision = [], []
        for start in range(0, len(points), 256):
            rows = slice(start, start + 256)
            d = pairwise_distance(points[rows], points, self.k)
            own = torch.arange(start, min(start + 256, len(points)), device=d.device)
            d[torch.arange(len(own)), own] = torch.inf
            order = d.argsort(dim=1, stable=True)[:, :-1]
            same = labels[order] == labels[rows, None]
            count = same.sum(1)
            kept = count > 0
            same, count = same[kept], count[kept]
            hits.append(same[:, : self.top].any(1))
            place = torch.arange(1, same.shape[1] + 1, device=d.device)
            within = same & (place <= count[:, None])
            precision.append((same.cumsum(1) / place * within).sum(1) / count)
        if not any(map(len, hits)):
            raise ValueError("RetrievalByDistance needs a class of at least two samples")
        return {
            "recall": torch.cat(hits).double().mean().float(),
            "map_r": torch.cat(precision).double().mean().float(),
        }


class FewShotAccuracy(_Points):
    """Accuracy of nearest-centroid classification from a few labelled points of each class.

    Episodes are drawn from the collected points: ``ways`` classes, ``shots`` support points and
    ``queries`` query points of each; a query gets the class of the nearest support centroid
    (the Lorentz centroid and geodesic distance, or mean and Euclidean distance).

    Args:
        ways: classes of an episode, at least 2.
        shots: support points of a class, at least 1.
        queries: query points of a class, at least 1.
        episodes: number of episodes.
        k: as in ``RetrievalByDistance``.
        seed: seed of the episodes.

    Raises:
        ValueError: if an argument is out of range; from ``compute`` if too few classes have enough
            points.
    """

    def __init__(
        self,
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        episodes: int = 200,
        k: float | None = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(k)
        if ways < 2 or min(shots, queries, episodes) < 1:
            raise ValueError(
                f"ways={ways}, shots={shots}, queries={queries}, episodes={episodes}: give at "
                "least 2, 1, 1 and 1"
            )
        self.ways, self.shots, self.queries = ways, shots, queries
        self.episodes, self.seed = episodes, seed

    def update(self, points: Tensor, labels: Tensor) -> None:
        """Take a batch: points (B, n), classes (B,)."""
        self._take(points, labels)

    def compute(self) -> Tensor:
        """Mean accuracy over the episodes."""
        points, labels = self._all()
        needed = self.shots + self.queries
        classes, counts = labels.cpu().unique(return_counts=True)
        usable = classes[counts >= needed]
        if len(usable) < self.ways:
            raise ValueError(
                f"only {len(usable)} classes have {needed} points, an episode needs {self.ways}; "
                "give fewer ways, shots or queries"
            )
        members = {int(c): (labels.cpu() == c).nonzero()[:, 0] for c in usable}
        generator = torch.Generator().manual_seed(self.seed)
        right = 0
        for _ in range(self.episodes):
            chosen = usable[torch.randperm(len(usable), generator=generator)[: self.ways]]
            rows = torch.stack(
                [
                    own[torch.randperm(len(own), generator=generator)[:needed]]
                    for own in (members[int(c)] for c in chosen)
                ]
            )
            ways = torch.arange(self.ways).repeat_interleave(self.shots).to(points.device)
            support = points[rows[:, : self.shots].flatten().to(points.device)]
            query = points[rows[:, self.shots :].flatten().to(points.device)]
            centres = class_centroids(support, ways, self.ways, self.k)
            nearest = pairwise_distance(query, centres, self.k).argmin(1)
            want = torch.arange(self.ways, device=points.device).repeat_interleave(self.queries)
            right += int((nearest == want).sum())
        return torch.tensor(right / (self.episodes * self.ways * self.queries))


class RadiusAUROC(_Points):
    """Area under the ROC curve of finding outliers by their small distance to the origin.

    0.5 is chance; below it, outliers lie farther out than known samples.

    Args:
        k: as in ``RetrievalByDistance``.

    Raises:
        ValueError: if ``k`` is not positive.
    """

    def __init__(self, k: float | None = 1.0) -> None:
        super().__init__(k)

    def update(self, points: Tensor, outlier: Tensor | bool) -> None:
        """Take a batch: points (B, n); whether each (or all) of them is an outlier."""
        flags: Any = torch.as_tensor(outlier, device=points.device)
        self._take(points, flags.expand(len(points)))

    def compute(self) -> Tensor:
        """The area."""
        points, outlier = self._all()
        if bool(outlier.all()) or not bool(outlier.any()):
            raise ValueError("RadiusAUROC needs known samples and outliers, and has one kind only")
        certainty = radius_certainty(points.double(), self.k)
        # ranks: torchmetrics would take values outside of [0, 1] for logits and round them
        _, rank = (-certainty).unique(return_inverse=True)
        return binary_auroc(rank.double() / max(1, int(rank.max())), outlier)
