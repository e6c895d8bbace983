"""Make an existing Lightning project private by changing one line.

Everything down to ``train`` is a project as its users write it: a module with batch norm, Adam and
a schedule, a data module, callbacks. The line that changes is ``strategy``:

    python examples/add_dp.py               one process, first plain, then private
    python examples/add_dp.py --devices 2   two processes, private
"""

import argparse

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import Strategy
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset, random_split
from torchmetrics.classification import MulticlassAccuracy

from lightning_priv.strategies import DPSGDDDPStrategy, DPSGDStrategy


class DigitsModule(pl.LightningModule):
    def __init__(self, lr: float = 0.02) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 10),
        )
        self.train_accuracy = MulticlassAccuracy(10, average="micro")
        self.val_accuracy = MulticlassAccuracy(10, average="micro")

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        loss = functional.cross_entropy(logits, y)
        self.train_accuracy(logits, y)
        self.log("train/loss", loss, on_epoch=True)
        self.log("train/accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.val_accuracy(self(x), y)
        self.log("val/accuracy", self.val_accuracy, prog_bar=True)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams.lr)
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class DigitsData(pl.LightningDataModule):
    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        digits = load_digits()
        x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
        data = TensorDataset(x, torch.tensor(digits.target))
        split = torch.Generator().manual_seed(0)
        self.train, self.val = random_split(data, [1437, 360], generator=split)

    def train_dataloader(self):
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, 128)


def train(strategy: str | Strategy, devices: int = 1) -> pl.Trainer:
    pl.seed_everything(0)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy,  # <- the line
        max_epochs=12,
        default_root_dir="runs/add_dp",
        logger=CSVLogger("runs/add_dp"),
        log_every_n_steps=5,
        enable_progress_bar=False,
        callbacks=[
            LearningRateMonitor(),
            EarlyStopping("val/accuracy", mode="max", patience=8),
            ModelCheckpoint(monitor="val/accuracy", mode="max"),
        ],
    )
    trainer.fit(DigitsModule(), datamodule=DigitsData(batch_size=256 // devices))
    return trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=1)
    devices = parser.parse_args().devices
    if devices == 1:
        plain = train("auto")
        private = train(DPSGDStrategy(target_epsilon=3.0, fix_modules=True))
        print(f"plain:   accuracy {plain.callback_metrics['val/accuracy']:.3f}")
    else:
        private = train(DPSGDDDPStrategy(target_epsilon=3.0, fix_modules=True), devices)
    if private.is_global_zero:
        strategy = private.strategy
        print(
            f"private: accuracy {private.callback_metrics['val/accuracy']:.3f}, "
            f"epsilon {strategy.epsilon():.3f} at delta {strategy.delta:.2g} "
            f"in {strategy.steps} steps"
        )


if __name__ == "__main__":
    main()
