"""A clinic trains a private, cautious tumour classifier: four parts in an ordinary project.

LSIProbe finds wrong labels for an expert; five networks train privately under one epsilon;
RiskCorridor and ReconstructionAudit show what that gives away; EnsembleAbstention lets the five
vote and defers contested cases. docs/clinic.md tells the story.    python examples/clinic.py
"""

import csv
from pathlib import Path

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_priv.accountants import calibrate_noise
from lightning_priv.callbacks import EnsembleAbstention, LSIProbe, ReconstructionAudit, RiskCorridor
from lightning_priv.nn import LeakLayer
from lightning_priv.strategies import DPSGDStrategy

OUT, MEMBERS, STEPS, RATE, DELTA = Path("runs/clinic"), 5, 180, 0.16, 1e-3


def records() -> tuple[torch.Tensor, ...]:
    """Training records, their labels with a tenth wrong, the true ones, and test records."""
    x, y = (torch.tensor(a) for a in load_breast_cancer(return_X_y=True))
    order = torch.randperm(569, generator=torch.Generator().manual_seed(0))
    x = (((x + 1e-3).log().float() - 1) / 4)[order].view(-1, 1, 3, 10)  # constants, no statistics
    train, test = y[order].split([400, 169])
    return x[:400], torch.where(torch.arange(400) % 10 == 0, 1 - train, train), train, x[400:], test


class TumourModule(pl.LightningModule):
    def __init__(self, leak: bool = False) -> None:
        super().__init__()
        net = nn.Sequential(nn.Flatten(), nn.Linear(30, 16), nn.Tanh(), nn.Linear(16, 2))
        self.net = LeakLayer(net, [1, 3, 10]) if leak else net  # for the audit alone

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def test_step(self, batch, batch_idx):
        self.log("test/accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9)


def fit(name: str, x, y, parts=(), noise: float = 0.0, seed: int = 0, leak: bool = False) -> None:
    pl.seed_everything(seed)
    strategy = DPSGDStrategy(noise_multiplier=noise, delta=DELTA) if noise else "auto"
    places = {"default_root_dir": OUT / name, "logger": pl.loggers.CSVLogger(OUT, name)}
    trainer = pl.Trainer(max_steps=STEPS, strategy=strategy, callbacks=list(parts), **places)
    trainer.fit(TumourModule(leak), DataLoader(TensorDataset(x, y), int(RATE * 400), shuffle=True))
    trainer.save_checkpoint(OUT / f"{name}.ckpt", weights_only=True)


if __name__ == "__main__":
    x, given, truth, *test = records()
    fit("curation", x, given, [LSIProbe(standardize="zscore", figures=False, dirpath=str(OUT))])
    rows = list(csv.DictReader(next(OUT.rglob("scores.csv")).open()))
    reviewed = [int(row["index"]) for row in rows if int(row["lsi_rank"]) <= 60]
    y = given.clone()
    y[reviewed] = truth[reviewed]  # the expert looks again at 60 of 400 records
    print(f"{(given != y).sum()} of {(given != truth).sum()} wrong labels corrected")
    noise = calibrate_noise(8.0, DELTA, RATE, MEMBERS * STEPS)  # epsilon 8 for all members together
    for seed in range(1, MEMBERS):
        fit(f"member{seed}", x, y, noise=noise, seed=seed)
    corridor = RiskCorridor(max_norm=2.0, input_shape=[1, 3, 10], data_range=4.0)
    fit("member0", x, y, [corridor], noise)
    scale = {"pixel_mean": [0.5], "pixel_std": [0.25]}
    audit = ReconstructionAudit(noise_levels=[4, 32], max_targets=6, references="none", **scale)
    fit("audit", x, y, [audit], noise, leak=True)
    vote = EnsembleAbstention(f"{OUT}/member*.ckpt", rule="unanimous", report_dir=f"{OUT}/vote")
    first = TumourModule.load_from_checkpoint(OUT / "member0.ckpt")
    pl.Trainer(logger=False, callbacks=[vote]).test(first, DataLoader(TensorDataset(*test), 169))
