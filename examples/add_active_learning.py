"""Let an existing Lightning project ask for the labels that help it most.

Everything down to ``Digits`` and ``DigitModule`` is a project as its users write it. One data
module around theirs and one callback make it an active learner: it starts with 50 labels and asks
for 50 more every 10 epochs. Curve, queries and queried pictures go to runs/add_active_learning:

    python examples/add_active_learning.py
"""

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from lightning_priv.acquisition import Margin
from lightning_priv.callbacks import ActiveLearning
from lightning_priv.data import ActivePool


class Digits(pl.LightningDataModule):
    def setup(self, stage):
        x, y = load_digits(return_X_y=True)
        data = TensorDataset(torch.tensor(x).float().view(-1, 1, 8, 8) / 16, torch.tensor(y))
        split = torch.Generator().manual_seed(0)
        self.train, self.val = random_split(data, [1400, 397], generator=split)

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=397)


class DigitModule(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val/accuracy", (self(x).argmax(1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def main() -> None:
    pl.seed_everything(0)
    pool = ActivePool(Digits(), initial=50, query_size=50)  # <- around their data module
    trainer = pl.Trainer(
        max_epochs=40,
        callbacks=[ActiveLearning(Margin(), every_n_epochs=10)],  # <- the callback
        reload_dataloaders_every_n_epochs=1,  # <- the training set grows
        default_root_dir="runs/add_active_learning",
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
    )
    trainer.fit(DigitModule(), datamodule=pool)
    accuracy = float(trainer.callback_metrics["val/accuracy"])
    print(f"{len(pool.labelled_indices)} labels, accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
