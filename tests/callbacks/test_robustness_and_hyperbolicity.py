"""Callbacks at the end of a test: attacks, and the hyperbolicity of stages."""

import csv
import math
import subprocess
import sys

import pytest
import torch
import yaml
from lightning.pytorch import Trainer, seed_everything

from lightning_priv import functional as fn
from lightning_priv.callbacks import AdversarialEvaluation, DeltaHyperbolicity
from lightning_priv.data import Digits, PhotoPatches, Wine
from lightning_priv.errors import UnsupportedModuleError
from lightning_priv.functional import pgd
from lightning_priv.metrics import RobustAccuracy
from lightning_priv.models import Classifier
from lightning_priv.nn import MLP, HyperbolicResNet


def run_on(callback, model, data, folder=".", **options):
    settings = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": str(folder),
    }
    trainer = Trainer(callbacks=[callback], **{**settings, **options})
    (result,) = trainer.test(model, data, verbose=False)
    return result


@pytest.fixture(scope="module")
def digits():
    """A linear model that is right on nine digits of ten."""
    seed_everything(0, verbose=False)
    model = Classifier(MLP(64, 10, hidden=()), num_classes=10)
    data = Digits(batch_size=100)
    data.setup()
    x, y = data.plain_train_dataset.inputs(), data.plain_train_dataset.targets
    optimizer = torch.optim.Adam(model.net.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model.net(x), y).backward()
        optimizer.step()
    return model, data


def test_accuracy_falls_with_the_budget_and_is_that_of_the_function(digits, tmp_path):
    model, data = digits
    callback = AdversarialEvaluation([4.0, 16.0, 40.0])
    result = run_on(callback, model, data, tmp_path)
    x, y = data.test_dataset.inputs(), data.test_dataset.targets
    for name, steps in (("fgsm", 1), ("pgd", 7)):
        curve = [result[f"test/accuracy_{name}_{e}"] for e in (4, 16, 40)]
        assert result["test/accuracy"] >= curve[0] > curve[1] > curve[2]
        size = 16 / 255 if steps == 1 else None
        moved = pgd(model.net, x, y, 16 / 255, steps, size, bounds=(0.0, 1.0))
        want = (model.net(moved).argmax(1) == y).double().mean()
        assert curve[1] == pytest.approx(float(want), abs=1e-6)
    (table,) = tmp_path.rglob("media/test/robustness.csv")
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [r["attack"] for r in rows] == ["fgsm"] * 4 + ["pgd"] * 4
    assert float(rows[0]["accuracy"]) == pytest.approx(result["test/accuracy"], abs=1e-6)
    assert table.with_suffix(".png").is_file()


@pytest.mark.parametrize("space", ["pixel", "normalized"])
def test_budgets_are_pixels_or_units_of_the_normalised_image(space):
    """The largest change in pixels: the budget, or the budget times the deviation."""
    seed_everything(0, verbose=False)
    seen = []

    class Watching(AdversarialEvaluation):
        def _attack(self, name, classify, x, y, epsilon):
            found = super()._attack(name, classify, x, y, epsilon)
            seen.append((x, found))
            return found

    model = Classifier(HyperbolicResNet(10, 11, "l", width=2), num_classes=11)
    data = PhotoPatches(max_per_class=5, batch_size=16)
    run_on(Watching([8.0], attack_space=space), model, data, limit_test_batches=2)
    scale = data.test_dataset.transform
    factor, shift = (255 * scale.factor).view(-1, 1, 1), scale.shift.view(-1, 1, 1)
    for x, found in seen:
        pixels, moved = ((v + shift) / factor for v in (x, found))
        change = (moved - pixels).abs().amax((0, 2, 3))
        budget = torch.full((3,), 8 / 255)
        if space == "normalized":
            budget = budget / factor.flatten()
            assert (budget < 0.4 * 8 / 255).all()
        else:
            assert moved.min() >= -1e-5
            assert moved.max() <= 1 + 1e-5
        assert (change <= budget * 1.0001).all()
        assert (change > 0.9 * budget).all()


def test_a_part_of_the_batches_and_bf16():
    model = Classifier(HyperbolicResNet(10, 10, "el", in_channels=1, width=2), num_classes=10)
    callback = AdversarialEvaluation([8.0], ["pgd"], random_start=True, max_batches=1)
    result = run_on(callback, model, Digits(batch_size=50), precision="bf16-mixed")
    assert 0 <= result["test/accuracy_pgd_8"] <= 1
    assert callback._clean.count == 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilons": []}, "epsilons must ascend"),
        ({"epsilons": [2.0, 1.0]}, "epsilons must ascend"),
        ({"attacks": ["cw"]}, r"some of fgsm, pgd, got \['cw'\]"),
        ({"attack_space": "image"}, "pixel or normalized"),
        ({"steps": 0}, "steps=0"),
    ],
)
def test_wrong_attacks_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AdversarialEvaluation(**options)


def test_pixels_of_a_table_are_refused():
    model = Classifier(MLP(13, 3), num_classes=3)
    with pytest.raises(ValueError, match="outside of the bounds"):
        run_on(AdversarialEvaluation(), model, Wine())


