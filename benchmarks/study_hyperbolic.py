"""What the HCNN paper's reviewers asked for: low dimensions, curvature, ablations, time, memory.

Trains ResNet-10 on the digits (or photo patches) for every setting and seed, by Riemannian Adam:

embedding   every variant with few features before the head
curvature   EL, EP and L with another k (sectional curvature -1/k)
ablation    L with one part changed: the norm's spread, mean and mode, no norm, the residual
            connection, the linear map, the initialisation

One table with accuracy (mean, sample deviation), parameters, CPU time of a training step and the
bytes that autograd keeps for it; and one figure of the two sweeps.

    python benchmarks/study_hyperbolic.py
    python benchmarks/study_hyperbolic.py --parts ablation --seeds 0 1 2 --epochs 10
"""

import argparse
import copy
import logging
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import Tensor, nn

from lightning_priv.data import ClassificationDataModule, Digits, PhotoPatches
from lightning_priv.errors import DivergenceError, OffManifoldError
from lightning_priv.models import Classifier
from lightning_priv.nn import HyperbolicResNet
from lightning_priv.nn.lorentz import LorentzConv2d
from lightning_priv.optim import RiemannianAdam
from lightning_priv.reports import sweep_figure

DATA: dict[str, type[ClassificationDataModule]] = {"digits": Digits, "patches": PhotoPatches}
DIMENSIONS = (2, 4, 8, 16, 32)
CURVATURES = (0.25, 0.5, 1.0, 2.0, 4.0)
VARIANTS = ("e", "el", "ep", "l", "hecnn")


@dataclass(frozen=True)
class Setting:
    """One row: options of the network, and where it stands in a sweep."""

    part: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    place: float | None = None
    prepare: Callable[[nn.Module], None] | None = None


def as_torch(net: nn.Module) -> None:
    """Initialise Lorentz convolutions as torch does its own; nothing of the time at first."""
    for module in net.modules():
        if isinstance(module, LorentzConv2d):
            nn.init.kaiming_uniform_(module.weight, a=5**0.5)
            for parameter in (module.time_weight, module.bias):
                if parameter is not None:
                    nn.init.zeros_(parameter)


def settings(part: str) -> list[Setting]:
    """The rows of one part."""
    if part == "embedding":
        return [
            Setting(part, variant, {"variant": variant, "embedding_dim": dimension}, dimension)
            for variant in VARIANTS
            for dimension in DIMENSIONS
        ]
    if part == "curvature":
        return [
            Setting(part, variant, {"variant": variant, "k": k}, k)
            for variant in ("el", "ep", "l")
            for k in CURVATURES
        ]
    changes: dict[str, dict[str, Any]] = {
        "as published": {},
        "variance: frechet": {"variance": "frechet"},
        "mean_reduction: flat": {"mean_reduction": "flat"},
        "norm_mode: centering_only": {"norm_mode": "centering_only"},
        "norm: none": {"norm": "none"},
        "residual: parallel_transport": {"residual": "parallel_transport"},
        "residual: weighted_centroid": {"residual": "weighted_centroid"},
        "linear: point_to_hyperplane": {"linear": "point_to_hyperplane"},
        "trivialize_beta": {"trivialize_beta": True},
    }
    rows = [Setting(part, name, {"variant": "l", **change}) for name, change in changes.items()]
    return [*rows, Setting(part, "init: torch's", {"variant": "l"}, prepare=as_torch)]


