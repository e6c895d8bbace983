"""LSIProbe: what it scores, that it leaves no trace in the training, and how it is interrupted."""

import csv
import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from gloo_pool import GlooPool
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from lightning_priv.callbacks import LSIProbe
from lightning_priv.callbacks._extraction import extract, features_folder
from lightning_priv.callbacks._layer_features import LayerFeatures
from lightning_priv.callbacks._training_samples import find_samples, take_apart
from lightning_priv.data import Digits, MNIST5k
from lightning_priv.errors import ConfigurationError, UnsupportedModuleError
from lightning_priv.functional import Shards, log_map_origin, lsi_scores, to_point
from lightning_priv.functional.poincare import ball_log_map_origin
from lightning_priv.models import Classifier
from lightning_priv.nn import MLP, HyperbolicResNet
from lightning_priv.reports.information import Corruption, Scoring
from lightning_priv.strategies import DPSGDStrategy

FEW: dict[str, Any] = {"covariance": ("full",), "baselines": (), "figures": False, "wandb": False}


class Noisy(nn.Module):
    """A network with running statistics and random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(0.3))
        self.body = nn.Sequential(nn.Linear(64, 12), nn.ReLU())
        self.head = nn.Linear(12, 10)
        self.unused = nn.Linear(3, 3)  # registered last, never called

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.entry(x)))


class Trace(Callback):
    """The loss of each step, and what stood there before it."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.generators: list[Tensor] = []
        self.modes: list[bool] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(float(outputs["loss"]))
        self.generators.append(torch.get_rng_state())
        self.modes.append(all(m.training for m in pl_module.modules()))


def fit(*callbacks: Callback, epochs: int = 2, **options: Any) -> tuple[Trainer, Any, Trace]:
    seed_everything(1, verbose=False)
    trace = Trace()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        default_root_dir="runs",
        logger=CSVLogger("runs", name=None),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[*callbacks, trace],
        **options,
    )
    model = Classifier(Noisy(), 10)
    trainer.fit(model, datamodule=Digits(batch_size=256, val_size=0.1))
    return trainer, model, trace


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def loaded(data: Any) -> Any:
    data.setup()
    return data


def quiet(**options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, default_root_dir="runs", **options,
    )  # fmt: skip


def test_training_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    probe = LSIProbe(when="every_n_epochs", max_samples=300, **FEW)
    _, plain_model, plain = fit()
    _, model, watched = fit(probe, limit_train_batches=3)
    assert watched.losses == plain.losses[:3] + watched.losses[3:]
    _, model, watched = fit(LSIProbe(when="every_n_epochs", max_samples=300, **FEW))
    assert watched.losses == plain.losses
    assert all(watched.modes)
    for ours, theirs in zip(watched.generators, plain.generators, strict=True):
        assert torch.equal(ours, theirs)
    for name, value in plain_model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    # one row for each asked sample, whatever part of the loader was trained on
    folders = sorted(Path("runs").glob("version_*/lsi/epoch=*"))
    assert [p.name for p in folders] == ["epoch=00", "epoch=01"] * 2
    rows = table(folders[0] / "scores.csv")
    assert len({row["index"] for row in rows}) == len(rows) == 300


def test_gradients_stay_and_the_drift_is_drawn() -> None:
    class Inspect(Callback):
        seen = 0

        def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
            self.grads = [p.grad.clone() for p in pl_module.parameters() if p.grad is not None]

        def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
            if trainer.current_epoch:
                now = [p.grad for p in pl_module.parameters() if p.grad is not None]
                assert all(map(torch.equal, now, self.grads))
                self.seen += 1

    inspect = Inspect()
    options = {**FEW, "wandb": True}
    fit(inspect, LSIProbe(when="every_n_epochs", max_samples=120, **options))
    assert inspect.seen == 1
    assert Path("runs/version_0/media/lsi/drift.png").is_file()


@pytest.fixture(scope="module")
def trained() -> tuple[Classifier, Digits]:
    torch.manual_seed(0)
    data = Digits(batch_size=128, val_size=0.1, indexed=True)
    data.setup()
    return Classifier(Noisy(), 10), data


