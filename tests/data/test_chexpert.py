"""CheXpert from a tiny fake copy: labels, patients, missing files; learnt privately end to end."""

import csv
import json
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image

from lightning_priv.accountants import PlanSettings
from lightning_priv.acquisition import Entropy
from lightning_priv.callbacks import PrivateActiveLearning
from lightning_priv.data import ActivePool, CheXpert
from lightning_priv.errors import ConfigurationError, DatasetUnavailableError
from lightning_priv.models import MultiLabelClassifier
from lightning_priv.nn import SmallCNN
from lightning_priv.strategies import DPSGDStrategy

NAME = "CheXpert-v1.0-small"


def write(folder, part, patients, rng):
    rows = []
    for patient in range(patients):
        for view in (1, 2):
            place = Path(NAME) / part / f"patient{patient:05d}" / "study1" / f"view{view}.jpg"
            path = folder / place
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (20, 16), dtype=np.uint8)).save(path)
            values = rng.choice(["", "0.0", "1.0"], len(CheXpert.label_names))
            rows.append(
                {"Path": str(place), **dict(zip(CheXpert.label_names, values, strict=True))}
            )
    return rows


def save(folder, name, rows):
    with (folder / NAME / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    train = write(tmp_path, "train", 30, rng)
    train[0] |= {"Edema": "-1.0", "Cardiomegaly": "-1.0", "Consolidation": "", "Atelectasis": "1.0"}
    save(tmp_path, "train.csv", train)
    save(tmp_path, "valid.csv", write(tmp_path, "valid", 6, rng))
    return tmp_path / NAME


def test_labels_and_patients(root):
    data = CheXpert(str(root), val_size=0.2, size=16)
    data.setup()
    assert len(data.train_dataset) == 48
    assert len(data.val_dataset) == 12
    parts = (data.train_dataset, data.val_dataset)
    patients = [{part.x.path(i).parts[-3] for i in range(len(part))} for part in parts]
    assert not patients[0] & patients[1]  # no patient in both
    image, labels = next(iter(data.test_dataloader()))
    assert image.shape == (12, 3, 16, 16)
    assert labels.shape == (12, 14)
    whole = CheXpert(str(root), val_size=0.0, size=16)
    whole.setup()
    first = dict(zip(CheXpert.label_names, whole.train_dataset.targets[0].tolist(), strict=True))
    assert first["Edema"] == pytest.approx(0.8)
    assert first["Cardiomegaly"] == pytest.approx(0.2)
    assert (first["Consolidation"], first["Atelectasis"]) == (0.0, 1.0)
    assert whole.val_dataloader() == []
    assert (
        -1 <= float(whole.train_dataset[0][0].min()) <= float(whole.train_dataset[0][0].max()) <= 1
    )


def test_what_is_missing_is_named(root, tmp_path):
    with pytest.raises(DatasetUnavailableError, match=r"there is no train\.csv"):
        CheXpert(str(tmp_path / "nowhere")).setup()
    table = root / "train.csv"
    text = table.read_text()
    table.write_text(text.replace("Edema", "Oedema", 1))
    with pytest.raises(DatasetUnavailableError, match="has no column Edema"):
        CheXpert(str(root)).setup()
    table.write_text(text.replace("patient00000", "patient99999"))
    with pytest.raises(DatasetUnavailableError, match="which is not there; unpack"):
        CheXpert(str(root)).setup()
    table.write_text(text.replace("-1.0", "7", 1))
    with pytest.raises(DatasetUnavailableError, match="'7' for"):
        CheXpert(str(root)).setup()
    with pytest.raises(ValueError, match="channels=2"):
        CheXpert(str(root), channels=2)


def test_several_labels_are_learnt_privately(root):
    plan = PlanSettings(20, [8], 10, 2, 6.0, 1e-3, 1.0)
    base = CheXpert(str(root), val_size=0.2, size=16, channels=1, batch_size=10)
    pool = ActivePool(base, initial=20, serve="all", seed=0)
    net = SmallCNN(num_classes=14, in_channels=1, width=4)
    module = MultiLabelClassifier(net, 14, evaluated=range(5))
    strategy = DPSGDStrategy(
        target_epsilon=6.0, delta=1e-3, accountant="rdp", neighbouring="replace_special"
    )
    learning = PrivateActiveLearning(
        plan, Entropy(normalise=True, clip=0.8), multi_label=True, figures=False
    )
    trainer = pl.Trainer(
        strategy=strategy,
        accelerator="cpu",
        callbacks=[learning],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=".",
    )
    trainer.fit(module, datamodule=pool)
    assert strategy.steps == sum(plan.make().steps)
    assert strategy.epsilon() <= 6.0 * (1 + 1e-9)
    report = json.loads(Path("private_active/report.json").read_text())
    assert {"val/auroc", "val/mcc"} <= set(report["curve"][-1])
    (scores,) = trainer.test(module, datamodule=pool, verbose=False)
    assert 0 <= scores["test/auroc"] <= 1
    wrong = MultiLabelClassifier(net, 13)
    with pytest.raises(ConfigurationError, match="num_labels=13, the data have 14"):
        trainer.test(wrong, datamodule=base)
    with pytest.raises(ValueError, match="evaluated"):
        MultiLabelClassifier(net, 3, evaluated=[3])
    assert module.acquisition_forward(torch.zeros(2, 1, 16, 16)).shape == (2, 5)
