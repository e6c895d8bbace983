"""Selections that cover the pool's embeddings: typical samples first, when few are labelled."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_priv.functional.acquisition._checks import check_count, check_rows
from lightning_priv.functional.acquisition.k_center import squared_distances

__all__ = ["prob_cover", "typiclust"]

_BLOCK = 2**19
_LLOYD_STEPS = 30


def typiclust(
    embeddings: Tensor,
    k: int,
    labelled: Tensor | Sequence[int] | None = None,
    generator: torch.Generator | None = None,
    neighbours: int = 20,
    max_clusters: int = 500,
) -> Tensor:
    """TypiClust (Hacohen et al. 2022): the most typical sample of each cluster not yet covered.

    k-means with |labelled| + k clusters (at most ``max_clusters``); then, from the cluster with the
    fewest labelled samples, of these the largest, the sample with the smallest mean distance to its
    nearest neighbours within the cluster.

    Args:
        embeddings: labelled and pool rows together, shape (n, d).
        k: how many rows to choose among those not labelled.
        labelled: row indices of the labelled ones.
        generator: for the clustering; a fixed seed by default.
        neighbours: how many neighbours make up typicality.
        max_clusters: limit of the clustering.

    Returns:
        Row indices in order of choice, shape (k,), int64.

    Raises:
        ValueError: if a row is not finite, an index is no row, or k is out of range.
    """
    x, taken = _start(embeddings, k, labelled)
    if k == 0:
        return torch.empty(0, dtype=torch.long, device=x.device)
    if generator is None:
        generator = torch.Generator(device=x.device).manual_seed(0)
    count = min(int(taken.sum()) + k, max_clusters, len(x))
    cluster = _k_means(x, count, generator)
    sizes = torch.bincount(cluster, minlength=count)
    covered = torch.bincount(cluster[taken], minlength=count)
    chosen = []
    for _ in range(k):
        free = torch.bincount(cluster[~taken], minlength=count)
        # fewest labelled first, then the largest; clusters without a free sample last
        rank = covered.double() * (len(x) + 1) - sizes + (free == 0) * 1e18
        members = torch.nonzero(cluster == rank.argmin()).flatten()
        spread = _mean_neighbour_distance(x[members], neighbours)
        pick = members[torch.where(taken[members], torch.inf, spread).argmin()]
        chosen.append(pick)
        taken[pick] = True
        covered[cluster[pick]] += 1
    return torch.stack(chosen)


def prob_cover(
    embeddings: Tensor, k: int, radius: float, labelled: Tensor | Sequence[int] | None = None
) -> Tensor:
    """ProbCover (Yehuda et al. 2022): the sample whose ball covers most samples not yet covered.

    Args:
        embeddings: labelled and pool rows together, shape (n, d).
        k: how many rows to choose among those not labelled.
        radius: of the balls, in the units of the embeddings.
        labelled: row indices of the labelled ones, whose balls are covered at the start.

    Returns:
        Row indices in order of choice, shape (k,), int64.

    Raises:
        ValueError: if a row is not finite, an index is no row, k is out of range or the radius not
            positive.
    """
    if not radius > 0:
        raise ValueError(f"radius is {radius!r}; give a distance above 0")
    x, taken = _start(embeddings, k, labelled)
    rows, columns = _pairs_within(x, radius)
    n = len(x)
    starts = torch.searchsorted(rows, torch.arange(n + 1, device=x.device))
    degree = (starts[1:] - starts[:-1]).clone()
    covered = torch.zeros(n, dtype=torch.bool, device=x.device)

    def cover(centre: Tensor) -> None:
        ball = columns[starts[centre] : starts[centre + 1]]
        new = ball[~covered[ball]]
        covered[new] = True
        for point in new:  # whoever had it in reach can cover one less
            degree[columns[starts[point] : starts[point + 1]]] -= 1

    for centre in torch.nonzero(taken).flatten():
        cover(centre)
    chosen = []
    for _ in range(k):
        pick = torch.where(taken, -1, degree).argmax()
        chosen.append(pick)
        taken[pick] = True
        cover(pick)
    return torch.stack(chosen) if chosen else torch.empty(0, dtype=torch.long, device=x.device)


def _start(
    embeddings: Tensor, k: int, labelled: Tensor | Sequence[int] | None
) -> tuple[Tensor, Tensor]:
    check_rows(embeddings, len(embeddings), "embeddings")
    n = len(embeddings)
    known = torch.as_tensor(
        [] if labelled is None else labelled, dtype=torch.long, device=embeddings.device
    ).flatten()
    if known.numel() and not bool(((known >= 0) & (known < n)).all()):
        raise ValueError(f"labelled holds indices outside 0..{n - 1}; give rows of embeddings")
    taken = torch.zeros(n, dtype=torch.bool, device=embeddings.device)
    taken[known] = True
    check_count(k, int(n - taken.sum()))
    return embeddings.double(), taken


def _k_means(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Cluster of each row: k-means++ seeds, then Lloyd's iterations; empty clusters stay empty."""
    norms = x.square().sum(1)
    first = torch.randint(len(x), (1,), generator=generator, device=x.device)
    centres = [x[first[0]]]
    nearest = squared_distances(x, norms, x[first], norms[first]).squeeze(1)
    for _ in range(count - 1):
        weights = nearest if bool(nearest.sum() > 0) else torch.ones_like(nearest)
        seed = torch.multinomial(weights, 1, generator=generator)
        centres.append(x[seed[0]])
        nearest = torch.minimum(
            nearest, squared_distances(x, norms, x[seed], norms[seed]).squeeze(1)
        )
    middle = torch.stack(centres)
    cluster = x.new_full((len(x),), -1, dtype=torch.long)
    for _ in range(_LLOYD_STEPS):
        moved = _nearest(x, norms, middle)
        if torch.equal(moved, cluster):
            break
        cluster = moved
        sizes = torch.bincount(cluster, minlength=count)
        sums = torch.zeros_like(middle).index_add_(0, cluster, x)
        middle = torch.where((sizes > 0)[:, None], sums / sizes.clamp(min=1)[:, None], middle)
    return cluster


def _nearest(x: Tensor, norms: Tensor, middle: Tensor) -> Tensor:
    rows = max(1, _BLOCK // len(middle))
    square = middle.square().sum(1)
    return torch.cat(
        [
            squared_distances(part, norm, middle, square).argmin(1)
            for part, norm in zip(x.split(rows), norms.split(rows), strict=True)
        ]
    )


def _mean_neighbour_distance(x: Tensor, neighbours: int) -> Tensor:
    """Mean distance of each row to its nearest others, shape (len(x),); 0 for a lone row."""
    count = min(neighbours, len(x) - 1)
    if count == 0:
        return x.new_zeros(len(x))
    norms = x.square().sum(1)
    rows = max(1, _BLOCK // len(x))
    parts = []
    for part, norm in zip(x.split(rows), norms.split(rows), strict=True):
        squared = squared_distances(part, norm, x, norms)
        nearest = squared.topk(count + 1, dim=1, largest=False).values  # the row itself is one
        parts.append(nearest[:, 1:].sqrt().mean(1))
    return torch.cat(parts)


def _pairs_within(x: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Pairs (i, j) closer than the radius, i = j included, sorted by i."""
    norms = x.square().sum(1)
    step = max(1, _BLOCK // max(1, len(x)))
    rows, columns = [], []
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        i, j = torch.nonzero(
            squared_distances(x[part], norms[part], x, norms) <= radius**2, as_tuple=True
        )
        rows.append(i + start)
        columns.append(j)
    return torch.cat(rows), torch.cat(columns)
