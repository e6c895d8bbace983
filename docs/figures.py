"""Draws the figures of the paper pages into docs/figures, in about a minute on one core.

python docs/figures.py [NAME ...]
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[1]
FIGURES = Path(__file__).parent / "figures"


def run(*words: str) -> None:
    """Run a subcommand of the package."""
    subprocess.run([sys.executable, "-m", "lightning_priv", *words], check=True, cwd=ROOT)


def hcnn(target: Path, folder: Path) -> None:
    """The figure of the README, from ``make demo``."""
    shutil.copy(ROOT / "examples/hcnn_digits.png", target)


def bounds(target: Path, folder: Path) -> None:
    """The corridor of the calculator."""
    run("bounds", "--config", "configs/bounds_cifar10.yaml", "--out", str(folder))
    shutil.copy(folder / "corridor.png", target)


def dp_sgd(target: Path, folder: Path) -> None:
    """Epsilon of one run, as four accountants see it."""
    from lightning_priv.accountants import ACCOUNTANTS, epsilon

    figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    steps = [30, 100, 300, 1000, 3000, 10000]
    for name in ACCOUNTANTS:
        spent = [epsilon([(1.0, 0.01, count)], 1e-5, name) for count in steps]
        axis.loglog(steps, spent, marker="o", label=name)
    axis.set(xlabel="steps", ylabel="epsilon at delta 1e-5")
    axis.set_title("noise multiplier 1, sample rate 0.01")
    axis.legend()
    figure.savefig(target, dpi=120)


def active_learning(target: Path, folder: Path) -> None:
    """Spent budget of each cohort over the steps of a plan."""
    from lightning_priv.accountants import epsilon, plan_step_amplification

    plan = plan_step_amplification(
        initial=5000, queries=[5000, 5000, 5000], batch_size=1000, epochs=[20] * 4, epsilon=8.0,
        epsilon_acquisition=1.5, delta=1e-5,
    )  # fmt: skip
    figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    starts = [sum(plan.steps[:phase]) for phase in range(len(plan.steps) + 1)]
    for cohort, rates in enumerate(plan.rates):
        at, spent = [starts[cohort]], [cohort * plan.epsilon_round]
        for phase in range(cohort, len(rates)):
            for part in (0.25, 0.5, 0.75, 1.0):
                done = [*plan.steps[cohort:phase], round(part * plan.steps[phase])]
                noise = plan.noise_multipliers[cohort : phase + 1]
                history = list(zip(noise, rates[cohort : phase + 1], done, strict=True))
                at.append(starts[cohort] + sum(done))
                spent.append(cohort * plan.epsilon_round + epsilon(history, 1e-5, plan.accountant))
        axis.plot(at, spent, label=f"cohort {cohort}")
    axis.set(xlabel="step", ylabel="epsilon spent, selections included", ylim=(0, 8.5))
    for start in starts[1:-1]:
        axis.axvline(start, color="0.8", linewidth=0.8, zorder=0)
    axis.legend()
    figure.savefig(target, dpi=120)


def sample_information(target: Path, folder: Path) -> None:
    """Digits with the lowest and the highest scores, from pixels as features."""
    import torch

    from lightning_priv.functional import lsi_scores

    digits = load_digits()
    features = torch.tensor(digits.data / 16)
    scores = lsi_scores(features, torch.tensor(digits.target)).scores
    order = scores.argsort()
    figure, axes = plt.subplots(2, 12, figsize=(8, 2.2), layout="constrained")
    for row, chosen in zip(axes, (order[:12], order[-12:].flip(0)), strict=True):
        for axis, i in zip(row, chosen.tolist(), strict=True):
            axis.imshow(digits.images[i], cmap="gray_r")
            axis.set_title(f"{digits.target[i]}\n{scores[i]:.2g}", fontsize=8)
            axis.axis("off")
    figure.suptitle("label and score in nats: least (top) and most informative digits", fontsize=9)
    figure.savefig(target, dpi=120)


def multiplicity(target: Path, folder: Path) -> None:
    """From the demo's report: how often two ensembles contradict each other, by size."""
    run(
        "multiplicity", "--config", "configs/demo/multiplicity_breast_cancer.yaml",
        "--trainer.default_root_dir", str(folder),
    )  # fmt: skip
    shutil.copy(next(folder.rglob("conflict.png")), target)


ALL = (hcnn, bounds, dp_sgd, active_learning, sample_information, multiplicity)


def main() -> None:
    """Draw the figures that are named, or all."""
    FIGURES.mkdir(exist_ok=True)
    for draw in ALL:
        if len(sys.argv) == 1 or draw.__name__ in sys.argv[1:]:
            with tempfile.TemporaryDirectory() as folder:
                draw(FIGURES / f"{draw.__name__}.png", Path(folder))


if __name__ == "__main__":
    main()
