"""See what an attacker recovers from the gradients of an existing private project.

Everything is a project as its users write it but the lines marked with (+): a layer in front of the
network that leaks its input, as a malicious server would put it there, and the callback that reads
the noised gradients. Writes runs/add_audit/audit/report.html.   python examples/add_audit.py
"""

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_priv.callbacks import ReconstructionAudit  # (+)
from lightning_priv.nn import LeakLayer  # (+)
from lightning_priv.strategies import DPSGDStrategy


class DigitsModule(pl.LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.2)


def digits() -> DataLoader:
    table = load_digits()
    x = torch.tensor(table.images, dtype=torch.float32)[:, None] / 16
    return DataLoader(TensorDataset(x, torch.tensor(table.target)), batch_size=8)


def main() -> None:
    pl.seed_everything(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    net = LeakLayer(net, [1, 8, 8])  # (+)
    audit = ReconstructionAudit(every_n_steps=2, max_targets=8, noise_levels=[2, 4])  # (+)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=40,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir="runs/add_audit",
        strategy=DPSGDStrategy(noise_multiplier=0.25),
        callbacks=[audit],  # (+)
    )
    trainer.fit(DigitsModule(net), digits())


if __name__ == "__main__":
    main()
