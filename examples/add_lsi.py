"""Ask an existing Lightning project which of its training samples matter: one line.

Everything but the line marked with (+) is a project as its users write it, with random
augmentation and a shuffled loader.   python examples/add_lsi.py
"""

import csv
from pathlib import Path

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset

from lightning_priv.callbacks import LSIProbe


def jitter(x):
    return x + 0.1 * torch.randn_like(x)


def plain(x):
    return x


class DigitSet(Dataset):
    def __init__(self, transform=None):
        x, y = load_digits(return_X_y=True)
        self.x, self.targets = torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)
        self.transform = transform

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        x = self.x[i].view(1, 8, 8)
        return (x if self.transform is None else self.transform(x)), self.targets[i]


class DigitsModule(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.1))
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.body(x))

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


if __name__ == "__main__":
    pl.seed_everything(0)
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        default_root_dir="runs/add_lsi",
        enable_progress_bar=False,
        callbacks=[LSIProbe(eval_transform=plain, dirpath="runs/add_lsi")],  # (+)
    )
    trainer.fit(DigitsModule(), DataLoader(DigitSet(jitter), batch_size=128, shuffle=True))
    with Path("runs/add_lsi/lsi/epoch=02/scores.csv").open() as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["lsi_rank"]))
    print("most informative: ", [f"{r['index']} (a {r['label']})" for r in rows[:5]])
    print("least informative:", [f"{r['index']} (a {r['label']})" for r in rows[-5:]])
