"""The 16 autoencoder configurations of the HCNN paper: published FIDs and the recipe."""

import re

import pytest
import yaml
from command_line import CONFIGS

from lightning_priv.nn import VAENetwork

# Bdeir et al. 2024, table 3: FID of reconstructions and of samples, mean and deviation of 5 runs
TABLE = {
    "e": {
        "cifar10": (61.21, 0.72, 92.40, 0.80),
        "cifar100": (63.81, 0.47, 103.54, 0.84),
        "celeba": (54.80, 0.29, 79.25, 0.89),
    },
    "ep": {
        "cifar10": (59.85, 0.50, 90.13, 0.77),
        "cifar100": (62.64, 0.43, 98.19, 0.57),
        "celeba": (54.62, 0.61, 81.30, 0.56),
    },
    "el": {
        "cifar10": (59.29, 0.47, 90.91, 0.84),
        "cifar100": (62.14, 0.35, 98.34, 0.62),
        "celeba": (54.64, 0.34, 82.78, 0.93),
    },
    "l": {
        "cifar10": (57.78, 0.56, 89.20, 0.85),
        "cifar100": (61.44, 0.64, 100.27, 0.84),
        "celeba": (54.17, 0.66, 78.11, 0.95),
    },
}
# epochs, latent dimensions, decoder layers, weight of the divergence, size, channels
RECIPE = {
    "mnist": (100, 2, 3, 0.312, 32, 1),
    "cifar10": (100, 128, 3, 0.024, 32, 3),
    "cifar100": (100, 128, 3, 0.024, 32, 3),
    "celeba": (70, 64, 4, 0.09, 64, 3),
}
# 40,000/10,000 of CIFAR by seed 1; CelebA's last batch dropped, its test part cut
CIFAR = {"val_size": 10000, "split_seed": 1, "augment": False, "normalize": False}
PARTS = {
    "mnist": {"size": 32, "val_size": 10000},
    "cifar10": CIFAR,
    "cifar100": CIFAR,
    "celeba": {"size": 64, "drop_last": True, "equal_test": True},
}
CASES = [(variant, data) for variant in TABLE for data in RECIPE]


@pytest.mark.parametrize(("variant", "data"), CASES)
def test_published_numbers_and_recipe(variant: str, data: str) -> None:
    text = (CONFIGS / f"hvae_{data}_{variant}.yaml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    line = re.search(r"^# Target: +(.*)$", text, re.MULTILINE)
    assert line is not None
    callbacks = {c["class_path"].split(".")[-1]: c for c in content["trainer"]["callbacks"]}
    targets = callbacks["Dashboard"].get("init_args", {}).get("targets", [])
    if data == "mnist":
        assert "no number" in line.group(1)
        assert targets == []
        assert "extractor" not in callbacks["GenerationQuality"].get("init_args", {})
    else:
        numbers = [float(n) for n in re.findall(r"\d+\.\d+", line.group(1))]
        assert tuple(numbers) == TABLE[variant][data]
        found = {t["metric"]: t["value"] for t in targets}
        reconstruction, _, generation, _ = TABLE[variant][data]
        assert found == {
            "test/fid_reconstruction": reconstruction,
            "test/fid_generation": generation,
        }
        extractor = callbacks["GenerationQuality"]["init_args"]["extractor"]["class_path"]
        assert extractor == "lightning_priv.models.InceptionFeatures"

    epochs, latent, layers, kl_coeff, size, channels = RECIPE[data]
    model = content["model"]["init_args"]
    options = model["net"]["init_args"]
    assert content["trainer"]["max_epochs"] == epochs
    assert model["kl_coeff"] == kl_coeff
    assert options.get("k", 1.0) == (10.0 if variant == "ep" else 1.0)
    assert (options["latent_dim"], options["decoder_layers"]) == (latent, layers)
    assert (options["image_size"], options["in_channels"]) == (size, channels)
    assert options["encoder_layers"] == 4
    assert not {"width", "decoder_channels", "learn_k", "decoder_k"} & set(options)  # the defaults
    optimizer = model["optimizer"]
    assert optimizer["class_path"].split(".")[-1] == (
        "Adam" if variant == "e" else "RiemannianAdam"
    )
    assert optimizer["init_args"] == {"lr": 5e-4, **({} if variant == "e" else {"stabilize": 1})}
    assert model["scheduler"]["init_args"] == {"step_size": 50, "gamma": 0.1}
    assert content["data"]["init_args"] == {"batch_size": 100, **PARTS[data]}
    net = VAENetwork(**{**options, "width": 2, "decoder_channels": 16})
    assert net.variant == variant
