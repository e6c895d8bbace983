"""Retrieval, few-shot and outlier scores against brute force and scikit-learn."""

import geoopt
import pytest
import torch
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestCentroid as EuclideanHead
from torch.testing import assert_close

from lightning_priv import functional as fn
from lightning_priv.metrics import FewShotAccuracy, RadiusAUROC, RetrievalByDistance
from lightning_priv.nn import NearestCentroid


def clusters(spread=0.5, classes=6, each=25):
    generator = torch.Generator().manual_seed(0)
    centres = 1.5 * torch.randn(classes, 4, generator=generator)
    labels = torch.arange(classes).repeat_interleave(each)
    return centres[labels] + spread * torch.randn(len(labels), 4, generator=generator), labels


@pytest.mark.parametrize("k", [0.5, 2.0])
def test_distances_are_geoopts_and_blocks_do_not_matter(k, monkeypatch):
    s, _ = clusters()
    s = s.double()
    manifold = geoopt.Lorentz(k=torch.tensor(k, dtype=torch.float64))
    want = manifold.dist(fn.to_point(s, k)[:, None], fn.to_point(s[:40], k)[None])
    got = fn.pairwise_distance(s, s[:40], k)
    off = ~torch.eye(len(s), 40, dtype=torch.bool)  # geoopt has a floor at coincident points
    assert_close(got[off], want[off], rtol=1e-7, atol=1e-7)
    assert (got.diagonal() == 0).all()
    monkeypatch.setattr("lightning_priv.functional.geodesic_sets._PAIRS", 500)
    assert_close(fn.pairwise_distance(s, s[:40], k), got, rtol=0, atol=0)
    assert_close(fn.pairwise_distance(s, s[:40], None), torch.cdist(s, s[:40]))


@pytest.mark.parametrize("k", [1.0, None])
def test_retrieval_by_brute_force(k):
    points, labels = clusters(spread=1.2)
    labels[0] = 99  # a class of one sample is left out
    metric = RetrievalByDistance(top=2, k=k)
    for part in torch.arange(len(points)).split(37):
        metric.update(points[part], labels[part])
    got = metric.compute()
    d = fn.pairwise_distance(points, points, k)
    hits, precision = [], []
    for i in range(1, len(points)):
        order = sorted((j for j in range(len(points)) if j != i), key=lambda j: float(d[i, j]))
        same = [bool(labels[j] == labels[i]) for j in order]
        r = sum(same)
        hits.append(any(same[:2]))
        precision.append(sum(same[p] * sum(same[: p + 1]) / (p + 1) for p in range(r)) / r)
    assert float(got["recall"]) == pytest.approx(sum(hits) / len(hits), abs=1e-6)
    assert float(got["map_r"]) == pytest.approx(sum(precision) / len(precision), abs=1e-5)
    assert 0 < got["map_r"] < got["recall"] < 1


def test_the_head_is_scikit_learns_in_flat_space():
    points, labels = clusters(spread=1.5)
    head = NearestCentroid(4, 6, k=None).fit(points, labels)
    theirs = EuclideanHead().fit(points.numpy(), labels.numpy())
    assert head(points).argmax(1).tolist() == theirs.predict(points.numpy()).tolist()


def test_the_head_on_the_hyperboloid():
    points, labels = clusters(spread=1.0)
    head = NearestCentroid(4, 6, k=0.7, temperature=2.0).fit(points, labels)
    for c in range(6):
        centre = fn.lorentz_centroid(fn.to_point(points[labels == c], 0.7), k=0.7)
        assert_close(head.centroids[c], centre[1:])
        d = fn.lorentz_distance(fn.to_point(points, 0.7), centre, 0.7)
        assert_close(head(points)[:, c], -d.square() / 2)
    twin = NearestCentroid(4, 6, k=0.7, temperature=2.0)
    with pytest.raises(RuntimeError, match="call fit"):
        twin(points)
    twin.load_state_dict(head.state_dict())
    assert_close(twin(points), head(points))


def test_few_shots():
    points, labels = clusters(spread=0.01)
    perfect = FewShotAccuracy(5, 1, 5, 20)
    perfect.update(points, labels)
    assert perfect.compute() == 1
    noise = FewShotAccuracy(5, 1, 5, 200, k=None)
    noise.update(torch.randn(150, 4), labels)
    assert 0.15 < float(noise.compute()) < 0.25  # chance is 0.2
    one, five = (FewShotAccuracy(5, n, 5, 100) for n in (1, 5))
    rough, labels = clusters(spread=1.5)
    for metric in (one, five):
        metric.update(rough, labels)
    assert five.compute() > one.compute() > 0.3
    again = FewShotAccuracy(5, 1, 5, 100)
    again.update(rough, labels)
    assert again.compute() == one.compute()  # episodes have their own seed
    few = FewShotAccuracy(shots=100, queries=5)
    few.update(points, labels)
    with pytest.raises(ValueError, match="only 0 classes have 105 points, an episode needs 5"):
        few.compute()


@pytest.mark.parametrize("k", [1.0, None])
def test_outliers_near_the_origin(k):
    generator = torch.Generator().manual_seed(0)
    known = 2 * torch.randn(100, 3, generator=generator)
    strange = torch.randn(60, 3, generator=generator)
    metric = RadiusAUROC(k)
    metric.update(known, False)
    metric.update(strange, torch.ones(60, dtype=torch.bool))
    radius = torch.cat([known, strange]).norm(dim=1).asinh()
    want = roc_auc_score([0] * 100 + [1] * 60, -radius.numpy())
    assert float(metric.compute()) == pytest.approx(want, abs=1e-6)
    assert want > 0.7
    far = RadiusAUROC(k)
    far.update(1e6 * known, False)
    far.update(1e-6 * strange, True)
    assert far.compute() == 1


def test_radius_is_the_distance_to_the_origin():
    s = torch.randn(5, 3).double()
    want = fn.lorentz_distance(fn.to_point(s, 2.0), fn.to_point(torch.zeros(3).double(), 2.0), 2.0)
    assert_close(fn.radius_certainty(s, 2.0), want)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="top must be at least 1"):
        RetrievalByDistance(0)
    with pytest.raises(ValueError, match="k must be a finite number"):
        RadiusAUROC(-1.0)
    with pytest.raises(ValueError, match="ways=1"):
        FewShotAccuracy(1)
    with pytest.raises(RuntimeError, match="call update first"):
        RadiusAUROC().compute()
    with pytest.raises(ValueError, match="a number for each"):
        RetrievalByDistance().update(torch.zeros(3, 2), torch.zeros(2))
    lonely = RetrievalByDistance()
    lonely.update(torch.rand(3, 2), torch.arange(3))
    with pytest.raises(ValueError, match="a class of at least two samples"):
        lonely.compute()
    single = RadiusAUROC()
    single.update(torch.ones(3, 2), True)
    with pytest.raises(ValueError, match="one kind only"):
        single.compute()
    with pytest.raises(ValueError, match="each of the 3 classes needs a point"):
        NearestCentroid(2, 3).fit(torch.ones(2, 2), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"shapes \(N, n\) and \(M, n\)"):
        fn.pairwise_distance(torch.zeros(2, 3), torch.zeros(2, 2))