def test_scores_are_those_of_the_function(trained: tuple[Classifier, Digits]) -> None:
    model, data = trained
    probe = LSIProbe(baselines=("el2n",), covariance=("full", "diag"), figures=False, wandb=False)
    scores = probe.score(quiet(), model, data)
    net = model.net.eval()
    with torch.no_grad():
        x = net.body(net.entry(data.plain_train_dataset.inputs()))
    y = data.plain_train_dataset.targets
    expected = lsi_scores(x, y, 1.0)
    ids = data.train_dataset.ids
    assert scores.columns["index"].tolist() == ids.tolist()
    np.testing.assert_allclose(scores.columns["lsi_full"], expected.scores, rtol=1e-4)
    parts = scores.columns["lsi_full_quad"] + scores.columns["lsi_full_curv"]
    np.testing.assert_allclose(scores.columns["lsi_full"], parts, rtol=1e-12)
    assert scores.facts["feature_layer"] == "net.head"
    assert scores.columns["lsi_rank"][np.argmax(scores.columns["lsi_full"])] == 1
    summary = json.loads(Path("runs/lsi/epoch=00/summary.json").read_text())
    assert summary["n"] == len(y)
    assert summary["gradient_norm"] < 1e-8
    assert not list(Path("runs/lsi_features").iterdir())  # scored, so no longer kept


def test_auto_is_the_input_of_the_last_called_layer(trained: tuple[Classifier, Digits]) -> None:
    model, data = trained
    by_hand: list[Any] = [
        "net.body",
        lambda batch: model.net.body(model.net.entry(batch[0])),
    ]
    found = [
        LSIProbe(feature_layer=layer, max_samples=200, **FEW).score(quiet(), model, data)
        for layer in ["auto", *by_hand]
    ]
    for other in found[1:]:
        assert np.array_equal(found[0].columns["lsi_full"], other.columns["lsi_full"])


def test_wrong_layers_are_named(trained: tuple[Classifier, Digits]) -> None:
    model, data = trained
    with pytest.raises(UnsupportedModuleError, match=r"no sub-module.*net\.head"):
        LSIProbe(feature_layer="net.tail", **FEW).score(quiet(), model, data)
    with pytest.raises(UnsupportedModuleError, match="was not called"):
        LSIProbe(feature_layer="net.unused", **FEW).score(quiet(), model, data)
    with pytest.raises(UnsupportedModuleError, match="calls no nn"):
        LSIProbe(**FEW).score(quiet(), Classifier(nn.Flatten(), 10), data)


@pytest.mark.parametrize("variant", ["l", "el", "ep", "e"])
def test_hyperbolic_points_become_tangent_vectors(variant: Any) -> None:
    torch.manual_seed(0)
    net = HyperbolicResNet(10, 10, variant=variant, in_channels=1, width=4, k=2.0)
    model = Classifier(net, 10).eval()
    x = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        found = LayerFeatures(model)([x], x)
        points = net.features(x).double()
    if variant == "ep":
        expected = ball_log_map_origin(points, 0.5)
    elif variant == "e":
        expected = points
    else:
        expected = log_map_origin(to_point(points, 2.0), 2.0)
    torch.testing.assert_close(found.double(), expected)


def test_hyperbolic_network_is_scored() -> None:
    torch.manual_seed(0)
    net = HyperbolicResNet(10, 10, variant="l", in_channels=1, width=4)
    scores = LSIProbe(max_samples=150, **FEW).score(quiet(), Classifier(net, 10), loaded(Digits()))
    assert np.all(scores.columns["lsi_full"] >= 0)
    assert np.isfinite(scores.columns["lsi_full"]).all()


# -- projects of others ----------------------------------------------------------------------------


class Foreign(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = MLP(64, 10, hidden=(16,))

    def forward(self, image: Tensor, scale: Tensor | None = None) -> Tensor:
        return self.net(image if scale is None else image * scale[:, None])


class Augmented(Dataset[Any]):
    """As torchvision's data sets: a random transform, labels beside it."""

    def __init__(self, transform: Any) -> None:
        digits = Digits(val_size=0)
        digits.setup()
        self.images = digits.plain_train_dataset.inputs().flatten(1)[:200]
        self.targets = digits.train_dataset.targets[:200].tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, position: int) -> Any:
        x = self.images[position]
        return (x if self.transform is None else self.transform(x)), self.targets[position]


