"""A small private training for tests: module, data, and a trainer that writes nothing."""

import logging
import os

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_priv.strategies import DPSGDStrategy

RECORDS, FEATURES, CLASSES = 96, 6, 3


class SmallModule(pl.LightningModule):
    """As a user writes it; nothing in it knows of privacy."""

    def __init__(self, net=None, lr=0.1, momentum=0.9):
        super().__init__()
        self.net = net or nn.Sequential(
            nn.Linear(FEATURES, 8), nn.Softplus(), nn.Linear(8, CLASSES)
        )
        self.lr, self.momentum = lr, momentum

    def loss(self, batch):
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(batch))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), self.lr, momentum=self.momentum)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.7)]


def small_data(records=RECORDS, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(records, FEATURES, generator=generator, dtype=dtype)
    weights = torch.randn(FEATURES, CLASSES, generator=torch.Generator().manual_seed(99))
    return TensorDataset(x, (x.float() @ weights).argmax(1))


def small_module(seed=0, **kwargs):
    torch.manual_seed(seed)
    return SmallModule(**kwargs)


def quiet_trainer(strategy, **kwargs):
    options = {
        "accelerator": "cpu",
        "max_epochs": 3,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(strategy=strategy, **{**options, **kwargs})


def fit(strategy, module=None, data=None, batch_size=16, ckpt_path=None, loader=None, **kwargs):
    """Train; returns (trainer, module)."""
    module = module or small_module()
    trainer = quiet_trainer(strategy, **kwargs)
    if loader is None:
        loader = DataLoader(data or small_data(), batch_size=batch_size, shuffle=True)
    trainer.fit(module, loader, ckpt_path=ckpt_path)
    return trainer, module


def weights(module):
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


class Gradients(pl.Callback):
    """Keeps what callbacks can see of gradients, and what the weights are afterwards."""

    def __init__(self):
        self.released, self.elsewhere = [], []

    @staticmethod
    def _flat(module):
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        return torch.cat([g.flatten().clone() for g in grads]) if grads else None

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.released.append(self._flat(pl_module))

    def on_before_backward(self, trainer, pl_module, loss):
        self.elsewhere.append(self._flat(pl_module))

    def on_after_backward(self, trainer, pl_module):
        self.elsewhere.append(self._flat(pl_module))

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.elsewhere.append(self._flat(pl_module))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.elsewhere.append(self._flat(pl_module))


#: Where the accountant does not matter, the fastest; and no report.
QUICK = {"noise_multiplier": 1.0, "accountant": "rdp", "report": None}
REPEATABLE = {**QUICK, "deterministic": True, "seed": 7}


def private(**kwargs):
    return DPSGDStrategy(**{**QUICK, **kwargs})


class Witness(pl.Callback):
    """Writes one byte for each gradient that was released, by itself and at once."""

    def __init__(self, path):
        self.path = path

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, b"x")
        os.close(file)


def train_to_be_killed(folder, ckpt_path, epochs, answers):
    """In a process of its own: train in ``folder`` and tell the history at the end."""
    os.chdir(folder)
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    saved = ModelCheckpoint(dirpath="ckpt", every_n_train_steps=4, save_top_k=-1, filename="{step}")
    strategy = DPSGDStrategy(noise_multiplier=1.0, accountant="rdp", probe=False)
    fit(
        strategy,
        ckpt_path=ckpt_path,
        max_epochs=epochs,
        callbacks=[saved, Witness("witness")],
        enable_checkpointing=True,
    )
    account = strategy.account
    answers.put((strategy.history, strategy.epsilon(), strategy.steps, account.abandoned))