class Clock(Callback):
    """CPU time of each training step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        """Start."""
        self.start = time.process_time()

    def on_train_batch_end(self, *_: Any) -> None:
        """Stop."""
        self.seconds.append(time.process_time() - self.start)


def saved_mebibytes(net: nn.Module, x: Tensor) -> float:
    """Bytes that autograd keeps for the backward pass, without parameters, in MiB."""
    sizes: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        value = net(x).logsumexp(1).sum()
    own = {p.untyped_storage().data_ptr() for p in net.parameters()}
    total = sum(size for pointer, size in sizes.items() if pointer not in own)
    del value
    return total / 2**20


def run(
    setting: Setting, seed: int, options: argparse.Namespace
) -> tuple[float, float, float, int]:
    """Accuracy, milliseconds a step, MiB kept for it, parameters; NaN accuracy if it diverged."""
    seed_everything(seed, verbose=False)
    samples = DATA[options.data](batch_size=64, val_size=0, seed=seed)
    net = HyperbolicResNet(
        10,
        samples.num_classes,
        in_channels=samples.input_shape[0],
        width=options.width,
        **setting.options,
    )
    if setting.prepare is not None:
        setting.prepare(net)
    saved = saved_mebibytes(copy.deepcopy(net), torch.rand(64, *samples.input_shape))
    model = Classifier(net, samples.num_classes, optimizer=partial(RiemannianAdam, lr=5e-3))
    clock = Clock()
    limit = 3 if options.smoke else 1.0
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=options.epochs,
        limit_train_batches=limit,
        limit_test_batches=limit,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    try:
        trainer.fit(model, samples)
        (scores,) = trainer.test(model, samples, verbose=False)
        accuracy = float(scores["test/accuracy"])
    except (DivergenceError, OffManifoldError) as error:  # a result of an ablation
        sys.stderr.write(f"{setting.part} {setting.name}: {error}\n")
        accuracy = float("nan")
    parameters = sum(p.numel() for p in net.parameters())
    milliseconds = 1e3 * statistics.median(clock.seconds or [float("nan")])
    return accuracy, milliseconds, saved, parameters


def summary(values: list[float]) -> tuple[float, float]:
    """Mean and sample deviation (0 of one value); NaN if a run diverged."""
    mean = statistics.fmean(values)
    if math.isnan(mean):
        return mean, mean  # statistics.stdev fails on NaN in Python 3.11
    return mean, statistics.stdev(values) if len(values) > 1 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("embedding", "curvature", "ablation")
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--data", choices=DATA, default="digits")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--figure", type=Path, default=Path("runs/study_hyperbolic.png"))
    parser.add_argument("--smoke", action="store_true", help="three batches, few rows: no result")
    options = parser.parse_args()
    if options.smoke:
        options.seeds, options.epochs, options.width = [0, 1], 1, 2
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    panels: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    print("| part | network | value | accuracy, % | parameters | ms a step | saved MiB |")
    print("|---" * 7 + "|")
    for part in options.parts:
        rows = settings(part)
        for setting in rows[:: len(rows) // 2] if options.smoke else rows:
            found = [run(setting, seed, options) for seed in options.seeds]
            accuracies = [100 * accuracy for accuracy, *_ in found]
            mean, deviation = summary(accuracies)
            _, _, saved, parameters = found[0]
            step = statistics.median(milliseconds for _, milliseconds, _, _ in found)
            place = "" if setting.place is None else f"{setting.place:g}"
            print(
                f"| {part} | {setting.name} | {place} | {mean:.2f} ± {deviation:.2f} | "
                f"{parameters:,} | {step:.1f} | {saved:.1f} |",
                flush=True,
            )
            if setting.place is not None:
                lines = panels.setdefault(f"{'dimensions' if part == 'embedding' else 'k'}", {})
                lines.setdefault(setting.name, []).append((setting.place, mean, deviation))
    if panels:
        options.figure.parent.mkdir(parents=True, exist_ok=True)
        sweep_figure(panels, "test accuracy, %").savefig(options.figure)
        print(f"\nfigure: {options.figure}")
    print(
        f"\nResNet-10 of width {options.width}, {options.data}, {options.epochs} epochs, seeds "
        f"{' '.join(map(str, options.seeds))}, batch 64; torch {torch.__version__}, one thread"
    )
    if options.smoke:
        print("SMOKE: a few batches of narrow networks; the numbers mean nothing")


if __name__ == "__main__":
    main()
