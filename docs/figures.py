"""Draws the figures of the paper pages into docs/figures, in about two minutes on one core.

python docs/figures.py [NAME ...]
"""

import csv
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
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


def clinic(target: Path, folder: Path) -> None:
    """The four steps of examples/clinic.py, from the files that it leaves behind."""
    subprocess.run([sys.executable, str(ROOT / "examples/clinic.py")], check=True, cwd=folder)
    runs = folder / "runs/clinic"
    figure, axes = plt.subplots(2, 2, figsize=(9, 6.4), layout="constrained")
    _found_labels(axes[0, 0], next((runs / "lsi").rglob("scores.csv")))
    _corridor(axes[0, 1], runs / "member0/version_0")
    _recovered(axes[1, 0], next((runs / "audit").rglob("audit/summary.json")))
    _deferral(axes[1, 1], runs / "vote/rules.csv")
    figure.savefig(target, dpi=120)


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def _found_labels(axis: Axes, scores: Path) -> None:
    """Every tenth label of the example is wrong."""
    rows = sorted(_rows(scores), key=lambda row: int(row["lsi_rank"]))
    wrong = [int(row["index"]) % 10 == 0 for row in rows]
    found = [sum(wrong[:n]) for n in range(len(wrong) + 1)]
    axis.plot(found, label="in the order of LSI")
    axis.plot([0, len(wrong)], [0, sum(wrong)], "--", color="0.5", label="in any order")
    axis.axvline(60, color="0.5", linewidth=0.8)
    axis.set(title="1  Wrong labels found", xlabel="records reviewed", ylabel="wrong labels")
    axis.legend()


def _corridor(axis: Axes, version: Path) -> None:
    rows = _rows(version / "metrics.csv")
    risk = [(int(r["step"]), float(r["risk/identification"])) for r in rows
            if r["risk/identification"]]  # fmt: skip
    report = json.loads((version / "dp_report.json").read_text(encoding="utf-8"))
    spent = report["epsilon"][report["epsilon_by"]]
    axis.plot(*zip(*risk, strict=True), color="firebrick", label="identified among ten, at most")
    axis.axhline(0.1, linestyle="--", color="0.5", label="a guess among ten")
    axis.set(title="2  What one member's training gives away", xlabel="step", ylim=(0, 1))
    axis.set_ylabel("probability")
    axis.legend(loc="upper left", title=f"epsilon of this member: {spent:.2f}")


def _recovered(axis: Axes, summary: Path) -> None:
    found = json.loads(summary.read_text(encoding="utf-8"))
    rows = [r for r in found["summary"] if r["attack"] == "clamp" and r["metric"] == "psnr"]
    levels = sorted(rows, key=lambda row: float(row["mu"]))
    names = [f"mu {r['mu']:.2g}\n" + ("simulated" if r["simulated"] else "this training")
             for r in levels]  # fmt: skip
    axis.bar(names, [r["mean"] for r in levels], color=["firebrick" if not r["simulated"] else "0.7"
                                                         for r in levels])  # fmt: skip
    axis.set(title="3  What an attacker recovers of a record", ylabel="PSNR (dB)")


def _deferral(axis: Axes, rules: Path) -> None:
    for row in _rows(rules):
        coverage, risk = 100 * float(row["coverage"]), row["selective_risk"]
        if row["rule"].split(" ")[0] not in ("majority", "unanimous", "threshold") or not risk:
            continue
        axis.plot(coverage, 100 * float(risk), "o", markersize=9)
        axis.annotate(row["rule"], (coverage, 100 * float(risk)), xytext=(0, 9),
                      textcoords="offset points", ha="center")  # fmt: skip
    axis.set(title="4  Cautious or complete", xlabel="cases decided without the expert (%)")
    axis.set(ylabel="errors among them (%)")
    axis.margins(0.3)
    axis.set_ylim(bottom=0)


ALL = (hcnn, bounds, dp_sgd, active_learning, sample_information, multiplicity, clinic)


def main() -> None:
    """Draw the figures that are named, or all."""
    FIGURES.mkdir(exist_ok=True)
    for draw in ALL:
        if len(sys.argv) == 1 or draw.__name__ in sys.argv[1:]:
            with tempfile.TemporaryDirectory() as folder:
                draw(FIGURES / f"{draw.__name__}.png", Path(folder))


if __name__ == "__main__":
    main()
