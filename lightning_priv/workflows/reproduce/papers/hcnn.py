"""Fully Hyperbolic CNNs: classification (tables 1 and 2) and generation (table 3)."""

from lightning_priv.workflows.reproduce.study import FEW_STEPS, Experiment, Number, Step, Study

# mean and standard deviation of five runs; None where no source confirms the cell
_ACCURACY: dict[str, dict[str, tuple[float, float | None] | None]] = {
    "cifar10": {"e": (95.14, 0.12), "ep": (95.04, 0.13), "el": (94.98, 0.12), "l": (95.14, 0.08),
                "hecnn": None},
    "cifar100": {"e": (77.72, 0.15), "ep": (77.19, 0.50), "el": (78.03, 0.21), "l": (78.07, 0.17),
                 "hecnn": (78.76, None)},
    "tinyimagenet": {"e": (65.19, 0.12), "ep": (64.93, 0.38), "el": (65.63, 0.10),
                     "l": (65.71, 0.13), "hecnn": (65.96, None)},
}  # fmt: skip
# PGD with a budget of 3.2/255 in the units of the normalised image, CIFAR-100
_PGD = {"e": 26.30, "ep": 23.78, "l": 31.77}
# FID of reconstructions and of samples
_FID: dict[str, dict[str, tuple[float, float, float, float]]] = {
    "cifar10": {"e": (61.21, 0.72, 92.40, 0.80), "ep": (59.85, 0.50, 90.13, 0.77),
                "el": (59.29, 0.47, 90.91, 0.84), "l": (57.78, 0.56, 89.20, 0.85)},
    "cifar100": {"e": (63.81, 0.47, 103.54, 0.84), "ep": (62.64, 0.43, 98.19, 0.57),
                 "el": (62.14, 0.35, 98.34, 0.62), "l": (61.44, 0.64, 100.27, 0.84)},
    "celeba": {"e": (54.80, 0.29, 79.25, 0.89), "ep": (54.62, 0.61, 81.30, 0.56),
               "el": (54.64, 0.34, 82.78, 0.93), "l": (54.17, 0.66, 78.11, 0.95)},
}  # fmt: skip
_ATTACK = (
    "--trainer.callbacks+=lightning_priv.callbacks.AdversarialEvaluation",
    "--trainer.callbacks.attack_space=normalized",
    "--trainer.callbacks.attacks=[pgd]",
)


def _classifier(data: str, variant: str) -> Experiment:
    config = f"hcnn_{data}_{variant}.yaml"
    cell = _ACCURACY[data][variant]
    mean, spread = cell or (None, None)
    numbers = [Number("test/accuracy", mean, spread, "table 1", "%", 100.0)]
    attack: tuple[str, ...] = ()
    if data == "cifar100":
        attack = _ATTACK
        pgd = Number("test/accuracy_pgd_3.2", _PGD.get(variant), None, "table 2", "%", 100.0)
        numbers.append(pgd)
    steps = (Step("fit", config), Step("test", config, ("--ckpt_path", "last", *attack)))
    return Experiment(f"{data}/{variant}", steps, tuple(numbers), data, seeds=5)


def _autoencoder(data: str, variant: str) -> Experiment:
    config = f"hvae_{data}_{variant}.yaml"
    mean, spread, generated, its_spread = _FID[data][variant]
    numbers = (
        Number("test/fid_reconstruction", mean, spread, "table 3", "FID"),
        Number("test/fid_generation", generated, its_spread, "table 3", "FID"),
    )
    steps = (Step("fit", config), Step("test", config, ("--ckpt_path", "last")))
    return Experiment(f"vae-{data}/{variant}", steps, numbers, data, seeds=5)


def _fast(variant: str, config: str) -> Experiment:
    mean, spread = _ACCURACY["cifar10"][variant] or (None, None)
    number = Number("test/accuracy", mean, spread, "table 1, CIFAR-10", "%", 100.0)
    words = ("--ckpt_path", "last", *FEW_STEPS)
    steps = (Step("fit", config, FEW_STEPS), Step("test", config, words))
    return Experiment(f"digits/{variant}", steps, (number,), "digits")


STUDY = Study(
    "hcnn",
    "Fully Hyperbolic CNNs (ICLR 2024, arXiv 2303.15919)",
    tuple(_classifier(data, variant) for data, row in _ACCURACY.items() for variant in row)
    + tuple(_autoencoder(data, variant) for data, row in _FID.items() for variant in row),
    (_fast("e", "demo/hcnn_digits_e.yaml"), _fast("l", "demo/hcnn_digits.yaml")),
    "CIFAR-10, CIFAR-100, Tiny-ImageNet and CelebA, the FID's Inception weights for table 3, a GPU "
    "for weeks",
    "The Euclidean, hybrid (ep, el) and fully hyperbolic (l, hecnn) networks differ in one option.",
)
