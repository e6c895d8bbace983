"""Reconstruction of the four autoencoders with a two-dimensional latent space on the digits.

Trains the network of configs/demo/hvae_digits.yaml in every variant by Riemannian Adam, whose
learning rate falls along a cosine, and prints for the test part after the last epoch the mean and
sample deviation over the seeds of half the squared error of an image (from a drawn latent point,
and from the posterior's mean), of its difference to E with the same seed, and of the KL divergence.

Learning rates (0.01 or 0.02) and the initialisation of L come from trials on held-out training
images with other seeds, as --held-out makes them; k = 1 (EP: c = 0.1) is the paper's. "L,
published" is L with the published initialisation.

    python benchmarks/table_vae.py
    python benchmarks/table_vae.py --held-out --seeds 100 101 102 103 --learning-rate 0.01 0.02
"""

import argparse
import logging
import statistics
import sys
import time
import warnings
from functools import partial
from typing import NamedTuple

import torch
from lightning.pytorch import Trainer, seed_everything
from torch.optim.lr_scheduler import CosineAnnealingLR

from lightning_priv.data import Digits
from lightning_priv.models import HyperbolicVAE
from lightning_priv.nn import VAENetwork
from lightning_priv.optim import RiemannianAdam

HELD_OUT = 250


class Row(NamedTuple):
    """A row of the table: the network, and what was chosen for it."""

    title: str
    variant: str
    learning_rate: float
    k: float = 1.0
    init: str = "fan_in"


ROWS = {
    "e": Row("E (Euclidean)", "e", 0.01),
    "el": Row("EL (hybrid Lorentz)", "el", 0.01),
    "ep": Row("EP (hybrid Poincaré)", "ep", 0.01, 10.0),
    "l": Row("L (HCNN)", "l", 0.02),
    "l_published": Row("L, published", "l", 0.02, init="published"),
}


def network(row: Row, options: argparse.Namespace) -> VAENetwork:
    """The network of a row."""
    return VAENetwork(
        8,
        1,
        row.variant,  # type: ignore[arg-type]
        options.latent_dim,
        encoder_layers=2,
        decoder_layers=2,
        width=options.width,
        k=row.k,
        init=row.init,  # type: ignore[arg-type]
    )


def run(row: Row, seed: int, options: argparse.Namespace) -> tuple[float, float, float]:
    """Half the squared error from a drawn point and from the mean, KL divergence."""
    seed_everything(seed, verbose=False)
    start = time.process_time()
    module = HyperbolicVAE(
        network(row, options),
        options.kl_coeff,
        optimizer=partial(RiemannianAdam, lr=row.learning_rate),
        scheduler=partial(CosineAnnealingLR, T_max=options.epochs),
    )
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=options.epochs,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = Digits(batch_size=100, val_size=HELD_OUT if options.held_out else 0)
    trainer.fit(module, data)
    trainer.limit_val_batches = 1.0
    stage = "val" if options.held_out else "test"
    measure = trainer.validate if options.held_out else trainer.test
    (scores,) = measure(module, data, verbose=False)
    error = scores[f"{stage}/reconstruction"]
    seconds = time.process_time() - start
    sys.stderr.write(f"{row.title} seed {seed}: {error:.3f}, {seconds:.0f} s\n")
    return error, 0.5 * 64 * scores[f"{stage}/mse"], scores[f"{stage}/kl"]


def cell(values: list[float], sign: str = "") -> str:
    """Mean and sample deviation."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):{sign}.3f} ± {spread:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--kl-coeff", type=float, default=0.024)
    parser.add_argument("--latent-dim", type=int, default=2)
    parser.add_argument("--learning-rate", nargs="+", type=float, help="in place of those chosen")
    parser.add_argument("--k", nargs="+", type=float, help="in place of those chosen")
    parser.add_argument("--held-out", action="store_true", help="score held-out training images")
    parser.add_argument("--smoke", action="store_true", help="one epoch, narrow: no result")
    options = parser.parse_args()
    if options.smoke:
        options.epochs, options.width, options.seeds = 1, 4, options.seeds[:1]
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    part = f"{HELD_OUT} held-out training images" if options.held_out else "test images"
    print(f"Half the squared error of 64 pixels, {part}\n")
    columns = "variant | lr, k | parameters | drawn point | less E | posterior's mean | KL"
    print(f"| {columns} |\n|---|---|---:|---:|---:|---:|---:|")
    base: list[float] = []
    for name in options.variants:
        chosen = ROWS[name]
        curved = chosen.variant != "e"
        for learning_rate in options.learning_rate or [chosen.learning_rate]:
            for k in options.k if options.k and curved else [chosen.k]:
                row = chosen._replace(learning_rate=learning_rate, k=k)
                found = [run(row, seed, options) for seed in options.seeds]
                drawn, mean, kl = (list(values) for values in zip(*found, strict=True))
                base = base or (drawn if name == "e" else [])
                less = [a - b for a, b in zip(drawn, base, strict=True)] if base else []
                parameters = sum(p.numel() for p in network(row, options).parameters())
                place = f"{learning_rate:g}, {k:g}" if curved else f"{learning_rate:g}"
                cells = (cell(drawn), cell(less, "+") if less else "", cell(mean), cell(kl))
                print(
                    f"| {row.title} | {place} | {parameters:,} | {' | '.join(cells)} |", flush=True
                )
    print(
        f"\n{options.epochs} epochs, width {options.width}, kl_coeff {options.kl_coeff}, seeds "
        f"{' '.join(map(str, options.seeds))}, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
