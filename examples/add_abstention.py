"""Let an existing Lightning project abstain where equally good models disagree.

Everything down to ``fit`` is a project as its users write it. Five models are trained as always;
then one callback lets them vote on the test set and writes runs/add_abstention/report:

    python examples/add_abstention.py
"""

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from lightning_priv.callbacks import EnsembleAbstention


class Tumours(pl.LightningDataModule):
    class_names = ("malignant", "benign")  # optional: names in the report, and a check

    def setup(self, stage: str) -> None:
        table = load_breast_cancer()
        x = torch.tensor(table.data, dtype=torch.float32)
        x = (x - x.mean(0)) / x.std(0)
        data = TensorDataset(x, torch.tensor(table.target))
        split = torch.Generator().manual_seed(0)
        self.train, self.test = random_split(data, [369, 200], generator=split)

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=32, shuffle=True)

    def test_dataloader(self):
        return DataLoader(self.test, batch_size=64)


class TumourModule(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def test_step(self, batch, batch_idx):
        x, y = batch
        self.log("test/accuracy", (self(x).argmax(1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}


def fit(seed: int) -> str:
    pl.seed_everything(seed)
    trainer = pl.Trainer(max_epochs=5, enable_checkpointing=False, **QUIET)
    trainer.fit(TumourModule(), datamodule=Tumours())
    path = f"runs/add_abstention/seed{seed}.ckpt"
    trainer.save_checkpoint(path)
    return path


def main() -> None:
    members = [fit(seed) for seed in range(5)]
    abstention = EnsembleAbstention(
        members, rule="unanimous", report_dir="runs/add_abstention/report"
    )
    trainer = pl.Trainer(callbacks=[abstention], **QUIET)  # <- the callback
    trainer.test(TumourModule(), datamodule=Tumours())


if __name__ == "__main__":
    main()
