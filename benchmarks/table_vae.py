"""Reconstruction of the four autoencoders with a two-dimensional latent space on the digits.

Trains the network of configs/demo/hvae_digits.yaml in every variant and prints, for the test part
after the last epoch, mean and sample deviation over the seeds of half the squared error of an image
(from a drawn latent point, and from the posterior's mean) and of the KL divergence.

    python benchmarks/table_vae.py
    python benchmarks/table_vae.py --variants e l --seeds 0 1 --epochs 60 --kl-coeff 0.1
"""

import argparse
import logging
import statistics
import sys
import warnings
from functools import partial

import torch
from lightning.pytorch import Trainer, seed_everything

from lightning_priv.data import Digits
from lightning_priv.models import HyperbolicVAE
from lightning_priv.nn import VAENetwork
from lightning_priv.optim import RiemannianAdam

VARIANTS = {
    "e": "E (Euclidean)",
    "el": "EL (hybrid Lorentz)",
    "ep": "EP (hybrid Poincaré)",
    "l": "L (HCNN)",
}


def run(variant: str, seed: int, options: argparse.Namespace) -> tuple[float, float, float]:
    """Half the squared error from a drawn point and from the mean, KL divergence."""
    seed_everything(seed, verbose=False)
    net = VAENetwork(
        8,
        1,
        variant,  # type: ignore[arg-type]
        options.latent_dim,
        encoder_layers=2,
        decoder_layers=2,
        width=4 if options.smoke else 16,
        k=10.0 if variant == "ep" else 1.0,
    )
    module = HyperbolicVAE(net, options.kl_coeff, optimizer=partial(RiemannianAdam, lr=1e-2))
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1 if options.smoke else options.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, Digits(batch_size=100))
    (scores,) = trainer.test(module, Digits(batch_size=100), verbose=False)
    sys.stderr.write(f"{variant} seed {seed}: {scores['test/reconstruction']:.3f}\n")
    return scores["test/reconstruction"], 0.5 * 64 * scores["test/mse"], scores["test/kl"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--kl-coeff", type=float, default=0.024)
    parser.add_argument("--latent-dim", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="one epoch, narrow: no result")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print("| variant | drawn point | posterior's mean | KL |\n|---|---:|---:|---:|")
    for variant in options.variants:
        found = zip(*(run(variant, seed, options) for seed in options.seeds), strict=True)
        cells = []
        for values in found:
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.fmean(values):.3f} ± {spread:.3f}")
        print(f"| {VARIANTS[variant]} | {' | '.join(cells)} |", flush=True)
    print(
        f"\nhalf the squared error of 64 pixels, {options.epochs} epochs, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
