"""What privacy costs: test accuracy against epsilon on the offline data sets, over several seeds.

Trains each network with DP-SGD at each epsilon (delta 1e-5, add/remove, PLD accountant; the noise
is found for the planned steps), and once more in the same way without privacy. The last epoch is
tested; there is no validation set and no choice by seed. A learning rate belongs to a network and
is the same at every epsilon; it was chosen by a few runs at epsilon 3 that no epsilon here counts.

Each finished run is a line of --out; what is there already is not run again, so that the script can
be stopped and started at any time.

    python benchmarks/table_privacy.py
    python benchmarks/table_privacy.py --rows digits/cnn digits/l --epsilons 1 8 inf --seeds 0 1
"""

import argparse
import json
import logging
import math
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import nn

from lightning_priv.data import BreastCancer, ClassificationDataModule, Digits, MNIST5k
from lightning_priv.models import Classifier
from lightning_priv.nn import MLP, HyperbolicResNet, SmallCNN
from lightning_priv.optim import RiemannianAdam
from lightning_priv.reports import accuracy_against_epsilon
from lightning_priv.strategies import DPSGDStrategy

DELTA = 1e-5


@dataclass(frozen=True)
class Row:
    """A network on a data set, and how it is trained."""

    words: str
    data: type[ClassificationDataModule]
    net: Callable[[], nn.Module]
    optimizer: Callable[..., torch.optim.Optimizer]
    epochs: int
    batch: int


def _resnet(variant: str, **options: Any) -> Callable[[], nn.Module]:
    common = {"in_channels": 1, "width": 8, "norm": "group", **options}
    return partial(HyperbolicResNet, 10, 10, variant, **common)  # type: ignore[arg-type]


_SGD = partial(torch.optim.SGD, lr=0.2, momentum=0.9)
_SLOW, _FAST = partial(RiemannianAdam, lr=0.005), partial(RiemannianAdam, lr=0.02)
_E, _EL = _resnet("e", groups=1), _resnet("el", groups=1)
_L = _resnet("l", trivialize_beta=True)
ROWS = {
    "breast_cancer/mlp": Row("MLP (64 hidden)", BreastCancer, partial(MLP, 30, 2), _SGD, 30, 128),
    "mnist5k/mlp": Row("MLP (64 hidden)", MNIST5k, partial(MLP, 784, 10), _SGD, 15, 512),
    "digits/cnn": Row("small CNN", Digits, partial(SmallCNN, 10, 1, 8), _SGD, 20, 256),
    "digits/e": Row("ResNet-10 E (Euclidean)", Digits, _E, _SLOW, 12, 256),
    "digits/el": Row("ResNet-10 EL (Lorentz head)", Digits, _EL, _SLOW, 12, 256),
    "digits/l": Row("ResNet-10 L (HCNN)", Digits, _L, _FAST, 12, 256),
}


def run(name: str, epsilon: float, seed: int, smoke: bool) -> dict[str, Any]:
    """Train and test one network."""
    row = ROWS[name]
    seed_everything(seed, verbose=False)
    samples = row.data(batch_size=row.batch, val_size=0, seed=seed)
    model = Classifier(row.net(), row.data.num_classes, optimizer=row.optimizer)
    strategy: Any = "auto"
    if math.isfinite(epsilon):
        strategy = DPSGDStrategy(
            target_epsilon=epsilon,
            delta=DELTA,
            physical_batch_size=128,
            ledger=None,
            report=None,
            log_epsilon_every_n_steps=0,
        )
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            strategy=strategy,
            max_epochs=2 if smoke else row.epochs,
            limit_train_batches=2 if smoke else 1.0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        start = time.process_time()
        trainer.fit(model, samples)
        seconds = time.process_time() - start
        (scores,) = trainer.test(model, samples, verbose=False)
    spent = strategy.epsilon() if math.isfinite(epsilon) else math.inf
    if spent > epsilon:
        raise RuntimeError(f"{name}: epsilon {spent} was spent, {epsilon} was asked for")
    return {
        **{"row": name, "epsilon": str(epsilon), "seed": seed, "accuracy": scores["test/accuracy"]},
        **{"spent": str(spent), "seconds": seconds, "steps": trainer.global_step},
        "sigma": strategy.noise_multiplier if math.isfinite(epsilon) else 0.0,
    }