class ForeignData(pl.LightningDataModule):
    def __init__(self, dataset: Any, **options: Any) -> None:
        super().__init__()
        self.dataset, self.options = dataset, options

    def train_dataloader(self) -> Any:
        return DataLoader(self.dataset, batch_size=32, **self.options)


def identity(x: Tensor) -> Tensor:
    return x


def scored(data: Any, model: Any = None, **options: Any) -> Any:
    torch.manual_seed(0)
    return LSIProbe(**{**FEW, **options}).score(quiet(), model or Foreign(), data)


def test_strangers_loaders_are_read_in_order_and_without_augmentation() -> None:
    plain = scored(ForeignData(Augmented(None), shuffle=False))
    assert plain.columns["label"].tolist() == Augmented(None).targets
    shuffled = scored(ForeignData(Augmented(None), shuffle=True))
    assert np.array_equal(plain.columns["lsi_full"], shuffled.columns["lsi_full"])
    noisy = Augmented(lambda x: x + torch.randn_like(x))
    with pytest.warns(UserWarning, match="eval_transform"):
        other = scored(ForeignData(noisy, shuffle=True))
    assert not np.array_equal(plain.columns["lsi_full"], other.columns["lsi_full"])
    mended = scored(ForeignData(noisy, shuffle=True), eval_transform=identity)
    assert np.array_equal(plain.columns["lsi_full"], mended.columns["lsi_full"])
    assert noisy.transform is not identity  # the one that trains is left alone
    part = scored(ForeignData(Subset(noisy, range(50, 200)), shuffle=True), eval_transform=identity)
    assert part.columns["label"].tolist() == noisy.targets[50:]


def test_mappings_are_read_by_their_keys() -> None:
    class Mapped(Augmented):
        def __getitem__(self, position: int) -> Any:
            x, y = super().__getitem__(position)
            return {"image": x, "scale": torch.tensor(1.0), "label": y, "index": position}

    plain = scored(ForeignData(Augmented(None)))
    mapped = scored(ForeignData(Mapped(None)))
    np.testing.assert_allclose(plain.columns["lsi_full"], mapped.columns["lsi_full"], rtol=1e-6)
    inputs, labels, ids = take_apart({"x": torch.zeros(2, 3), "y": torch.ones(2), "id": [4, 5]})
    assert inputs.shape == (2, 3)
    assert (labels.tolist(), None if ids is None else ids.tolist()) == ([1, 1], [4, 5])
    with pytest.raises(UnsupportedModuleError, match="the keys"):
        take_apart({"image": torch.zeros(2)})


def test_given_loader_is_taken_as_it_is() -> None:
    dataset = Augmented(None)

    class Given(ForeignData):
        def lsi_dataloader(self) -> Any:
            return DataLoader(dataset, batch_size=64, shuffle=self.options["shuffle"])

    plain = scored(ForeignData(dataset))
    given = scored(Given(dataset, shuffle=False))
    np.testing.assert_allclose(plain.columns["lsi_full"], given.columns["lsi_full"], rtol=1e-5)
    with pytest.raises(UnsupportedModuleError, match="shuffles and its batches name no sample"):
        scored(Given(dataset, shuffle=True))
    with pytest.raises(UnsupportedModuleError, match="leave classes, max_samples"):
        scored(Given(dataset, shuffle=False), max_samples=10)

    class Named(ForeignData):
        def lsi_dataloader(self) -> Any:
            x, y = dataset.images, torch.tensor(dataset.targets)
            return DataLoader(TensorDataset(x, y, torch.arange(200) + 7), 64, shuffle=True)

    named = scored(Named(dataset))
    assert named.columns["index"].tolist() == list(range(7, 207))
    np.testing.assert_allclose(plain.columns["lsi_full"], named.columns["lsi_full"], rtol=1e-5)


