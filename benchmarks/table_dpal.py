"""What step amplification and the joint plan are worth: test accuracy at equal epsilon.

Private active learning on the offline digits with a small CNN: 300 labels at first, then 300, 150
and 100 more; every record ends at the same epsilon. Compared are uniform sampling (late cohorts
leave budget unused), step amplification planned by RDP (the paper's), and the joint plan by privacy
loss distributions; each with records chosen by noisy entropy and at random (which costs nothing,
so that training has the whole budget); and all labels at once. The last step is tested; there is
no validation set and no choice by seed. The learning rate is the same everywhere.

Each finished run is a line of --out; what is there already is not run again.

    python benchmarks/table_dpal.py
"""

import argparse
import json
import logging
import platform
import statistics
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import Trainer, seed_everything

from lightning_priv.accountants import AmplificationPlan, PlanSettings
from lightning_priv.acquisition import Acquisition, Entropy, Random
from lightning_priv.callbacks import PrivateActiveLearning
from lightning_priv.data import ActivePool, Digits
from lightning_priv.models import Classifier
from lightning_priv.nn import SmallCNN
from lightning_priv.strategies import DPSGDStrategy

BASE = PlanSettings(
    initial=300,
    queries=[300, 150, 100],
    batch_size=128,
    epochs=10,
    epsilon=4.0,
    delta=1e-4,
    epsilon_acquisition=1.0,
)
JOINT: dict[str, Any] = {"accountant": "pld", "composition": "joint_pld"}
FREE: dict[str, Any] = {"epsilon_acquisition": 0.0}
ONCE: dict[str, Any] = {**FREE, "initial": 850, "queries": [], "epochs": 30}
ENTROPY, RANDOM = Entropy(normalise=True, clip=0.8), Random()
VARIANTS: dict[str, tuple[str, PlanSettings, Acquisition]] = {
    "uniform": ("uniform sampling, noisy entropy", replace(BASE, mode="naive"), ENTROPY),
    "rdp": ("step amplification (RDP), noisy entropy", BASE, ENTROPY),
    "joint": ("joint plan (PLD), noisy entropy", replace(BASE, **JOINT), ENTROPY),
    "uniform/random": ("uniform, random", replace(BASE, mode="naive", **FREE), RANDOM),
    "rdp/random": ("step amplification (RDP), random", replace(BASE, **FREE), RANDOM),
    "joint/random": ("joint plan (PLD), random", replace(BASE, **JOINT, **FREE), RANDOM),
    "once": ("all labels at once (RDP)", replace(BASE, **ONCE), RANDOM),
    "once/pld": ("all labels at once (PLD)", replace(BASE, **ONCE, accountant="pld"), RANDOM),
}


@lru_cache
def plan_of(name: str) -> AmplificationPlan:
    """The plan of a variant."""
    return VARIANTS[name][1].make()


