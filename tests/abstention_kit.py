"""A small foreign project with members that disagree, for the tests of abstention."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_priv.data import WithIndex

N, CLASSES = 37, 3


def samples(n: int = N, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator)
    return x, torch.randint(CLASSES, (n,), generator=generator)


class Foreign(pl.LightningModule):
    """A module of somebody else: logs a metric of its own in each stage."""

    def __init__(self, outputs: int = CLASSES, hidden: int = 5) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, hidden), nn.ReLU(), nn.Dropout(0.5), nn.Linear(hidden, outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def _log_own(self, batch: Any, stage: str) -> None:
        x = batch["x"] if isinstance(batch, dict) else batch[0]
        self.log(f"{stage}/own", self(x).mean(), batch_size=len(x))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._log_own(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._log_own(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class ForeignData(pl.LightningDataModule):
    def __init__(self, n: int = N, indexed: bool = False, batch_size: int = 8) -> None:
        super().__init__()
        self.n, self.indexed, self.batch_size = n, indexed, batch_size

    def loader(self, seed: int) -> DataLoader[Any]:
        data: Any = TensorDataset(*samples(self.n, seed))
        return DataLoader(WithIndex(data) if self.indexed else data, batch_size=self.batch_size)

    def train_dataloader(self) -> DataLoader[Any]:
        return self.loader(2)

    def val_dataloader(self) -> DataLoader[Any]:
        return self.loader(1)

    def test_dataloader(self) -> DataLoader[Any]:
        return self.loader(0)

    def predict_dataloader(self) -> DataLoader[Any]:
        return self.loader(0)


def member(seed: int, outputs: int = CLASSES, hidden: int = 5) -> Foreign:
    """Members agree on some samples only: one network, disturbed by noise of the seed."""
    torch.manual_seed(0)
    net = Foreign(outputs, hidden).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.25 * torch.randn_like(parameter)
    return net


def write(folder: Path, seeds: list[int], **extra: Any) -> list[str]:
    """Checkpoints as Lightning writes them."""
    paths = []
    for seed in seeds:
        path = folder / f"seed{seed}.ckpt"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "state_dict": member(seed).state_dict(),
            "pytorch-lightning_version": "2.6.0",
            **extra,
        }
        torch.save(content, path)
        paths.append(str(path))
    return paths


def trainer(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=list(callbacks),
        **options,
    )


def probabilities(seeds: list[int], x: Tensor) -> Tensor:
    """What the members say, one by one; shape (M, n, C)."""
    with torch.no_grad():
        return torch.stack([member(seed)(x).softmax(-1) for seed in seeds])