def test_the_metric_counts_batches_of_unequal_size():
    metric = RobustAccuracy([1, 2])
    eye = torch.eye(3)
    metric.update([eye[[0, 1]], eye[[0, 0]]], torch.tensor([0, 1]))
    metric.update([eye[[2]], eye[[0]]], torch.tensor([2]))
    torch.testing.assert_close(metric.compute(), torch.tensor([1.0, 1 / 3]))
    with pytest.raises(ValueError, match="logits for 1 budgets, the metric has 2"):
        metric.update([eye], torch.arange(3))
    with pytest.raises(ValueError, match="at least 0"):
        RobustAccuracy([-1.0])


@pytest.mark.parametrize("variant", ["e", "hecnn"])
def test_delta_of_each_stage_is_that_of_its_features(variant, tmp_path):
    seed_everything(0, verbose=False)
    net = HyperbolicResNet(10, 10, variant, in_channels=1, width=4, k=2.0)
    model, data = Classifier(net, num_classes=10), Digits(batch_size=64)
    callback = DeltaHyperbolicity(max_samples=150, subset_size=60, subsets=3)
    result = run_on(callback, model, data, tmp_path)
    x = data.test_dataset.inputs()[:150]
    h, generator = x, torch.Generator().manual_seed(0)
    with torch.no_grad():
        encoder = net.eval().encoder
        h = encoder.stem(x)
        for i, (bridge, stage) in enumerate(zip(encoder.bridges, encoder.stages, strict=True)):
            h = stage(bridge(h))
            curved = variant == "hecnn" and i in (0, 2)
            points = h.double().flatten(2).transpose(1, 2)
            if curved:
                points = fn.lorentz_centroid(fn.to_point(points, 2.0), k=2.0)
            else:
                points = points.mean(1)
            want = fn.delta_hyperbolicity(
                points,
                60,
                3,
                (lambda z: fn.lorentz_distance(z[:, None], z[None], 2.0)) if curved else None,
                generator.manual_seed(0),
            )
            got = callback.result[f"net.encoder.stages.{i}"]
            assert got.relative == pytest.approx(want.relative, rel=1e-4)
            logged = result[f"lorentz/delta/net.encoder.stages.{i}"]
            assert logged == pytest.approx(want.relative, rel=1e-4)
            assert 0 < logged < 1
    assert not any(m._forward_hooks for m in net.modules())
    (table,) = tmp_path.rglob("media/lorentz/delta.csv")
    with table.open() as file:
        assert [math.isfinite(float(r["relative delta"])) for r in csv.DictReader(file)] == [
            True
        ] * 4


def test_named_modules_and_mistakes():
    model = Classifier(MLP(64, 10, hidden=(8,)), num_classes=10)
    data = Digits(batch_size=64)
    named = DeltaHyperbolicity(["net.body"], max_samples=50)
    assert 0 < run_on(named, model, data)["lorentz/delta/net.body"] < 1
    with pytest.raises(UnsupportedModuleError, match="found no stages in Classifier; name modules"):
        run_on(DeltaHyperbolicity(), model, data)
    with pytest.raises(UnsupportedModuleError, match=r"found no net\.tail in Classifier"):
        run_on(DeltaHyperbolicity(["net.tail"]), model, data)
    with pytest.raises(ValueError, match="max_samples=3"):
        DeltaHyperbolicity(max_samples=3)


@pytest.mark.ddp
def test_two_processes_count_what_one_counts(tmp_path):
    """The accuracy under attack of two processes is that of one: every sample once."""
    config = {
        "seed_everything": 0,
        "trainer": {
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [
                {
                    "class_path": "lightning_priv.callbacks.AdversarialEvaluation",
                    "init_args": {"epsilons": [16.0], "attacks": ["fgsm"]},
                },
                {
                    "class_path": "lightning_priv.callbacks.DeltaHyperbolicity",
                    "init_args": {"stages": ["net.body"], "max_samples": 60},
                },
            ],
        },
        "model": {
            "class_path": "lightning_priv.models.Classifier",
            "init_args": {
                "net": {
                    "class_path": "lightning_priv.nn.MLP",
                    "init_args": {"in_features": 64, "num_classes": 10, "hidden": [8]},
                },
                "num_classes": 10,
            },
        },
        "data": {"class_path": "lightning_priv.data.Digits", "init_args": {"batch_size": 50}},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    found = {}
    for devices in (1, 2):
        words = ["--config", "c.yaml", "--trainer.devices", str(devices)]
        words += ["--trainer.default_root_dir", f"runs{devices}"]
        words += ["--trainer.strategy", "ddp"] if devices == 2 else []
        command = [sys.executable, "-m", "lightning_priv", "test", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        (table,) = (tmp_path / f"runs{devices}").rglob("metrics.csv")
        with table.open() as file:
            (found[devices],) = csv.DictReader(file)
    for name in ("test/accuracy", "test/accuracy_fgsm_16"):
        assert float(found[1][name]) == pytest.approx(float(found[2][name]), abs=1e-6)
    assert 0 < float(found[2]["lorentz/delta/net.body"]) < 1
