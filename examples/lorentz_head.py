"""A torchvision network in an ordinary Lightning project gets a hyperbolic head: three lines.

Nothing here is ours but the lines marked with (+); no weights are downloaded.

    python examples/lorentz_head.py
"""

import lightning.pytorch as pl
import torch
import torchvision
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_priv.callbacks import Dashboard  # (+)
from lightning_priv.nn.lorentz import LorentzLinear, LorentzMLR  # (+)


class DigitsData(pl.LightningDataModule):
    def setup(self, stage):
        x, y = load_digits(return_X_y=True)
        x = torch.tensor(x / 16, dtype=torch.float32).view(-1, 1, 8, 8)
        x = nn.functional.interpolate(x, scale_factor=4).expand(-1, 3, -1, -1)
        parts = train_test_split(x, torch.tensor(y), test_size=0.2, random_state=0)
        self.train, self.val = TensorDataset(*parts[::2]), TensorDataset(*parts[1::2])

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=360)


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torchvision.models.shufflenet_v2_x0_5()  # 1,024 features before its head `fc`
        # was: self.net.fc = nn.Linear(1024, 10)
        self.net.fc = nn.Sequential(LorentzLinear(1024, 32), nn.ReLU(), LorentzMLR(32, 10))  # (+)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        hits = (self(batch[0]).argmax(1) == batch[1]).float().mean()
        self.log("val/accuracy", hits, prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


if __name__ == "__main__":
    pl.seed_everything(0)
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        default_root_dir="runs/lorentz_head",
        callbacks=[Dashboard()],  # (+)
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(Net(), DigitsData())
