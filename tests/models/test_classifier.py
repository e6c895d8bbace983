"""Classifier: checks before the first step, metrics, predictions, optimizers, checkpoints."""

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from sklearn.metrics import log_loss
from torch.utils.data import DataLoader, TensorDataset

from lightning_priv.errors import ConfigurationError, DivergenceError
from lightning_priv.models import Classifier
from lightning_priv.nn import MLP, HyperbolicResNet, ResNet
from lightning_priv.optim import MultiStepLR, RiemannianAdam


class Blobs(LightningDataModule):
    """40 small images of 3 classes that a linear map separates."""

    num_classes = 3
    input_shape = (1, 4, 4)

    def __init__(self, indexed=False, bad=False, batch_size=16):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.y = torch.arange(40) % 3
        x = torch.randn(40, 1, 4, 4, generator=g) + 2 * self.y[:, None, None, None]
        if bad:
            x[7] = float("nan")
        parts = (x, self.y, torch.arange(40)) if indexed else (x, self.y)
        self.x, self.data, self.batch_size = x, TensorDataset(*parts), batch_size

    def train_dataloader(self):
        return DataLoader(self.data, batch_size=self.batch_size)

    def val_dataloader(self):
        return DataLoader(self.data, batch_size=self.batch_size)

    test_dataloader = predict_dataloader = val_dataloader


def trainer(**options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(
        **{"accelerator": "cpu", "max_epochs": 2, "enable_model_summary": False, **quiet, **options}
    )


def test_metrics_equal_scikit_learn_over_unequal_batches():
    model = Classifier(MLP(16, 3), 3)
    data = Blobs()
    (scores,) = trainer().test(model, data, verbose=False)
    with torch.no_grad():
        probs = model(data.x).softmax(1)
    assert scores["test/loss"] == pytest.approx(log_loss(data.y, probs.double()), rel=1e-5)
    accuracy = (probs.argmax(1) == data.y).double().mean()
    assert scores["test/accuracy"] == pytest.approx(accuracy)
    confidence, hit = probs.max(1).values, (probs.argmax(1) == data.y).float()
    bins = torch.bucketize(confidence, torch.linspace(0, 1, 16)) - 1
    gaps = [
        (bins == b).float().mean() * (confidence[bins == b].mean() - hit[bins == b].mean()).abs()
        for b in bins.unique()
    ]
    assert scores["test/ece"] == pytest.approx(float(sum(gaps)), abs=1e-5)


def test_training_lowers_the_loss_and_logs():
    model = Classifier(MLP(16, 3), 3)
    before = trainer().validate(model, Blobs(), verbose=False)[0]
    run = trainer(max_epochs=20)
    run.fit(model, Blobs())
    logged = run.callback_metrics
    assert logged["val/loss"] < before["val/loss"] - 0.3
    assert {"train/loss", "train/loss_step", "train/accuracy", "val/accuracy", "val/ece"} <= set(
        logged
    )


@pytest.mark.parametrize("indexed", [False, True])
def test_predictions_carry_ids(indexed):
    model, data = Classifier(MLP(16, 3), 3), Blobs(indexed)
    out = trainer().predict(model, data)
    probs = torch.cat([batch["probs"] for batch in out])
    torch.testing.assert_close(probs.sum(1), torch.ones(40))
    assert (torch.cat([b["prediction"] for b in out]) == probs.argmax(1)).all()
    assert (torch.cat([b["label"] for b in out]) == data.y).all()
    if indexed:
        assert torch.cat([b["index"] for b in out]).tolist() == list(range(40))
    else:
        assert "index" not in out[0]


def test_other_number_of_classes_is_refused_before_the_first_step():
    with pytest.raises(ConfigurationError, match=r"Blobs has 3 classes; write num_classes: 3"):
        trainer().fit(Classifier(MLP(16, 4), 4), Blobs())
    with pytest.raises(ConfigurationError, match=r"outputs of shape \(4,\).*write num_classes: 3"):
        trainer().fit(Classifier(MLP(16, 4), 3), Blobs())


@pytest.mark.parametrize("net", [ResNet(10, 3, width=4), HyperbolicResNet(10, 3, width=4)])
def test_other_input_shape_is_refused_before_the_first_step(net):
    with pytest.raises(ConfigurationError, match=r"samples of Blobs.*write in_channels: 1"):
        trainer().fit(Classifier(net, 3), Blobs())


def test_the_trial_leaves_the_network_as_it_was():
    net = HyperbolicResNet(10, 3, width=4, in_channels=1)
    net.head.eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    rng = torch.get_rng_state()
    model = Classifier(net, 3)
    model._try_network((1, 4, 4), "Blobs")
    assert net.training
    assert not net.head.training
    assert torch.equal(torch.get_rng_state(), rng)
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key])


