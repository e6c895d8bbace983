"""Callbacks about the features before a classifier's head: downstream scores, hierarchy."""

import csv
import importlib.util
import sys
import types

import numpy as np
import pytest
import torch
from in_pool import InPool
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.strategies import DDPStrategy

from lightning_priv import functional as fn
from lightning_priv.callbacks import AdversarialEvaluation, FeatureQuality, HierarchyPictures
from lightning_priv.data import Digits, LFWFaces, PhotoPatches, Wine
from lightning_priv.errors import ConfigurationError, UnsupportedModuleError
from lightning_priv.metrics import FewShotAccuracy, RadiusAUROC, RetrievalByDistance
from lightning_priv.models import Classifier
from lightning_priv.nn import MLP, HyperbolicResNet

PAIRS = {f"pair {i}": (str(2 * i), str(2 * i + 1)) for i in range(5)}


def run_on(callbacks, model, data, folder=".", **options):
    settings = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": str(folder),
    }
    trainer = Trainer(callbacks=callbacks, **{**settings, **options})
    (result,) = trainer.test(model, data, verbose=False)
    return result


def network(variant="l", in_channels=1, classes=10, **options):
    seed_everything(0, verbose=False)
    net = HyperbolicResNet(10, classes, variant, in_channels=in_channels, width=2, **options)
    return Classifier(net, classes)


@pytest.mark.parametrize(("variant", "k"), [("l", 2.0), ("ep", 2.0), ("e", None)])
def test_scores_are_those_of_the_metrics(variant, k):
    model = network(variant, k=2.0)
    callback = FeatureQuality(3, outliers=LFWFaces(batch_size=50), max_samples=150)
    # an attack calls the network too, with images of its own, before the test step
    attack = AdversarialEvaluation([8.0], ["fgsm"], max_batches=2)
    result = run_on([callback, attack], model, Digits(batch_size=64))
    net, parts = model.net.eval(), {}
    for name, data in (("known", Digits()), ("outliers", LFWFaces())):
        data.setup()
        with torch.no_grad():
            s = net.features(data.test_dataset.inputs()[:150]).double()
        parts[name] = fn.ball_to_lorentz(s, 2.0)[:, 1:] if variant == "ep" else s
        parts[name + " labels"] = data.test_dataset.targets[:150]
    retrieval = RetrievalByDistance(3, k)
    few, radius = FewShotAccuracy(queries=5, k=k), RadiusAUROC(k)
    retrieval.update(parts["known"], parts["known labels"])
    few.update(parts["known"], parts["known labels"])
    radius.update(parts["known"], False)
    radius.update(parts["outliers"], True)
    want = retrieval.compute()
    for name, value in {
        "retrieval_recall": want["recall"],
        "retrieval_map_r": want["map_r"],
        "few_shot_accuracy": few.compute(),
        "outlier_auroc": radius.compute(),
    }.items():
        # batches of 64 and one of 150 round differently: few neighbours may swap
        assert result[f"lorentz/{name}"] == pytest.approx(float(value), abs=5e-3)
        assert 0 <= float(value) <= 1
    assert not net.head._forward_pre_hooks


def test_outliers_that_do_not_fit_and_other_mistakes():
    model, data = network(), Digits(batch_size=64)
    colours = FeatureQuality(outliers=PhotoPatches(max_per_class=5))
    with pytest.raises(ConfigurationError, match=r"outliers of PhotoPatches, shape \(3, 32, 32\)"):
        run_on([colours], model, data)
    assert not model.net.head._forward_pre_hooks
    with pytest.raises(UnsupportedModuleError, match=r"head 'net\.tail'.*set head"):
        run_on([FeatureQuality(head="net.tail")], model, data)
    with pytest.raises(UnsupportedModuleError, match=r"got an input of shape \(64, 1, 8, 8\)"):
        run_on([FeatureQuality(head="net.encoder.stem")], model, data)
    with pytest.raises(ValueError, match="max_samples must be at least 2"):
        FeatureQuality(max_samples=1)
    with pytest.raises(ValueError, match="top must be at least 1"):
        FeatureQuality(top=0)
    with pytest.warns(UserWarning, match="leaves out .*: only 0 classes have 40 points"):
        result = run_on([FeatureQuality(shots=20, queries=20)], model, data)
    assert "lorentz/retrieval_recall" in result
    assert "lorentz/few_shot_accuracy" not in result


@pytest.mark.parametrize("variant", ["l", "e"])
def test_hierarchy_of_the_digits(variant, tmp_path):
    model = network(variant, embedding_dim=2)
    callback = HierarchyPictures(PAIRS, groupings=30)
    result = run_on([callback], model, Digits(batch_size=100), tmp_path, precision="bf16-mixed")
    found = callback.result
    assert found is not None
    assert found.superclass.shape == (5,)
    assert found.class_centroid.shape == (10,)
    assert found.sample.shape == (360,)
    for level, radii in (
        ("everything", found.root),
        ("superclasses", found.superclass),
        ("classes", found.class_centroid),
        ("samples", found.sample),
        ("random_superclasses", found.random),
    ):
        assert result[f"lorentz/radius_{level}"] == pytest.approx(float(radii.mean()), rel=1e-5)
    assert result["lorentz/hierarchy_p_value"] == pytest.approx(found.p_value)
    assert -1 <= result["lorentz/radius_confidence"] <= 1
    folder = tmp_path / "media/lorentz"
    pictures = {"hierarchy.png", "hierarchy.csv", "superclasses.csv", "radius.png"}
    assert {p.name for p in folder.iterdir()} == pictures | (
        {"disk.png"} if variant == "l" else set()
    )
    with (folder / "hierarchy.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["level"], r["number"]) for r in rows] == [
        ("everything", "1"),
        ("superclasses", "5"),
        ("classes", "10"),
        ("samples", "360"),
        ("random superclasses (means)", "30"),
    ]
    with (folder / "superclasses.csv").open() as file:
        radii = [float(r["radius"]) for r in csv.DictReader(file)]
    assert radii == pytest.approx(found.superclass.tolist(), rel=1e-4)
    assert not model.net.head._forward_pre_hooks


