"""Test accuracy of the HCNN paper's variants on the offline data sets, over several seeds.

Trains ResNet-10 of every variant with the recipe of configs/demo (Riemannian Adam) and
prints mean and standard deviation over the seeds of the test accuracy after the last epoch, beside
logistic regression on the same samples. Seeds change the weights and the order of the samples; the
split into training and test part stays the same. There is no validation: nothing is chosen, and
logistic regression has one fixed weight decay (scikit-learn's C = 0.1).

    python benchmarks/table_hyperbolic.py
    python benchmarks/table_hyperbolic.py --data digits --variants e l --seeds 0 1 2
    python benchmarks/table_hyperbolic.py --store runs/table.jsonl  # goes on where it was cut off
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
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import Trainer, seed_everything

from lightning_priv.callbacks import LinearBaseline
from lightning_priv.data import ClassificationDataModule, Digits, PhotoPatches
from lightning_priv.models import Classifier
from lightning_priv.nn import HyperbolicResNet
from lightning_priv.optim import MultiStepLR, RiemannianAdam

VARIANTS = {
    "e": "E (Euclidean)",
    "el": "EL (Lorentz head)",
    "ep": "EP (Poincaré head)",
    "l": "L (HCNN)",
    "hecnn": "HECNN (stages 1 and 3)",
}


@dataclass(frozen=True)
class Setting:
    """Data set, and the numbers of its demo."""

    data: type[ClassificationDataModule]
    width: int
    epochs: int
    milestones: tuple[int, ...]


SETTINGS = {
    "digits": Setting(Digits, width=16, epochs=15, milestones=(8, 12)),
    "patches": Setting(PhotoPatches, width=8, epochs=10, milestones=(5, 8)),
}


@dataclass(frozen=True)
class Result:
    """One run; the last two say what it was made with."""

    accuracy: float
    linear: float | None
    parameters: int
    seconds: float
    epochs: int
    torch: str


def run(
    data: str, variant: str, seed: int, epochs: int | None, baseline: bool, smoke: bool
) -> Result:
    """Train and test one network."""
    setting = SETTINGS[data]
    epochs = epochs or setting.epochs
    seed_everything(seed, verbose=False)
    samples = setting.data(batch_size=64, val_size=0, seed=seed)
    options: dict[str, Any] = {"hyperbolic_stages": [1, 3]} if variant == "hecnn" else {}
    net = HyperbolicResNet(
        10,
        samples.num_classes,
        variant,  # type: ignore[arg-type]
        in_channels=samples.input_shape[0],
        width=4 if smoke else setting.width,
        **options,
    )
    model = Classifier(
        net,
        samples.num_classes,
        optimizer=partial(RiemannianAdam, lr=5e-3),
        scheduler=partial(MultiStepLR, milestones=setting.milestones, gamma=0.2),
    )
    limit = 3 if smoke else 1.0
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            limit_train_batches=limit,
            limit_test_batches=limit,
            callbacks=[LinearBaseline()] if baseline else [],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
        )
        start = time.perf_counter()
        trainer.fit(model, samples)
        seconds = time.perf_counter() - start
        (scores,) = trainer.test(model, samples, verbose=False)
    parameters = sum(p.numel() for p in net.parameters())
    linear = scores.get("test/accuracy_linear")
    return Result(scores["test/accuracy"], linear, parameters, seconds, epochs, torch.__version__)


class Store:
    """Results in a file, one JSON object a line, so that a study that was cut off can go on.

    Args:
        path: the file, made when it is missing; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.known: dict[tuple[str, str, int], Result] = {}
        if path is not None and path.exists():
            for line in path.read_text().splitlines():
                row = json.loads(line)
                key = (row.pop("data"), row.pop("variant"), row.pop("seed"))
                self.known[key] = Result(**row)

    def find(self, data: str, variant: str, seed: int, epochs: int | None) -> Result | None:
        """The stored run; SystemExit if it was made with other epochs or another torch."""
        result = self.known.get((data, variant, seed))
        if result is None:
            return None
        made, wanted = (
            (result.epochs, result.torch),
            (epochs or SETTINGS[data].epochs, torch.__version__),
        )
        if made != wanted:
            raise SystemExit(
                f"{self.path} has {data} {variant} seed {seed} with (epochs, torch) = {made}, not "
                f"{wanted}: name another file"
            )
        return result

    def add(self, data: str, variant: str, seed: int, result: Result) -> None:
        """Append a run to the file."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            row = {"data": data, "variant": variant, "seed": seed, **asdict(result)}
            file.write(json.dumps(row) + "\n")


def spread(values: Sequence[float]) -> str:
    """Mean and sample deviation of fractions, in percent."""
    mean = f"{100 * statistics.fmean(values):.2f}"
    return mean if len(values) < 2 else f"{mean} ± {100 * statistics.stdev(values):.2f}"


def table(results: dict[tuple[str, str], list[Result]], data: Sequence[str]) -> str:
    """One row for each variant, two columns for each data set, as Markdown."""
    variants = list(dict.fromkeys(variant for _, variant in results))
    columns = [f"{name}: test accuracy % | parameters" for name in data]
    lines = [
        f"| variant | {' | '.join(columns)} | s a run |",
        "|" + " --- |" * (2 + 2 * len(data)),
    ]
    for variant in variants:
        found = [results[name, variant] for name in data]
        cells = [f"{spread([r.accuracy for r in runs])} | {runs[0].parameters:,}" for runs in found]
        seconds = " / ".join(f"{statistics.median(r.seconds for r in runs):.0f}" for runs in found)
        lines.append(f"| {VARIANTS[variant]} | {' | '.join(cells)} | {seconds} |")
    linear = [
        [r.linear for r in results[name, variants[0]] if r.linear is not None] for name in data
    ]
    cells = [f"{100 * values[0]:.2f} | -" if values else "- | -" for values in linear]
    lines.append(f"| logistic regression | {' | '.join(cells)} | - |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, help="default: those of the demos")
    parser.add_argument(
        "--store", type=Path, help="file of finished runs: read first, appended to after each run"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="two seeds, three batches, narrow networks: no result"
    )
    arguments = parser.parse_args()
    seeds = arguments.seeds[:2] if arguments.smoke else arguments.seeds
    epochs = 1 if arguments.smoke else arguments.epochs

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    if arguments.smoke and arguments.store:
        parser.error("--smoke makes no results to store")
    store = Store(arguments.store)
    results: dict[tuple[str, str], list[Result]] = {}
    for data in arguments.data:
        for variant in arguments.variants:
            for seed in seeds:
                first = variant == arguments.variants[0] and seed == seeds[0]
                result = store.find(data, variant, seed, epochs)
                if result is None:
                    result = run(data, variant, seed, epochs, first, arguments.smoke)
                    store.add(data, variant, seed, result)
                results.setdefault((data, variant), []).append(result)
                sys.stderr.write(
                    f"{data} {variant} seed {seed}: {result.accuracy:.4f}, {result.seconds:.1f} s\n"
                )
    if arguments.smoke:
        print("SMOKE: a few batches of narrow networks; the numbers mean nothing\n")
    print(table(results, arguments.data))
    print(
        f"\nResNet-10, Riemannian Adam, seeds {' '.join(map(str, seeds))}; mean ± "
        f"sample deviation, last epoch; CPU ({platform.machine()}), {torch.get_num_threads()} "
        f"threads, Python {platform.python_version()}, torch {torch.__version__}, lightning "
        f"{lightning.__version__}; s a run: median of the fits"
    )


if __name__ == "__main__":
    main()
