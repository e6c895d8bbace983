"""Speed of the reconstruction audit: attacks, and what the callback costs a private training.

    python benchmarks/bench_audit.py [--smoke] [--prior DIR] [--targets 48] [--steps 300]

One thread, CPU time of the process, medians of rounds in which all rows take turns. Images a
second: 8x8 digits, the UNet of the demo (random weights unless --prior names a directory; the speed
does not depend on them), one noise level at a time against all six in common batches. The
callback's share: time within its hooks over the time of the whole training loop, without the
attacks at the end of the run, which take as long as the first table says.
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import lightning.pytorch as pl
import torch
from torch import nn

from lightning_priv.callbacks import ReconstructionAudit
from lightning_priv.data import Digits, Swapped
from lightning_priv.functional.audit import PixelRange, observe_simulated
from lightning_priv.models import Classifier
from lightning_priv.nn import LeakLayer, SmallCNN
from lightning_priv.nn.audit_run import network_calls, run_attack
from lightning_priv.nn.denoisers import DDIM, DDPM, DDRM, MMSE
from lightning_priv.nn.diffusion import DiffusionNetwork
from lightning_priv.nn.reconstructors import (
    EmpiricalBayes,
    NearestNeighbour,
    NonLocalMeans,
    Reconstructor,
    Shrinkage,
    Wavelet,
    Wiener,
)
from lightning_priv.strategies import DPSGDStrategy

MU = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


def cpu(call: Callable[[], object]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


def attacks_table(prior: str | None, targets: int, rounds: int) -> list[str]:
    data = Digits(val_size=0)
    data.setup()
    records = data.test_dataset.inputs()[:targets]
    images = 2 * data.plain_train_dataset.inputs() - 1
    torch.manual_seed(0)
    network = (
        DiffusionNetwork.build((1, 8, 8))
        if prior is None
        else DiffusionNetwork.from_pretrained(prior)
    ).eval()
    levels = [observe_simulated(records, 1 / mu, PixelRange()) for mu in MU]
    attacks: list[Reconstructor] = [
        *(Shrinkage(), Wiener(), EmpiricalBayes(), NearestNeighbour(), Wavelet(), NonLocalMeans()),
        *(MMSE(), DDIM(25), DDPM(25), DDRM(20)),
    ]
    for attack in attacks:
        attack.prepare(images, network)
        run_attack(attack, levels[:1])  # warm

    def one_by_one(attack: Reconstructor) -> Callable[[], object]:
        return lambda: [run_attack(attack, [level]) for level in levels]

    def together(attack: Reconstructor) -> Callable[[], object]:
        return lambda: run_attack(attack, levels)

    seconds: dict[str, list[tuple[float, float]]] = {attack.name: [] for attack in attacks}
    for _ in range(rounds):
        for attack in attacks:
            seconds[attack.name].append((cpu(one_by_one(attack)), cpu(together(attack))))
    lines = [
        "| attack | calls an image | images/s, level by level | images/s, all levels | ratio |",
        "| --- | --- | --- | --- | --- |",
    ]
    count = len(records) * len(levels)
    for attack in attacks:
        pairs = seconds[attack.name]
        alone, joint = (count / max(statistics.median(p[k] for p in pairs), 1e-9) for k in (0, 1))
        ratio = statistics.median(a / max(b, 1e-9) for a, b in pairs)
        lines.append(
            f"| {attack.name} | {network_calls(attack)} | {alone:.0f} | {joint:.0f} | {ratio:.2f} |"
        )
    return lines


class Timed(ReconstructionAudit):
    """Adds up what its hooks within the training loop take."""

    seconds = 0.0

    def on_train_batch_start(self, *args: Any) -> None:  # noqa: D102
        begin = time.process_time()
        super().on_train_batch_start(*args)
        self.seconds += time.process_time() - begin

    def on_before_optimizer_step(self, *args: Any) -> None:  # noqa: D102
        begin = time.process_time()
        super().on_before_optimizer_step(*args)
        self.seconds += time.process_time() - begin

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self.begin = time.process_time()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self.total = time.process_time() - self.begin


def overhead(steps: int, every: int, width: int) -> tuple[float, float]:
    """Share of the callback, and seconds a step."""
    torch.manual_seed(0)
    net: nn.Module = SmallCNN(num_classes=10, in_channels=1, width=width)
    module = Classifier(LeakLayer(net, (1, 8, 8)), 10, optimizer=lambda p: torch.optim.SGD(p, 0.1))
    audit = Timed(every_n_steps=every)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            strategy=DPSGDStrategy(noise_multiplier=1.0, report=None, ledger=None),
            accelerator="cpu",
            max_steps=steps,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=[audit],
        )
        trainer.fit(module, datamodule=Swapped(Digits(batch_size=64, val_size=0)))
    return audit.seconds / audit.total, audit.total / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="few repetitions; speeds mean nothing")
    parser.add_argument("--prior", type=Path)
    parser.add_argument("--targets", type=int, default=48)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    targets, steps, rounds = given.targets, given.steps, given.rounds
    if given.smoke:
        targets, steps, rounds = 2, 4, 1
    print(
        f"{platform.processor() or platform.machine()}, 1 thread, torch {torch.__version__}, "
        f"lightning {lightning.__version__}; {targets} targets, {len(MU)} levels, {rounds} rounds\n"
    )
    prior = None if given.prior is None else str(given.prior)
    print("\n".join(attacks_table(prior, targets, rounds)))
    print("\n| network | every_n_steps | ms a step | share of the callback |")
    print("| --- | --- | --- | --- |")
    for width, every in ((16, 100), (16, 1), (64, 100)):
        share, seconds = overhead(steps, every, width)
        assert 0 <= share < 1
        print(f"| SmallCNN, width {width} | {every} | {1e3 * seconds:.1f} | {100 * share:.2f} % |")


if __name__ == "__main__":
    main()