def test_photographs_have_superclasses(tmp_path):
    model = network("l", 3, 11)
    callback = HierarchyPictures(groupings=20)
    run_on([callback], model, PhotoPatches(max_per_class=10), tmp_path)
    assert callback.result is not None
    assert callback.result.superclass.shape == (4,)


def test_superclasses_that_do_not_fit_are_refused():
    model, data = network(), Digits(batch_size=64)
    with pytest.raises(ConfigurationError, match="Digits has none; write superclasses"):
        run_on([HierarchyPictures()], model, data)
    with pytest.raises(ConfigurationError, match=r"every class of Digits once; look at 1, x$"):
        run_on([HierarchyPictures({**PAIRS, "pair 0": ("0", "x")})], model, data)
    with pytest.raises(ConfigurationError, match=r"every class of Digits once; look at 3$"):
        run_on([HierarchyPictures({**PAIRS, "pair 0": ("0", "1", "3")})], model, data)
    with pytest.raises(ValueError, match="groupings=3: give at least 20"):
        HierarchyPictures(groupings=3)
    wine = Classifier(torch.nn.Sequential(MLP(13, 3)), 3)
    groups = {"a": ("grower 0", "grower 1"), "b": ("grower 2",)}
    with pytest.raises(UnsupportedModuleError, match="HierarchyPictures looks at"):
        run_on([HierarchyPictures(groups)], wine, Wine())


def test_umap_names_its_extra(monkeypatch):
    """Before the test starts, not behind it."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "umap" else find(n, *a)
    )
    with pytest.raises(ConfigurationError, match=r"pip install lightning-priv\[umap\]"):
        run_on([HierarchyPictures(PAIRS, umap=True)], network(), Digits())


def test_umap_gets_geodesic_distances_and_its_points_go_to_the_disk(monkeypatch, tmp_path):
    """A stand-in of umap-learn's class: what it is asked for, and what becomes of its answer."""
    asked = {}

    class UMAP:
        def __init__(self, **options):
            asked.update(options)

        def fit_transform(self, distances):
            asked["distances"] = distances
            return np.stack([np.linspace(-3, 3, len(distances)), np.ones(len(distances))], 1)

    module = types.ModuleType("umap")
    module.UMAP = UMAP
    module.__spec__ = importlib.util.spec_from_loader("umap", None)
    monkeypatch.setitem(sys.modules, "umap", module)
    model = network("l", k=2.0)
    callback = HierarchyPictures(PAIRS, umap=True, umap_samples=50, groupings=20)
    run_on([callback], model, Digits(batch_size=100), tmp_path)
    assert (asked["metric"], asked["output_metric"]) == ("precomputed", "hyperboloid")
    assert asked["distances"].shape == (50, 50)
    data = Digits()
    data.setup()
    rows = torch.linspace(0, 359, 50).long()
    with torch.no_grad():
        s = model.net.eval().features(data.test_dataset.inputs()[rows]).double()
    want = fn.pairwise_distance(s, s, 2.0)
    torch.testing.assert_close(torch.from_numpy(asked["distances"]), want, rtol=1e-3, atol=1e-4)
    assert (tmp_path / "media/lorentz/umap.png").is_file()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("umap") is None, reason="needs umap-learn")
def test_umap_keeps_clusters_apart():
    from lightning_priv.reports import hyperbolic_umap

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat_interleave(40)
    s = 3 * torch.randn(4, 8, generator=generator)[labels]
    s = s + 0.3 * torch.randn(160, 8, generator=generator)
    disk = hyperbolic_umap(s)
    assert (disk.norm(dim=1) < 1).all()
    points = fn.ball_to_lorentz(disk.double())[:, 1:]
    distances = fn.pairwise_distance(points, points)
    distances.fill_diagonal_(torch.inf)
    assert (labels[distances.argmin(1)] == labels).float().mean() > 0.95


def _two_processes(rank, folder):
    callbacks = [
        FeatureQuality(3, outliers=LFWFaces(batch_size=50), max_samples=200),
        HierarchyPictures(PAIRS, groupings=30),
    ]
    options = {"devices": 2, "strategy": DDPStrategy(), "plugins": [InPool(rank)]}
    result = run_on(callbacks, network(), Digits(batch_size=64), folder, **options)
    return {name: float(value) for name, value in result.items()}


@pytest.mark.ddp
def test_two_processes_score_as_one(gloo_pool, tmp_path):
    one = run_on(
        [FeatureQuality(3, outliers=LFWFaces(batch_size=50), max_samples=400)],
        network(),
        Digits(batch_size=64),
        tmp_path,
    )
    both = gloo_pool.run(_two_processes, str(tmp_path))
    for found in both:
        for name in ("retrieval_recall", "retrieval_map_r", "outlier_auroc"):
            # batches of other sizes round differently
            assert found[f"lorentz/{name}"] == pytest.approx(one[f"lorentz/{name}"], abs=1e-2)
        assert 0 < found["lorentz/few_shot_accuracy"] <= 1
    assert both[0]["lorentz/radius_superclasses"] > 0  # drawn by one process, of its own samples
    assert list(tmp_path.rglob("hierarchy.png"))
