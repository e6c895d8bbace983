"""Time of training M members at once against one ordinary member, inside a Lightning Trainer.

Digits (1,437 samples), batch 32, SGD with momentum 0.9, float32, one thread, one order of the data
for each member. Every row is a Trainer fit; both sides log the loss at each step. Rows of a round
follow one another, the figure is the median over rounds of the ratio within a round, of processor
time for a step, the first steps left out. Denominators:

lean        an ordinary member: a LightningModule with cross entropy, one `log` a step and nothing
            else, its data in a TensorDataset behind a shuffling DataLoader
classifier  the package's Classifier with its data module: metrics of each epoch, checks for NaN
M = 1       StackedMembers with one member, to see the arithmetic without Lightning's overhead

    python benchmarks/bench_multiplicity.py --rounds 7
    python benchmarks/bench_multiplicity.py --smoke
"""

import argparse
import logging
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset

from lightning_priv.data import Digits
from lightning_priv.models import Classifier, StackedMembers
from lightning_priv.nn import MLP

warnings.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

Make = Callable[[], nn.Module]
GOALS = {("mlp64", 10): (1.0, 1.3), ("mlp64", 20): (1.3, 1.8), ("cnn", 10): (2.0, 2.5)}
GOALS |= {("cnn", 20): (3.5, None)}  # aim, and never above


def small_cnn() -> nn.Module:
    """Two convolutions of 8 channels."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32, 10)),
    )


NETS: dict[str, Make] = {
    "mlp64": lambda: MLP(64, 10),
    "mlp256": lambda: MLP(64, 10, (256,)),
    "mlp1024": lambda: MLP(64, 10, (1024,)),
    "cnn": small_cnn,
}


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


class Lean(LightningModule):
    """The least that an ordinary member can be."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Cross entropy and one log."""
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.log("train/loss_step", loss, on_step=True, prog_bar=True, batch_size=len(y))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with momentum."""
        return sgd(self.parameters())


class Clock(Callback):
    """Processor time after each of Lightning's batches."""

    def __init__(self) -> None:
        self.ticks: list[float] = []

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Note the time."""
        self.ticks.append(time.process_time())


def seconds(module: LightningModule, epochs: int, steps_per_batch: int = 1) -> float:
    """Mean seconds of an optimizer step, the first fifth left out."""
    clock = Clock()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    digits = Digits(batch_size=32, val_size=0)
    if isinstance(module, Lean):
        digits.setup()
        data = TensorDataset(digits.train_dataset.inputs(), digits.train_dataset.targets)
        trainer.fit(module, DataLoader(data, batch_size=32, shuffle=True))
    else:
        trainer.fit(module, datamodule=digits)
    first = len(clock.ticks) // 5
    batches = len(clock.ticks) - 1 - first
    return (clock.ticks[-1] - clock.ticks[first]) / batches / steps_per_batch


def rows(make: Make, sizes: list[int], vmap: bool) -> dict[str, Callable[[], LightningModule]]:
    """The modules that are compared."""
    out: dict[str, Callable[[], LightningModule]] = {
        "lean": lambda: Lean(make()),
        "classifier": lambda: Classifier(make(), 10, optimizer=sgd),
    }
    for m in (1, *sizes):
        out[f"M = {m}"] = lambda m=m: StackedMembers(make, 10, m, optimizer=sgd)  # type: ignore[misc]
        if vmap and m > 1:
            out[f"M = {m}, vmap"] = lambda m=m: StackedMembers(  # type: ignore[misc]
                make, 10, m, optimizer=sgd, rung="vmap"
            )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--nets", nargs="+", default=["mlp64", "cnn"], choices=list(NETS))
    parser.add_argument("--members", nargs="+", type=int, default=[10, 20])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--steps-per-batch", type=int, default=1)
    parser.add_argument("--vmap", action="store_true", help="also time the vmap way")
    parser.add_argument("--smoke", action="store_true", help="a small run that only shows it works")
    options = parser.parse_args()
    if options.smoke:
        options.members, options.rounds, options.epochs = [2], 1, 1
    torch.set_num_threads(1)
    print(
        f"torch {version('torch')}, lightning {version('lightning')}, Python "
        f"{platform.python_version()}, 1 thread, {options.rounds} rounds of {options.epochs} "
        f"epochs, {options.steps_per_batch} steps a batch\n"
    )
    print(
        "| network, members | way | ms a step | / lean | / classifier | / M = 1 | "
        "goal, never above |"
    )
    print("|---|---|---:|---:|---:|---:|---|")
    for name in options.nets:
        table: dict[str, list[float]] = {}
        ways: dict[str, str] = {}
        for _ in range(options.rounds):
            for row, build in rows(NETS[name], options.members, options.vmap).items():
                module = build()
                k = 1
                if isinstance(module, StackedMembers):
                    module.steps_per_batch = k = options.steps_per_batch
                table.setdefault(row, []).append(seconds(module, options.epochs, k))
                ways[row] = getattr(module, "chosen_rung", "ordinary")
        for row, times in table.items():
            ratios = [
                statistics.median(t / b for t, b in zip(times, table[base], strict=True))
                for base in ("lean", "classifier", "M = 1")
            ]
            members = int(row.split()[2].strip(",")) if row.startswith("M") else 0
            aim = GOALS.get((name, members), ("", ""))
            print(
                f"| {name}, {row} | {ways[row]} | {1e3 * statistics.median(times):.2f} | "
                + " | ".join(f"{ratio:.2f}" for ratio in ratios)
                + f" | {aim[0]}{f', {aim[1]}' if aim[1] else ''} |"
            )


if __name__ == "__main__":
    main()
