"""The 15 configurations of the HCNN paper's first table: names, published numbers, recipe."""

import inspect
import re

import pytest
import torch
import yaml
from command_line import CONFIGS

from lightning_priv.callbacks import Dashboard, ManifoldMonitor
from lightning_priv.lightning_cli import PrivacyCLI
from lightning_priv.nn import HyperbolicResNet

# Bdeir et al. 2024, table 1: mean and deviation of 5 runs, in %
TABLE = {
    "e": {"cifar10": (95.14, 0.12), "cifar100": (77.72, 0.15), "tinyimagenet": (65.19, 0.12)},
    "ep": {"cifar10": (95.04, 0.13), "cifar100": (77.19, 0.50), "tinyimagenet": (64.93, 0.38)},
    "el": {"cifar10": (94.98, 0.12), "cifar100": (78.03, 0.21), "tinyimagenet": (65.63, 0.10)},
    "l": {"cifar10": (95.14, 0.08), "cifar100": (78.07, 0.17), "tinyimagenet": (65.71, 0.13)},
    "hecnn": {"cifar10": None, "cifar100": (78.76, None), "tinyimagenet": (65.96, None)},
}
CLASSES = {"cifar10": 10, "cifar100": 100, "tinyimagenet": 200}
CASES = [(variant, data) for variant, row in TABLE.items() for data in row]


@pytest.fixture(autouse=True)
def _no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["lightning-priv"])


def built(variant: str, data: str) -> PrivacyCLI:
    """Everything the file names, with a narrow network."""
    path = CONFIGS / f"hcnn_{data}_{variant}.yaml"
    narrow = "--model.init_args.net.init_args.width=2"
    return PrivacyCLI(["--config", str(path), narrow, "--trainer.accelerator=cpu"], run=False)


@pytest.mark.parametrize(("variant", "data"), CASES)
def test_published_numbers(variant: str, data: str) -> None:
    text = (CONFIGS / f"hcnn_{data}_{variant}.yaml").read_text(encoding="utf-8")
    published = TABLE[variant][data]
    line = re.search(r"^# Target: +(.*)$", text, re.MULTILINE)
    assert line is not None
    callbacks = yaml.safe_load(text)["trainer"]["callbacks"]
    (dashboard,) = [c for c in callbacks if c["class_path"].endswith("Dashboard")]
    targets = [t["value"] for t in dashboard.get("init_args", {}).get("targets", [])]
    if published is None:
        assert "no number" in line.group(1)
        assert targets == []
        return
    mean, deviation = published
    assert f"{mean:.2f}" in line.group(1)
    assert (f"+- {deviation:.2f}" if deviation else "not confirmed") in line.group(1)
    assert targets == [pytest.approx(mean / 100, abs=1e-9)]


@pytest.mark.parametrize(("variant", "data"), CASES)
def test_recipe(variant: str, data: str) -> None:
    cli = built(variant, data)
    net, module = cli.model.net, cli.datamodule
    assert isinstance(net, HyperbolicResNet)
    assert inspect.signature(HyperbolicResNet).parameters["width"].default == 64
    assert net.variant == variant
    assert len(net.encoder.stages[0]) == len(net.encoder.stages[3]) == 2  # ResNet-18
    assert not net.manifold.learnable
    assert net.manifold.value == 1.0
    assert net.clip_r == (4.0 if (variant, data) == ("el", "tinyimagenet") else 1.0)
    size = 64 if data == "tinyimagenet" else 32
    assert module.input_shape == (3, size, size)
    assert module.num_classes == cli.model.num_classes == CLASSES[data]
    assert (module.batch_size, module.augment, module.normalize) == (128, True, True)
    with torch.no_grad():
        assert net.eval()(torch.zeros(1, *module.input_shape)).shape == (1, CLASSES[data])

    trainer = cli.trainer
    assert (trainer.max_epochs, trainer.precision) == (200, "32-true")
    kinds = {type(callback) for callback in trainer.callbacks}
    assert Dashboard in kinds
    assert (ManifoldMonitor in kinds) == (variant in ("el", "l", "hecnn"))

    configured = cli.model.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]
    names = [group.get("name") for group in optimizer.param_groups]
    assert names == (["euclidean", "manifold"] if variant in ("l", "hecnn") else ["euclidean"])
    for group in optimizer.param_groups:
        assert (group["momentum"], group["nesterov"]) == (0.9, True)
        assert group["weight_decay"] == 5e-4
    rates = []
    for _ in range(200):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    for epoch, euclidean, point in (
        (0, 0.1, 0.02), (59, 0.1, 0.02), (60, 0.02, 0.02), (119, 0.02, 0.02),
        (120, 0.004, 0.004), (159, 0.004, 0.004), (160, 0.0008, 0.0008), (199, 0.0008, 0.0008),
    ):  # fmt: skip
        assert rates[epoch] == pytest.approx([euclidean, point][: len(names)])
