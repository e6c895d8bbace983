"""All parts together in an ordinary Lightning project, in the lines marked with (+).

The first stages of a torchvision network (no weights are downloaded) get a Lorentz head, train
privately, are audited and asked which samples matter; three of them vote, and defer where they
disagree.    python examples/all_together.py
"""

import lightning.pytorch as pl
import torch
import torchvision
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from lightning_priv import callbacks as priv  # (+)
from lightning_priv.nn import LeakLayer  # (+)
from lightning_priv.nn.lorentz import LorentzLinear, LorentzMLR  # (+)
from lightning_priv.strategies import DPSGDStrategy  # (+)

OUT = "runs/all_together"


class Digits(pl.LightningDataModule):
    class_names = tuple("0123456789")

    def setup(self, stage):
        x, y = load_digits(return_X_y=True)
        x = torch.tensor(x).float().view(-1, 1, 8, 8) / 16
        split = torch.Generator().manual_seed(0)
        self.train, self.test = random_split(TensorDataset(x, torch.tensor(y)), [1437, 360], split)

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=128, shuffle=True)

    def test_dataloader(self):
        return DataLoader(self.test, batch_size=360)


class Net(pl.LightningModule):
    def __init__(self, leak=False):
        super().__init__()
        stages = torchvision.models.squeezenet1_1().features[1:4]  # 128 channels of 4x4
        body = nn.Sequential(nn.Conv2d(1, 64, 3, padding=1), *stages, nn.Flatten())
        head = nn.Sequential(LorentzLinear(2048, 32), nn.ReLU(), LorentzMLR(32, 10))  # (+)
        net = nn.Sequential(body, head)
        self.net = LeakLayer(net, [1, 8, 8]) if leak else net  # (+) spoils training: audits only

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def test_step(self, batch, batch_idx):
        self.log("test/accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5, momentum=0.9)


def fit(name, parts=(), seed=0, **options):
    pl.seed_everything(seed)
    private = DPSGDStrategy(target_epsilon=8.0, fix_modules=True)  # (+)
    places = {"default_root_dir": f"{OUT}/{name}", "logger": pl.loggers.CSVLogger(OUT, name)}
    trainer = pl.Trainer(max_epochs=5, strategy=private, callbacks=list(parts), **places)
    trainer.fit(Net(**options), datamodule=Digits())
    trainer.save_checkpoint(f"{OUT}/{name}.ckpt", weights_only=True)


if __name__ == "__main__":
    own = [priv.PrivacyBudget(), priv.RiskCorridor(4.0, [1, 8, 8]), priv.Dashboard()]  # (+)
    fit("member0", [*own, priv.LSIProbe(figures=False)])  # (+)
    for seed in (1, 2):
        fit(f"member{seed}", seed=seed)
    fit("audit", [priv.ReconstructionAudit(max_targets=4, noise_levels=[16])], leak=True)  # (+)
    vote = priv.EnsembleAbstention(f"{OUT}/member*.ckpt", report_dir=f"{OUT}/vote")  # (+)
    first = Net.load_from_checkpoint(f"{OUT}/member0.ckpt")
    pl.Trainer(logger=False, callbacks=[vote]).test(first, datamodule=Digits())
