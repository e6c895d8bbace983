"""An ordinary Lightning project whose linear head becomes hyperbolic: four changed lines.

Nothing here is ours but the lines marked with (+).   python examples/lorentz_head.py
"""

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_priv.callbacks import Dashboard  # (+)
from lightning_priv.nn.lorentz import LorentzLinear, LorentzMLR  # (+)


class DigitsData(pl.LightningDataModule):
    def setup(self, stage):
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(y)
        parts = train_test_split(x, y, test_size=0.2, random_state=0, stratify=y)
        self.train, self.val = TensorDataset(*parts[::2]), TensorDataset(*parts[1::2])

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=64, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=256)


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        # was: nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10))
        self.head = nn.Sequential(LorentzLinear(512, 64), nn.ReLU(), LorentzMLR(64, 10))  # (+)

    def forward(self, x):
        return self.head(self.body(x))

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        hits = (self(batch[0]).argmax(1) == batch[1]).float().mean()
        self.log("val/accuracy", hits, prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


if __name__ == "__main__":
    pl.seed_everything(0)
    trainer = pl.Trainer(
        max_epochs=8,
        accelerator="cpu",
        default_root_dir="runs/lorentz_head",
        callbacks=[Dashboard()],  # (+)
        enable_model_summary=False,
    )
    trainer.fit(Net(), DigitsData())