def test_what_cannot_be_read_is_said() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            yield from ()

    class Two(ForeignData):
        def train_dataloader(self) -> Any:
            return {"a": DataLoader(self.dataset), "b": DataLoader(self.dataset)}

    with pytest.raises(UnsupportedModuleError, match="cannot read Stream by position"):
        scored(ForeignData(Stream()))
    with pytest.raises(UnsupportedModuleError, match=r"type dict.*lsi_dataloader"):
        scored(Two(Augmented(None)))
    with pytest.raises(UnsupportedModuleError, match="has no forward"):
        scored(ForeignData(Augmented(None)), model=pl.LightningModule())
    nothing = TensorDataset(torch.zeros(20, 64), torch.zeros(20).long())
    with pytest.raises(UnsupportedModuleError, match="no attribute targets"):
        scored(ForeignData(nothing), classes=[0])
    with pytest.raises(UnsupportedModuleError, match="no attribute transform"):
        scored(ForeignData(nothing), eval_transform=identity)
    repeated = TensorDataset(torch.zeros(20, 64), torch.zeros(20).long(), torch.zeros(20).long())

    class Repeating(ForeignData):
        def lsi_dataloader(self) -> Any:
            return DataLoader(repeated, 8)

    with pytest.raises(ValueError, match="comes more than once"):
        scored(Repeating(repeated))


def test_a_choice_of_classes_and_samples(trained: tuple[Classifier, Digits]) -> None:
    model, data = trained
    some = LSIProbe(classes=[3, 5], max_samples=40, **FEW).score(quiet(), model, data)
    assert set(some.columns["label"].tolist()) == {3, 5}
    assert len(some) == 40
    with pytest.raises(UnsupportedModuleError, match="has no sample"):
        LSIProbe(classes=[77], **FEW).score(quiet(), model, data)


def test_nan_features_name_samples(trained: tuple[Classifier, Digits]) -> None:
    model, data = trained

    def broken(batch: Any) -> Tensor:
        return torch.where(batch[2][:, None] == 9, float("nan"), batch[0].flatten(1))

    with pytest.raises(ValueError, match=r"1 samples have NaN.*\[9\]"):
        LSIProbe(feature_layer=broken, **FEW).score(quiet(), model, data)


# -- interruptions, privacy, corruption ------------------------------------------------------------


