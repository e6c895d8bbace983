"""A small private active-learning run for tests: plan, pool, module and trainer."""

import json
import logging
import os
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from private_kit import SmallModule, Witness, quiet_trainer, small_data
from torch.utils.data import DataLoader, Dataset

from lightning_priv.accountants import PlanSettings
from lightning_priv.acquisition import Entropy
from lightning_priv.callbacks import PrivateActiveLearning
from lightning_priv.data import ActivePool
from lightning_priv.strategies import DPSGDStrategy

RECORDS = 120
PLAN = PlanSettings(
    initial=40,
    queries=[20, 12],
    batch_size=20,
    epochs=4,
    epsilon=6.0,
    delta=1e-3,
    epsilon_acquisition=1.5,
)
ENTROPY = Entropy(normalise=True, clip=0.8)


class Counted(Dataset):
    """Records that note when they are asked for; their inputs and labels are those of small_data.

    Only ``__getitem__`` inside a training epoch counts: set ``counting``.
    """

    def __init__(self, records=RECORDS):
        self.data = small_data(records)
        self.targets = self.data.tensors[1]
        self.counting, self.asked = False, []

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        if self.counting:
            self.asked.append(int(index))
        return self.data[index]


class Records(pl.LightningDataModule):
    """Training records, and others to validate and test on."""

    def __init__(self, records=RECORDS, batch_size=20):
        super().__init__()
        self.train_dataset = Counted(records)
        self.batch_size = batch_size
        self.num_classes = 3

    def train_dataloader(self):
        return DataLoader(self.train_dataset, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(small_data(60, seed=5), batch_size=60)

    def test_dataloader(self):
        return DataLoader(small_data(60, seed=6), batch_size=60)


class Module(SmallModule):
    """With what scoring and validation need."""

    def forward(self, x):
        return self.net(x)

    def validation_step(self, batch, batch_idx):
        self.log("val/accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def test_step(self, batch, batch_idx):
        self.log("test/accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())


def private(plan=PLAN, **settings):
    """A strategy that fits the plan; the same noise again and again."""
    return DPSGDStrategy(**strategy_arguments(plan, **settings))


def strategy_arguments(plan=PLAN, **settings):
    return {
        "target_epsilon": plan.epsilon,
        "delta": plan.delta,
        "accountant": plan.accountant,
        "neighbouring": "replace_special",
        "probe": False,
        "deterministic": True,
        "seed": 7,
        **settings,
    }


def pool_of(plan=PLAN, **arguments):
    return ActivePool(Records(), initial=plan.initial, serve="all", seed=3, **arguments)


class Counting(pl.Callback):
    """Counts what the loader asks for while it trains, and nothing else."""

    def __init__(self, dataset):
        self.dataset = dataset

    def on_train_epoch_start(self, trainer, pl_module):
        self.dataset.counting = True

    def on_validation_start(self, trainer, pl_module):  # at the end of an epoch, before scoring
        self.dataset.counting = False


def learn(plan=PLAN, strategy=None, learning=None, callbacks=(), ckpt_path=None, pool=None, **more):
    """Run it; returns (trainer, strategy, pool, module)."""
    torch.manual_seed(0)
    module = Module()
    strategy = strategy or private(plan)
    pool = pool or pool_of(plan)
    learning = learning or PrivateActiveLearning(plan, ENTROPY, figures=False)
    trainer = quiet_trainer(
        strategy,
        max_epochs=None,
        callbacks=[learning, *callbacks],
        default_root_dir=".",
        num_sanity_val_steps=0,
        **more,
    )
    trainer.fit(module, datamodule=pool, ckpt_path=ckpt_path)
    return trainer, strategy, pool, module


def queries(folder="."):
    """What was chosen, round by round, as the ledger has it."""
    lines = (Path(folder) / "privacy_ledger.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines if line.strip().endswith("}")]
    return {e["round"]: e["records"] for e in events if e["event"] == "selected"}


def learn_to_be_killed(folder, ckpt_path, answers):
    """In a process of its own: learn in ``folder``, a checkpoint at every second step."""
    os.chdir(folder)
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    saved = ModelCheckpoint(dirpath="ckpt", every_n_train_steps=2, save_top_k=-1, filename="{step}")
    _, strategy, pool, _ = learn(
        callbacks=[saved, Witness("witness")],
        ckpt_path=ckpt_path,
        enable_checkpointing=True,
    )
    answers.put(
        (pool.round_of.tolist(), strategy.epsilon(), strategy.steps, strategy.account.abandoned)
    )