def test_an_optimizer_that_ignores_the_manifold_is_refused():
    net = HyperbolicResNet(10, 3, width=4, in_channels=1)
    with pytest.raises(ConfigurationError, match="RiemannianSGD or RiemannianAdam"):
        trainer().fit(Classifier(net, 3, optimizer=torch.optim.Adam), Blobs())


def test_scheduler_is_stepped_once_an_epoch():
    model = Classifier(
        MLP(16, 3),
        3,
        optimizer=lambda p: RiemannianAdam(p, lr=1.0),
        scheduler=lambda o: MultiStepLR(o, [1, 3], 0.5),
    )
    run = trainer(max_epochs=3)
    run.fit(model, Blobs())
    assert run.optimizers[0].param_groups[0]["lr"] == 0.25


def test_a_loss_that_is_no_number_stops_the_training():
    with pytest.raises(DivergenceError, match=r"training loss is nan at step 0; lower"):
        trainer(num_sanity_val_steps=0).fit(Classifier(MLP(16, 3), 3), Blobs(bad=True))


def test_values_that_are_no_numbers_are_not_evaluated():
    for method in ("validate", "test", "predict"):
        with pytest.raises(DivergenceError, match="inputs hold NaN"):
            getattr(trainer(), method)(Classifier(MLP(16, 3), 3), Blobs(bad=True))
    model = Classifier(MLP(16, 3), 3)
    torch.nn.init.constant_(model.net.head.bias, float("inf"))
    with pytest.raises(DivergenceError, match="network's outputs hold NaN"):
        trainer().test(model, Blobs())


def test_checkpoint_loads_with_weights_only(tmp_path):
    net = HyperbolicResNet(10, 3, width=4, in_channels=1)
    run = trainer(max_epochs=1)
    run.fit(Classifier(net, 3), Blobs())
    run.save_checkpoint(tmp_path / "model.ckpt")
    torch.load(tmp_path / "model.ckpt", weights_only=True)
    fresh = HyperbolicResNet(10, 3, width=4, in_channels=1)
    loaded = Classifier.load_from_checkpoint(tmp_path / "model.ckpt", net=fresh).eval()
    x = torch.randn(2, 1, 4, 4)
    torch.testing.assert_close(loaded(x), net.eval()(x))


def test_two_classes_at_least():
    with pytest.raises(ValueError, match="at least 2"):
        Classifier(MLP(16, 1), 1)


def test_calibration_error_of_logits_that_look_like_probabilities():
    model = Classifier(torch.nn.Flatten(), 16)
    x = torch.rand(40, 1, 4, 4)
    y = torch.arange(40) % 16
    probs = x.flatten(1).softmax(1)
    model.test_scores(probs, y)
    want = model.test_scores.compute()["test/ece"]
    model.test_scores.reset()
    model.log = model.log_dict = lambda *_, **__: None
    model.test_step((x, y), 0)
    torch.testing.assert_close(model.test_scores.compute()["test/ece"], want)
    assert want < 0.3


def test_an_optimizer_from_elsewhere_is_checked_too():
    class Override(Classifier):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    net = HyperbolicResNet(10, 3, width=4, in_channels=1)
    with pytest.raises(ConfigurationError, match="SGD ignores the manifold"):
        trainer().fit(Override(net, 3), Blobs())


def test_parameters_of_the_loss_are_trained():
    class Temperature(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.log_t = torch.nn.Parameter(torch.zeros(()))

        def forward(self, logits, y):
            return torch.nn.functional.cross_entropy(logits / self.log_t.exp(), y)

    model = Classifier(MLP(16, 3), 3, loss=Temperature())
    trainer().fit(model, Blobs())
    assert model.loss.log_t != 0


def test_a_scheduler_that_watches_a_metric():
    model = Classifier(
        MLP(16, 3),
        3,
        optimizer=lambda p: RiemannianAdam(p, lr=1.0),
        scheduler=lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=10),
    )
    run = trainer(max_epochs=4)
    run.fit(model, Blobs())
    assert run.optimizers[0].param_groups[0]["lr"] < 1.0


def test_a_network_of_token_ids():
    class Tokens(Blobs):
        input_shape = (5,)

        def __init__(self):
            super().__init__()
            ids = torch.randint(0, 7, (40, 5), generator=torch.Generator().manual_seed(0))
            self.data = TensorDataset(ids, self.y)

    net = torch.nn.Sequential(torch.nn.Embedding(7, 4), torch.nn.Flatten(), torch.nn.Linear(20, 3))
    run = trainer()
    run.fit(Classifier(net, 3), Tokens())
    assert "val/accuracy" in run.callback_metrics