def spread(values: list[float]) -> str:
    """Mean and sample deviation of fractions, in percent."""
    mean = f"{100 * statistics.fmean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def table(found: dict[tuple[str, float], list[float]], seconds: dict[str, list[float]]) -> str:
    """One row for each network, one column for each epsilon, as Markdown."""
    epsilons = sorted({epsilon for _, epsilon in found})
    heads = [f"ε {e:g}" if math.isfinite(e) else "not private" for e in epsilons]
    lines = [
        f"| data | network | {' | '.join(heads)} | CPU s a private run |",
        "|---|---|" + "---:|" * (len(heads) + 1),
    ]
    for name in dict.fromkeys(name for name, _ in found):
        cells = [spread(found[name, e]) if (name, e) in found else "-" for e in epsilons]
        time_ = f"{statistics.median(seconds[name]):.0f}" if seconds.get(name) else "-"
        data = name.split("/")[0]
        lines.append(f"| {data} | {ROWS[name].words} | {' | '.join(cells)} | {time_} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--epsilons", nargs="+", type=float, default=[1.0, 3.0, 8.0, math.inf])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("runs/table_privacy/runs.jsonl"))
    parser.add_argument("--smoke", action="store_true", help="two steps a run: no result")
    parser.add_argument("--show", action="store_true", help="only show what is there")
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    if arguments.smoke:
        arguments.out = Path(tempfile.mkdtemp()) / "runs.jsonl"
        arguments.rows, arguments.seeds = ["breast_cancer/mlp", "digits/l"], [0, 1]
        arguments.epsilons = [3.0, math.inf]

    out: Path = arguments.out
    out.parent.mkdir(parents=True, exist_ok=True)
    text = out.read_text() if out.exists() else ""
    runs = {(r["row"], r["epsilon"], r["seed"]): r for r in map(json.loads, text.splitlines())}
    asked = [
        (row, epsilon, seed)
        for row in arguments.rows
        for seed in arguments.seeds
        for epsilon in arguments.epsilons
    ]
    for row, epsilon, seed in asked:
        if (row, str(epsilon), seed) in runs or arguments.show:
            continue
        result = run(row, epsilon, seed, arguments.smoke)
        runs[row, str(epsilon), seed] = result
        with out.open("a") as file:
            file.write(json.dumps(result) + "\n")
        sys.stderr.write(f"{row} epsilon {epsilon} seed {seed}: {result['accuracy']:.4f}\n")

    found: dict[tuple[str, float], list[float]] = {}
    seconds: dict[str, list[float]] = {}
    for row, epsilon, seed in asked:
        result = runs.get((row, str(epsilon), seed))
        if result is not None:
            found.setdefault((row, epsilon), []).append(result["accuracy"])
            if math.isfinite(epsilon):
                seconds.setdefault(row, []).append(result["seconds"])
    if not found:
        raise SystemExit(f"{out} has none of the runs asked for")
    if arguments.smoke:
        print("SMOKE: two steps a run; the numbers mean nothing\n")
    print(table(found, seconds))
    counts = {len(values) for values in found.values()}
    print(
        f"\nDP-SGD, delta {DELTA:g}, add/remove, PLD; test accuracy in %, mean ± sample deviation "
        f"of {' or '.join(map(str, sorted(counts)))} seeds, last epoch; CPU "
        f"({platform.machine()}), {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"lightning {lightning.__version__}; CPU s: median of the fits"
    )
    panels: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    for (name, epsilon), values in found.items():
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        lines = panels.setdefault(name.split("/")[0], {})
        lines.setdefault(ROWS[name].words, []).append(
            (epsilon, statistics.fmean(values), deviation)
        )
    path = out.with_name("accuracy_against_epsilon.png")
    accuracy_against_epsilon(panels).savefig(path, dpi=150)
    print(f"figure: {path}")


if __name__ == "__main__":
    main()