def test_goes_on_from_kept_features(
    trained: tuple[Classifier, Digits], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = trained
    calls = []
    hook = model.net.head.register_forward_hook(lambda *args: calls.append(1))
    whole = LSIProbe(max_samples=300, **FEW).score(quiet(), model, data)
    once = len(calls)
    with monkeypatch.context() as patch:
        patch.setattr(Scoring, "score", lambda *args: (_ for _ in ()).throw(RuntimeError("power")))
        with pytest.raises(RuntimeError, match="power"):
            LSIProbe(max_samples=300, **FEW).score(quiet(), model, data)
    assert len(list(Path("runs/lsi_features").glob("*/0-of-1.json"))) == 1
    assert len(calls) == 2 * once
    with pytest.warns(UserWarning, match="goes on from the features"):
        resumed = LSIProbe(max_samples=300, **FEW).score(quiet(), model, data)
    assert len(calls) == 2 * once  # no forward was needed
    assert np.array_equal(whole.columns["lsi_full"], resumed.columns["lsi_full"])
    # other weights do not take them
    LSIProbe(max_samples=300, keep_features=True, **FEW).score(quiet(), model, data)
    with torch.no_grad():
        model.net.body[0].bias[0] += 0.5
    before = len(calls)
    LSIProbe(max_samples=300, **FEW).score(quiet(), model, data)
    assert len(calls) > before
    hook.remove()


def test_mended_labels_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Same network and inputs, other labels: what an earlier run kept must not be taken."""

    class Bare(Dataset[Any]):  # shows no labels without the inputs
        def __init__(self, labels: Tensor) -> None:
            self.x, self.y = Augmented(None).images, labels

        def __len__(self) -> int:
            return len(self.y)

        def __getitem__(self, position: int) -> Any:
            return self.x[position], self.y[position]

    labels = torch.tensor(Augmented(None).targets)
    missing = labels.masked_fill(torch.arange(200) == 8, -1)
    with pytest.raises(ValueError, match="leave unlabelled samples out: by classes"):
        scored(ForeignData(Bare(missing)))
    assert scored(ForeignData(Bare(labels))).columns["label"].tolist() == labels.tolist()

    class Shown(Bare):
        def __init__(self, labels: Tensor) -> None:
            super().__init__(labels)
            self.targets = labels

    options = {"keep_features": True}
    first = scored(ForeignData(Shown(labels)), **options).columns["label"]
    other = labels.roll(1)
    other[[0, 25, 50, 75, 99, 100, 124, 149, 174, 199]] = labels[
        [0, 25, 50, 75, 99, 100, 124, 149, 174, 199]
    ]  # the same where single samples are looked at
    second = scored(ForeignData(Shown(other)), **options).columns["label"]
    assert first.tolist() == labels.tolist()
    assert second.tolist() == other.tolist()


def test_words_as_labels_are_refused() -> None:
    class Words(Augmented):
        def __getitem__(self, position: int) -> Any:
            x, y = super().__getitem__(position)
            return x, f"digit {y}"

    with pytest.raises(UnsupportedModuleError, match=r"type str \('digit 0'\); give numbers"):
        scored(ForeignData(Words(None)))


def test_failure_can_be_a_warning() -> None:
    probe = LSIProbe(feature_layer="nowhere", fail="warn", **FEW)
    with pytest.warns(UserWarning, match="LSIProbe failed"):
        fit(probe, epochs=1)
    with pytest.raises(UnsupportedModuleError):
        fit(LSIProbe(feature_layer="nowhere", **FEW), epochs=1)


@pytest.mark.parametrize("log_private", [False, True])
def test_private_training_is_marked(log_private: bool) -> None:
    strategy = DPSGDStrategy(noise_multiplier=1.0, seed=0, deterministic=True)
    options = {**FEW, "wandb": True, "log_private": log_private, "max_samples": 100}
    seed_everything(1, verbose=False)
    logger = CSVLogger("runs", name=None)
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, default_root_dir="runs", logger=logger,
        enable_progress_bar=False, enable_model_summary=False, strategy=strategy,
        callbacks=[LSIProbe(**options)], log_every_n_steps=1,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="epsilon does not cover them"):
        trainer.fit(Classifier(MLP(64, 10), 10), datamodule=Digits(batch_size=256))
    folder = Path("runs/version_0/private/lsi/epoch=00")
    assert "No epsilon" in (folder / "NOT_PRIVATE.txt").read_text()
    assert "no epsilon" in json.loads((folder / "summary.json").read_text())["private"]
    assert len(table(folder / "scores.csv")) == 100
    assert not Path("runs/version_0/lsi").exists()
    assert not Path("runs/version_0/media/lsi").exists()
    logged = Path("runs/version_0/metrics.csv").read_text().splitlines()[0].split(",")
    assert not [name for name in logged if name.startswith("lsi/")]
    assert ("private/lsi/mean" in logged) == log_private
    assert Path("runs/version_0/media/private/lsi/ranking.csv").is_file() == log_private
    assert strategy.steps == trainer.global_step  # the scoring was no step


def test_corruption_is_found_and_logged() -> None:
    probe = LSIProbe(
        corrupt=Corruption(frac=0.1, seed=3), baselines=("loss", "el2n"), covariance=("full",)
    )
    fit(probe, epochs=4)
    folder = Path("runs/version_0/lsi/epoch=03")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["detection"]["lsi_full"]["auroc"] > 0.9
    rows = table(folder / "scores.csv")
    flipped = [row for row in rows if row["corrupted"] == "1"]
    assert len(flipped) == int(0.1 * len(rows))
    assert all(row["label"] != row["true_label"] for row in flipped)
    logged = Path("runs/version_0/metrics.csv").read_text().splitlines()[0]
    assert "lsi/auroc/el2n" in logged
    for name in ("detection", "extremes", "classes", "ranking"):
        assert (folder / f"{name}.png").is_file()
    assert Path("runs/version_0/media/lsi/ranking.csv").is_file()


def test_prior_precision_from_weight_decay() -> None:
    class Decaying(Foreign):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1, weight_decay=0.01)

    probe = LSIProbe(prior_precision="weight_decay", **FEW)
    trainer = quiet(max_epochs=1)
    trainer.callbacks.append(probe)
    trainer.fit(Decaying(), datamodule=ForeignData(Augmented(None)))
    assert probe.scores is not None
    assert probe.scores.facts["prior_precision"] == pytest.approx(2.0)  # 200 * 0.01
    with pytest.raises(ConfigurationError, match="no optimizer of the run has a weight decay"):
        scored(ForeignData(Augmented(None)), prior_precision="weight_decay")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"prior_precision": 0.0}, "above 0"),
        ({"covariance": ()}, "at least one"),
        ({"top_k": 0}, "top_k"),
        ({"every_n_epochs": 0}, "every_n_epochs"),
        ({"cv_folds": 1}, "cv_folds"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        LSIProbe(**options)


def test_validate_scores_with_when_manual() -> None:
    trainer = quiet()
    probe = LSIProbe(when="manual", max_samples=100, **FEW)
    trainer.callbacks.append(probe)
    trainer.validate(Classifier(Noisy(), 10), datamodule=Digits(), verbose=False)
    assert probe.scores is not None
    assert len(probe.scores) == 100


def test_pictures_go_to_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = WandbLogger(save_dir="runs", mode="disabled")
    tables: dict[str, Any] = {}
    monkeypatch.setattr(
        logger, "log_table", lambda key, columns, data, step=None: tables.update({key: data})
    )
    trainer = Trainer(
        accelerator="cpu", logger=logger, enable_progress_bar=False, default_root_dir="runs"
    )
    model, data = Classifier(Noisy(), 10), loaded(Digits())
    options = {**FEW, "wandb": True, "log_images": 6, "max_samples": 100}
    scores = LSIProbe(**options).score(trainer, model, data)
    rows = tables["lsi/scores"]
    assert len(rows) == 6
    assert type(rows[0][0]).__name__ == "Image"
    best = int(np.argmin(scores.columns["lsi_rank"]))
    assert rows[0][1:3] == [scores.columns["index"][best], scores.columns["label"][best]]
    where = data.train_dataset.ids.tolist().index(rows[0][1])
    shown = np.asarray(rows[0][0].image)
    digit = data.plain_train_dataset.inputs()[where, 0].numpy()
    np.testing.assert_allclose(shown.reshape(8, 8, -1)[..., 0], digit * 255, atol=1)
    assert "lsi/ranking" in tables


# -- several processes -----------------------------------------------------------------------------


def _score(rank: int, memory_gib: float = 4.0, estimator: Any = "alo_sketch") -> Any:
    """All columns, and what the class sets tell, by one of the processes."""
    torch.manual_seed(0)
    model, data = Classifier(Noisy(), 10), Digits(batch_size=100, val_size=0.1)
    data.setup()
    samples = find_samples(quiet(), model, data, max_samples=401)  # 5 batches, the last of one
    shards = Shards.of_process_group()
    folder = features_folder(Path("runs/shared"), model, samples, "auto", shards)
    own, _ = extract(quiet(), model, data, samples, "auto", shards, folder)
    scoring = Scoring(
        baselines=("loss", "cl_margin", "pvi", "knn_shapley", "trak"),
        estimator=estimator, sketch_dim=16, sets="classes", memory_gib=memory_gib,
        chunk_rows=64, standardize="zscore",
    )  # fmt: skip
    found = scoring.score(own.features, own.labels, own.ids, Corruption("feature", 0.1), shards)
    assert found.facts["streamed"] == (memory_gib == 0)
    assert shards.world_size == 1 or len(own.ids) < 401  # no process has all features
    return {**found.columns, **{f"sets {name}": v for name, v in (found.sets or {}).items()}}


@pytest.mark.ddp
def test_two_and_three_processes_score_as_one(gloo_pool: GlooPool) -> None:
    alone = _score(0)
    assert len(set(alone["index"].tolist())) == 401
    assert alone["corrupted"].sum() == 40
    three = GlooPool(3)
    try:
        answers = [
            *gloo_pool.run(_score),
            *three.run(_score),
            *three.run(_score, 0.0),  # from files, in pieces
        ]
    finally:
        three.close()
    for found in answers:
        assert list(found) == list(alone)
        for name, values in found.items():
            np.testing.assert_allclose(values, alone[name], rtol=1e-9, atol=1e-15, err_msg=name)


def test_mnist_pictures_are_read_lazily() -> None:
    data = loaded(MNIST5k(val_size=0))
    scores = LSIProbe(
        max_samples=60, covariance=("diag",), baselines=(), log_images=4, wandb=False
    ).score(quiet(), Classifier(MLP(784, 10, hidden=(8,)), 10), data)
    assert scores.primary == "lsi_diag"
    assert Path("runs/lsi/epoch=00/extremes.png").is_file()
