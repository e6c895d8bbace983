"""Radii of a hierarchy's levels: against centroids, and on a tree that is known."""

import pytest
import torch
from torch.testing import assert_close

from lightning_priv import functional as fn
from lightning_priv.functional import hierarchy_radii

GROUPS = torch.tensor([0, 0, 1, 1, 2, 2])


def tree(scale=1.0, each=20):
    """Three superclasses of two classes on a plane; classes of a superclass are neighbours."""
    generator = torch.Generator().manual_seed(0)
    angles = torch.tensor([0.0, 0.4, 2.1, 2.5, 4.2, 4.6])
    centres = 2.0 * torch.stack([angles.cos(), angles.sin()], 1)
    labels = torch.arange(6).repeat_interleave(each)
    return scale * (
        centres[labels] + 0.3 * torch.randn(len(labels), 2, generator=generator)
    ), labels


@pytest.mark.parametrize("k", [0.5, 1.0, 2.0, None])
def test_radii_are_those_of_the_centroids(k):
    s, labels = tree()
    s = s.double()
    found = hierarchy_radii(s, labels, GROUPS, k, groupings=3)
    for radii, numbers, count in (
        (found.class_centroid, labels, 6),
        (found.superclass, GROUPS[labels], 3),
        (found.root[None], torch.zeros_like(labels), 1),
    ):
        want = fn.radius_certainty(fn.class_centroids(s, numbers, count, k), k)
        assert_close(radii, want)
    assert_close(found.sample, fn.radius_certainty(s, k))
    assert found.random.shape == (3,)


@pytest.mark.parametrize("k", [1.0, None])
def test_a_tree_is_told_from_random_groups(k):
    s, labels = tree()
    true = hierarchy_radii(s, labels, GROUPS, k, 300, torch.Generator().manual_seed(0))
    # the true grouping is one of 15, in the same way for each of its 3 * 2^3 * 3! orders
    assert true.p_value == pytest.approx(1 / 15, abs=0.04)
    assert true.random.mean() < 0.7 * true.superclass.mean()
    assert true.root < true.superclass.min()
    assert true.superclass.max() < true.class_centroid.max() < true.sample.max()
    # opposite classes grouped together: no hierarchy of this network
    wrong = hierarchy_radii(s, labels, torch.tensor([0, 1, 2, 0, 1, 2]), k, 300)
    assert wrong.superclass.mean() < true.superclass.mean()
    assert wrong.p_value > 0.2


def test_centroids_are_nearer_the_origin_than_points_without_any_hierarchy():
    """Why radii that grow with the level prove nothing by themselves."""
    generator = torch.Generator().manual_seed(0)
    s = torch.randn(600, 5, generator=generator)
    found = hierarchy_radii(s, torch.arange(600) % 6, GROUPS, generator=generator)
    assert found.root < found.superclass.mean() < found.class_centroid.mean() < found.sample.mean()
    assert found.p_value > 0.02


def test_classes_without_samples_and_mistakes():
    s, labels = tree()
    kept = labels != 3
    found = hierarchy_radii(s[kept], labels[kept], GROUPS, groupings=0)
    assert found.class_centroid.shape == (5,)
    assert found.superclass.shape == (3,)
    assert found.p_value == 1
    assert found.random.shape == (0,)
    kept = labels < 4
    assert hierarchy_radii(s[kept], labels[kept], GROUPS).superclass.shape == (2,)
    with pytest.raises(ValueError, match="one superclass"):
        hierarchy_radii(s[labels < 2], labels[labels < 2], GROUPS)
    with pytest.raises(ValueError, match=r"labels lie in \[0, 5\].*of 4 classes"):
        hierarchy_radii(s, labels, GROUPS[:4])
    with pytest.raises(ValueError, match=r"got \(120, 2\) and \(119,\)"):
        hierarchy_radii(s, labels[1:], GROUPS)
