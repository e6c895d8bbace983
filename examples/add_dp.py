"""Make an existing Lightning project private by changing one line, that of ``strategy``.

The rest is a project as its users write it, with batch norm, Adam, a schedule and callbacks:

    python examples/add_dp.py               one process, first plain, then private
    python examples/add_dp.py --devices 2   two processes, private
"""

import sys

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from lightning_priv.strategies import DPSGDDDPStrategy, DPSGDStrategy


def block(channels_in: int, channels: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels_in, channels, 3, padding=1)
    return [conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.MaxPool2d(2)]


class DigitsModule(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(*block(1, 16), *block(16, 32), nn.Flatten(), nn.Linear(128, 10))

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train/loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        hits = (self.net(batch[0]).argmax(1) == batch[1]).float().mean()
        self.log("val/accuracy", hits, sync_dist=True)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.02)
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def train(strategy, devices=1):
    pl.seed_everything(0)
    x, y = (torch.tensor(a) for a in load_digits(return_X_y=True))
    data = TensorDataset(x.float().view(-1, 1, 8, 8) / 16, y)
    train, val = random_split(data, [1437, 360], generator=torch.Generator().manual_seed(0))
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy,  # <- the line
        max_epochs=12,
        default_root_dir="runs/add_dp",
        logger=CSVLogger("runs/add_dp"),
        log_every_n_steps=5,
        enable_progress_bar=False,
        callbacks=[LearningRateMonitor(), EarlyStopping("val/accuracy", mode="max", patience=8)],
    )
    batches = DataLoader(train, 256 // devices, shuffle=True)
    trainer.fit(DigitsModule(), batches, DataLoader(val, 128))
    return trainer


if __name__ == "__main__":
    if sys.argv[1:] == ["--devices", "2"]:
        private = train(DPSGDDDPStrategy(target_epsilon=3.0, fix_modules=True), 2)
    else:
        plain = train("auto")
        print(f"plain:   accuracy {plain.callback_metrics['val/accuracy']:.3f}")
        private = train(DPSGDStrategy(target_epsilon=3.0, fix_modules=True))
    if private.is_global_zero:
        accuracy, spent = private.callback_metrics["val/accuracy"], private.strategy.epsilon()
        print(f"private: accuracy {accuracy:.3f}, epsilon {spent:.3f} ", end="")
        print(f"at delta {private.strategy.delta:.2g} in {private.strategy.steps} steps")
