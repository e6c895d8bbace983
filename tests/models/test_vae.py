"""Autoencoders train, log the parts of their loss, and refuse data that do not fit."""

import math
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch.testing import assert_close
from torchmetrics.image.fid import FrechetInceptionDistance

from lightning_priv.callbacks import GenerationQuality, LatentPictures
from lightning_priv.data import Digits, PhotoPatches
from lightning_priv.errors import ConfigurationError, DivergenceError, UnsupportedModuleError
from lightning_priv.models import Classifier, HyperbolicVAE
from lightning_priv.nn import MLP, VAENetwork
from lightning_priv.optim import RiemannianAdam

VARIANTS = ("e", "el", "ep", "l")


def net(variant="l", width=4, **options):
    return VAENetwork(8, 1, variant, encoder_layers=2, decoder_layers=2, width=width, **options)


def trainer(**options):
    settings = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return Trainer(**{**settings, **options})


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_few_steps(variant, precision):
    seed_everything(0, verbose=False)
    module = HyperbolicVAE(net(variant), 0.3, optimizer=lambda p: RiemannianAdam(p, lr=1e-2))
    run = trainer(max_epochs=1, limit_train_batches=4, limit_val_batches=2, precision=precision)
    run.fit(module, Digits(batch_size=50))
    logged = {name: float(value) for name, value in run.callback_metrics.items()}
    for stage in ("train", "val"):
        loss, kl = logged[f"{stage}/loss"], logged[f"{stage}/kl"]
        assert math.isfinite(loss)
        assert loss == pytest.approx(logged[f"{stage}/reconstruction"] + 0.3 * kl, rel=1e-4)
        assert logged[f"{stage}/negative_elbo"] == pytest.approx(loss + 0.7 * kl, rel=1e-4)
    assert 0 < logged["val/mse"] < 1
    assert all(torch.isfinite(p).all() for p in module.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_twenty_epochs_of_the_lorentz_network_have_no_nan(precision):
    seed_everything(0, verbose=False)
    module = HyperbolicVAE(net(width=16), 0.024, optimizer=lambda p: RiemannianAdam(p, lr=1e-2))
    run = trainer(max_epochs=20, precision=precision)
    run.fit(module, Digits(batch_size=100))
    assert run.global_step == 20 * 13
    assert all(torch.isfinite(p).all() for p in module.parameters())
    assert float(run.callback_metrics["val/mse"]) < 0.055  # 0.075 is that of the mean image


def test_the_loss_is_half_the_squared_error_and_the_weighted_divergence():
    torch.manual_seed(0)
    module = HyperbolicVAE(net("e"), 0.3).eval()
    x = torch.rand(7, 1, 8, 8)
    torch.manual_seed(1)
    parts = module._parts((x, torch.zeros(7)))
    torch.manual_seed(1)
    posterior = module.net.encode(x)
    z = posterior.rsample()
    mean, variance = posterior.mean, posterior.variance
    kl = 0.5 * (variance + mean.square() - variance.log() - 1).sum(1)
    error = 0.5 * (x - module.net.decode(z)).square().sum((1, 2, 3))
    assert_close(parts["loss"], error + 0.3 * kl)


def test_predictions_samples_and_lines():
    module = HyperbolicVAE(net(k=2.0)).eval()
    x = torch.rand(6, 1, 8, 8)
    out = module.predict_step((x, torch.arange(6), torch.arange(6)), 0)
    assert set(out) == {"latent", "radius", "reconstruction", "label", "index"}
    assert out["latent"].shape == (6, 3)
    assert_close(out["reconstruction"], module(x))
    assert module.sample(5).shape == (5, 1, 8, 8)
    lines = module.interpolate(x[:3], x[3:], 4)
    assert lines.shape == (3, 4, 1, 8, 8)
    assert_close(lines[:, 0], module(x[:3]), rtol=1e-4, atol=1e-5)
    assert_close(lines[:, -1], module(x[3:]), rtol=1e-4, atol=1e-5)


def test_pictures_and_distances_of_a_test(tmp_path):
    seed_everything(0, verbose=False)
    module = HyperbolicVAE(net("el"))
    callbacks = [LatentPictures(images=3, steps=4), GenerationQuality(offline_epochs=1)]
    results = []
    for _ in range(2):
        run = trainer(callbacks=callbacks, default_root_dir=str(tmp_path))
        torch.manual_seed(4)
        results += run.test(module, Digits(batch_size=100), verbose=False)
    names = [
        f"test/{m}_offline_{w}" for m in ("fid", "kid") for w in ("reconstruction", "generation")
    ]
    assert all(math.isfinite(results[0][name]) for name in names)
    # the extractor is trained from its own seed: the same scale in every run
    assert results[0] == pytest.approx(results[1], rel=1e-4)
    files = {p.name for p in tmp_path.rglob("media/latent/*.png")}
    assert files == {
        *("reconstruction.png", "samples.png", "interpolation.png", "radius.png", "disk.png"),
    }


class Perfect(HyperbolicVAE):
    """Gives back what it gets, and draws from the images it has seen."""

    def encode_mean(self, x):
        self.seen = x
        return x

    def decode(self, z):
        return z

    def sample(self, count):
        return torch.rand(count, 1, 8, 8)

    def interpolate(self, a, b, steps):
        return a[:, None].expand(-1, steps, -1, -1, -1)

    def radius(self, z):
        return z.flatten(1).norm(dim=1)


class Pixels(torch.nn.Module):
    num_features = 64
    seen = 0

    def forward(self, x):
        assert x.dtype == torch.float32
        assert not torch.is_autocast_enabled("cpu")
        self.seen += len(x)
        return x.flatten(1)


def test_distances_of_a_perfect_and_of_a_blind_generator():
    """Reconstructions that are the images have the distance of two samples of one law: near 0."""
    pixels = Pixels()
    quality = GenerationQuality(pixels, kid_subset_size=50)
    (result,) = trainer(callbacks=[quality], precision="bf16-mixed").test(
        Perfect(net("e")), Digits(batch_size=100), verbose=False
    )
    # every real, drawn and reconstructed image once: 360, 360 and the 144 to validate on
    assert pixels.seen == 360 + 360 + 144
    data = Digits(batch_size=100)
    data.setup()
    direct = FrechetInceptionDistance(feature=Pixels())
    direct.update(data.test_dataset.inputs(), real=True)
    direct.update(data.val_dataset.inputs(), real=False)
    assert result["test/fid_reconstruction"] == pytest.approx(float(direct.compute()), rel=1e-3)
    assert result["test/fid_reconstruction"] < 0.3
    assert abs(result["test/kid_reconstruction"]) < 0.05
    assert result["test/fid_generation"] > 4
    assert result["test/kid_generation"] > 0.2


def test_processes_draw_different_images_and_leave_the_runs_random_numbers():
    """They start from one seed, and their images count as one sample."""
    quality = GenerationQuality(Pixels())
    drawn = []
    quality._update = lambda names, images, real: None if real else drawn.append(images)
    module = HyperbolicVAE(net("el")).eval()
    with torch.no_grad():
        for rank, batch in ((0, 0), (1, 0), (0, 1), (0, 0)):
            seed_everything(3, verbose=False)
            before = torch.get_rng_state()
            process = SimpleNamespace(global_rank=rank)
            quality.on_test_batch_end(process, module, None, torch.zeros(4, 1, 8, 8), batch)
            assert torch.equal(torch.get_rng_state(), before)
    first, second, later, again = drawn
    assert not torch.isclose(first, second).all((1, 2, 3)).any()
    assert not torch.isclose(first, later).all((1, 2, 3)).any()
    assert_close(first, again, rtol=0, atol=0)


def test_what_does_not_fit_is_refused():
    data = Digits(batch_size=50)
    wide = VAENetwork(16, 1, "e", encoder_layers=2, decoder_layers=2, width=4)
    with pytest.raises(ConfigurationError, match=r"shape \(1, 8, 8\).*image_size: 8 in the net"):
        trainer(max_epochs=1).fit(HyperbolicVAE(wide), data)
    colours = VAENetwork(32, 3, "e", width=2)
    with pytest.raises(ConfigurationError, match="normalize: false in the data"):
        trainer(max_epochs=1).fit(HyperbolicVAE(colours), PhotoPatches(max_per_class=5))
    with pytest.raises(ValueError, match="kl_coeff must be at least 0"):
        HyperbolicVAE(net(), -1.0)
    module = HyperbolicVAE(net())
    with pytest.raises(DivergenceError, match=r"values in \[2, 2\].*scale the data"):
        module._evaluate("val", torch.full((2, 1, 8, 8), 2.0))
    module = HyperbolicVAE(net("e"))
    with torch.no_grad():
        module.net.mean_head.weight.fill_(float("nan"))
    with pytest.raises(DivergenceError, match="NaN"):
        module._parts(torch.rand(3, 1, 8, 8))
    plain = Classifier(MLP(64, 10), num_classes=10)
    for callback in (LatentPictures(), GenerationQuality()):
        with pytest.raises(UnsupportedModuleError, match="HyperbolicVAE"):
            trainer(callbacks=[callback]).test(plain, data, verbose=False)
    with pytest.raises(ConfigurationError, match="val_size"):
        trainer(callbacks=[GenerationQuality()]).test(
            HyperbolicVAE(net()), Digits(val_size=0), verbose=False
        )
    with pytest.raises(ConfigurationError, match="Flatten must say how many features"):
        trainer(callbacks=[GenerationQuality(torch.nn.Flatten())]).test(
            HyperbolicVAE(net("e")), data, verbose=False
        )
    with pytest.raises(ConfigurationError, match="kid_subset_size=5000"):
        trainer(callbacks=[GenerationQuality(Pixels(), kid_subset_size=5000)]).test(
            HyperbolicVAE(net("e")), data, verbose=False
        )
    for arguments in ({"images": 1}, {"steps": 1}, {"points": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(arguments))}="):
            LatentPictures(**arguments)
    with pytest.raises(ValueError, match="kid_subset_size=1"):
        GenerationQuality(kid_subset_size=1)