def run(name: str, seed: int, lr: float) -> dict[str, Any]:
    """Learn once, and test."""
    plan, acquisition = plan_of(name), VARIANTS[name][2]
    seed_everything(seed, verbose=False)
    pool = ActivePool(
        Digits(batch_size=128, val_size=0, seed=seed), initial=plan.initial, serve="all", seed=seed
    )
    optimizer = partial(torch.optim.SGD, lr=lr, momentum=0.9)
    model = Classifier(SmallCNN(10, 1, 8), 10, optimizer=optimizer)
    with tempfile.TemporaryDirectory() as folder:
        strategy = DPSGDStrategy(
            target_epsilon=plan.epsilon,
            delta=plan.delta,
            accountant=plan.accountant,  # type: ignore[arg-type]
            neighbouring="replace_special",
            physical_batch_size=128,
            report=None,
            log_epsilon_every_n_steps=0,
        )
        learning = PrivateActiveLearning(plan, acquisition, checkpoint=False, figures=False)
        trainer = Trainer(
            accelerator="cpu",
            strategy=strategy,
            callbacks=[learning],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        start = time.process_time()
        trainer.fit(model, datamodule=pool)
        seconds = time.process_time() - start
        (scores,) = trainer.test(model, datamodule=pool, verbose=False)
    return {
        **{"variant": name, "seed": seed, "lr": lr, "accuracy": scores["test/accuracy"]},
        **{"epsilon": strategy.epsilon(), "sigma": strategy.noise_multiplier},
        **{"steps": trainer.global_step, "seconds": seconds},
    }


def table(runs: dict[tuple[str, int], dict[str, Any]], names: list[str], seeds: list[int]) -> str:
    """One row a variant, as Markdown."""
    lines = [
        "| plan and choice | sigma | steps | participations of the last cohort | accuracy, % |",
        "|---|---:|---:|---:|---:|",
    ]
    for name in names:
        plan = plan_of(name)
        values = [100 * runs[name, seed]["accuracy"] for seed in seeds if (name, seed) in runs]
        if not values:
            continue
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        lines.append(
            f"| {VARIANTS[name][0]} | {plan.noise_multiplier:.3f} | {sum(plan.steps)} | "
            f"{plan.participations[-1]:.1f} | {statistics.fmean(values):.1f}{spread} |"
        )
    return "\n".join(lines)


def gain(
    runs: dict[tuple[str, int], dict[str, Any]], new: str, old: str, seeds: list[int]
) -> str | None:
    """Mean difference over the seeds that both have, with its standard error."""
    pairs = [
        100 * (runs[new, s]["accuracy"] - runs[old, s]["accuracy"])
        for s in seeds
        if (new, s) in runs and (old, s) in runs
    ]
    if len(pairs) < 2:
        return None
    error = statistics.stdev(pairs) / len(pairs) ** 0.5
    return f"{new} over {old}: {statistics.fmean(pairs):+.1f} ± {error:.1f} points (mean, s.e.)"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--lr", type=float, default=0.2)
    parser.add_argument("--out", type=Path, default=Path("runs/table_dpal/runs.jsonl"))
    parser.add_argument("--smoke", action="store_true", help="one quick plan: no result")
    parser.add_argument("--show", action="store_true", help="only show what is there")
    arguments = parser.parse_args()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    if arguments.smoke:
        arguments.out = Path(tempfile.mkdtemp()) / "runs.jsonl"
        small = replace(BASE, initial=200, queries=[50], epochs=1, epsilon_acquisition=1.0)
        VARIANTS["rdp"] = ("step amplification (RDP), noisy entropy", small, ENTROPY)
        arguments.variants, arguments.seeds = ["rdp"], [0, 1]

    out: Path = arguments.out
    out.parent.mkdir(parents=True, exist_ok=True)
    text = out.read_text() if out.exists() else ""
    found = [json.loads(line) for line in text.splitlines()]
    runs = {(r["variant"], r["seed"]): r for r in found if r["lr"] == arguments.lr}
    for seed in arguments.seeds:
        for name in arguments.variants:
            if (name, seed) in runs or arguments.show:
                continue
            runs[name, seed] = result = run(name, seed, arguments.lr)
            with out.open("a") as file:
                file.write(json.dumps(result) + "\n")
            sys.stderr.write(f"{name} seed {seed}: {result['accuracy']:.4f}\n")
    if arguments.smoke:
        print("SMOKE: few steps; the numbers mean nothing\n")
    print(table(runs, arguments.variants, arguments.seeds))
    pairs = [("rdp", "uniform"), ("joint", "rdp"), ("joint", "joint/random")]
    pairs += [("joint/random", "rdp/random"), ("joint", "once/pld"), ("rdp", "once")]
    for new, old in pairs:
        text_ = gain(runs, new, old, arguments.seeds)
        if text_ is not None:
            print(f"\n{text_}", end="")
    print(
        f"\n\nepsilon {BASE.epsilon:g} at delta {BASE.delta:g} for every record, adaptive "
        f"selection included; 850 labels of 1,437 records; SGD, lr {arguments.lr:g}, momentum 0.9, "
        f"batch 128; {len(arguments.seeds)} seeds, mean ± sample deviation; CPU "
        f"({platform.machine()}), torch {torch.__version__}, lightning {lightning.__version__}"
    )


if __name__ == "__main__":
    main()
