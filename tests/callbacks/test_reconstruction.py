"""The audit of a running private training: neutral, and right about the noise."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from private_kit import REPEATABLE, fit, weights
from scipy import stats
from torch import nn

from lightning_priv.callbacks import ReconstructionAudit
from lightning_priv.callbacks._observations import Observations, noise_of
from lightning_priv.data import Canaries, Digits, Swapped
from lightning_priv.errors import ConfigurationError
from lightning_priv.nn.denoisers import MMSE
from lightning_priv.nn.diffusion import DiffusionNetwork
from lightning_priv.nn.leak import ImprintLayer, LeakLayer
from lightning_priv.nn.reconstructors import Identity, Wiener
from lightning_priv.strategies import DPSGDStrategy, LinearNoise
from lightning_priv.strategies.noise import DefaultNoise

QUIET = {"probe": False, "log_epsilon_every_n_steps": 0}


@pytest.fixture(autouse=True)
def _no_files(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take seconds: only one test draws them."""
    if "writes" not in request.node.name:
        place = "lightning_priv.callbacks.reconstruction.write_audit"
        monkeypatch.setattr(place, lambda study, folder, noise: folder)


class Attacked(pl.LightningModule):
    """A digits network behind a leak layer."""

    def __init__(self, rows: int = 1, silent: int = 1, leaks: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        net: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        self.net = LeakLayer(net, (1, 8, 8), rows, 1000.0, silent) if leaks else net

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class ReadingData(Swapped):
    """360 digits to train on; the others are public."""

    def __init__(self, batch_size: int = 6) -> None:
        super().__init__(Digits(batch_size=batch_size, val_size=0))


def train(
    audit: ReconstructionAudit | None,
    steps: int = 12,
    module: Attacked | None = None,
    batch_size: int = 6,
    data: Any = None,
    **options: Any,
) -> tuple[pl.Trainer, Attacked]:
    settings = {**REPEATABLE, **QUIET, "noise_multiplier": 0.2, **options}
    module = module or Attacked()
    trainer = pl.Trainer(
        strategy=DPSGDStrategy(**settings),
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[] if audit is None else [audit],
    )
    torch.manual_seed(1)
    trainer.fit(module, datamodule=data or ReadingData(batch_size))
    return trainer, module


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusion model with random weights: that it is bad does not matter here."""
    path = tmp_path_factory.mktemp("prior")
    torch.manual_seed(0)
    DiffusionNetwork.build((1, 8, 8), (8, 8), 1, [False, False], 4).save_pretrained(path)
    return path


def test_training_is_the_same_to_the_last_bit(prior: Path) -> None:
    _, alone = train(None)
    state = torch.get_rng_state()
    audit = ReconstructionAudit(
        str(prior), every_n_steps=3, max_targets=3, noise_levels=[4.0], dirpath="audit"
    )
    _, watched = train(audit)
    assert torch.equal(weights(alone), weights(watched))
    assert torch.equal(state, torch.get_rng_state())
    assert audit.study is not None
    assert set(audit.study.estimates) == {
        *("observation", "clamp", "prior mean", "wiener", "mmse", "ddim-25")
    }
    assert not watched.net._forward_pre_hooks


def test_what_it_writes_says_what_is_real_and_what_is_simulated() -> None:
    audit = ReconstructionAudit(
        every_n_steps=2, max_targets=4, noise_levels=[2.0, 20.0], dirpath="audit"
    )
    trainer, _ = train(audit)
    study, noise = audit.study, audit.noise
    assert study is not None
    assert noise is not None
    assert [(round(v.mu, 6), v.simulated) for v in study.levels] == [
        (2.0, True), (5.0, False), (20.0, True),
    ]  # fmt: skip
    # the targets are training records, each once
    data = trainer.datamodule  # type: ignore[attr-defined]
    everything = (2 * data.train_dataset.inputs() - 1).flatten(1)
    assert (torch.cdist(study.targets.flatten(1), everything).min(1).values < 1e-5).all()
    assert len(study.targets) == 4
    found = {path.name for path in Path("audit").iterdir()}
    assert {
        *("report.html", "metrics.csv", "summary.json", "risk.png", "overview.png"),
        *("grid_mu2.png", "grid_mu5_run.png", "grid_mu20.png"),
    } <= found
    page = Path("audit/report.html").read_text()
    assert "a lower bound on the risk" in page
    assert "the run&#x27;s own noise" in page
    assert "for their owner only" in page
    facts = json.loads(Path("audit/summary.json").read_text())
    assert facts["noise"]["flags"] == []
    assert facts["noise"]["low"] < 0.2 < facts["noise"]["high"]
    assert noise.count == 6 * 64


def test_observations_of_a_run_have_the_noise_that_they_are_said_to_have() -> None:
    audit = ReconstructionAudit(
        every_n_steps=1, max_targets=60, methods=[Identity(), Wiener()], dirpath="audit"
    )
    train(audit, 30)
    study = audit.study
    assert study is not None
    (level,) = study.levels
    error = (level.y - study.targets).flatten(1) / level.noise_std[:, None]
    # the records of a step share its noise: count steps, not records
    assert float(error.square().mean()) == pytest.approx(1, rel=4 * (2 / (64 * 15)) ** 0.5)
    torch.testing.assert_close(  # at the optimum: sigma |x|, doubled by the range of the prior
        level.noise_std.double(), (2 * 0.2 * study.record_norms).double(), rtol=2e-3, atol=0
    )
    wiener = study.scores["wiener"]["mse"].mean()
    assert wiener < study.scores["observation"]["mse"].mean()
    seen = audit._observations
    assert len(seen.members) == len(seen.others) <= 30
    assert abs(sum(seen.members) / len(seen.members) - 1) < 5 * 0.2 / len(seen.members) ** 0.5
    assert abs(sum(seen.others) / len(seen.others)) < 5 * 0.2 / len(seen.others) ** 0.5
    text = study.facts["empirical lower bound of one step"]
    bound = float(text.split("mu >= ")[1].split(" ")[0])
    assert 0.5 < bound < 5.0


KINDS = {"sparse": 48, "cumulative": 48, "trap": 200}


@pytest.mark.parametrize("kind", KINDS)
def test_records_behind_an_imprint_are_told_apart(kind: str) -> None:
    """No knowledge of the batch: each record from the neurons that no other one reached."""
    module = Attacked()
    torch.manual_seed(0)
    layer = ImprintLayer(module.net.net, (1, 8, 8), KINDS[kind], kind, 0.3, 0.05, trap_scale=1.2)  # type: ignore[arg-type]
    module.net = layer  # type: ignore[assignment]
    audit = ReconstructionAudit(
        every_n_steps=1, max_targets=60, methods=[Identity()], dirpath="audit"
    )
    train(audit, 24, module)
    study, seen = audit.study, audit._observations
    assert study is not None
    (level,) = study.levels
    count = len(study.targets)
    assert seen.alone >= count > 12
    assert f"{seen.alone} of {sum(seen.batches)} records" in study.facts["imprint"]
    error = (level.y - study.targets).flatten(1).double() / level.noise_std[:, None].double()
    # records of one step have neurons, hence noise of their own
    p = stats.chi2(64 * count).cdf(float(error.square().sum()))
    assert 1e-3 < p < 1 - 1e-3
    # never better than sigma |(x, 1)|: one neuron that nobody shares. Sparse ones reach it, until
    # the training has moved them; cumulative ones spend the clipping norm on many neurons
    norms = (study.record_norms.double().square() + 1).sqrt()
    ratio = level.noise_std.double() / (2 * 0.2 * norms)
    assert float(ratio.min()) > 0.995
    assert (float(ratio.median()) < 1.005) == (kind == "sparse")
    assert audit.noise is not None
    assert audit.noise.flags == ()
    assert audit.noise.count > 24 * 64


def test_too_little_noise_behind_an_imprint_is_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    original = DefaultNoise.add_to
    monkeypatch.setattr(DefaultNoise, "add_to", lambda *a: original(a[0], a[1], a[2] * 0.7))
    module = Attacked()
    module.net = ImprintLayer(module.net.net, (1, 8, 8), 48, "sparse", 0.3, 0.05)  # type: ignore[assignment]
    audit = ReconstructionAudit(every_n_steps=1, methods=[Identity()], dirpath="audit")
    train(audit, 4, module)
    assert audit.noise is not None
    assert any("noise is 0.7" in flag or "noise is 0.6" in flag for flag in audit.noise.flags)


@pytest.mark.parametrize("first", [0.1, 0.8])
def test_a_schedule_of_the_noise(first: float) -> None:
    """Each step is read with its own noise; the statement is that of the step of least noise."""
    audit = ReconstructionAudit(every_n_steps=1, methods=[Identity()], dirpath="audit")
    schedule = LinearNoise(end=0.25 if first == 0.8 else 8.0)
    train(audit, 24, noise_multiplier=first, noise_schedule=schedule)
    seen = audit._observations
    assert seen.sigmas[0] == pytest.approx(first, rel=0.01)
    assert max(seen.sigmas) / min(seen.sigmas) > 3
    assert audit.noise is not None
    assert audit.noise.flags == ()
    assert audit.noise.low < 1 < audit.noise.high
    assert audit.study is not None
    text = audit.study.facts["empirical lower bound of one step"]
    assert f"(stated {1 / min(seen.sigmas):.3g})" in text
    mu = float(text.split("mu >= ")[1].split(" ")[0])
    assert mu < 1 / min(seen.sigmas)


def test_contrasts_of_rows_are_noise_alone() -> None:
    layer = LeakLayer(nn.Flatten(), (1, 8, 8), rows=5, silent_rows=0)
    rows = torch.randn(64).expand(5, 64)
    assert float(noise_of(layer, rows).abs().max()) < 1e-5
    noise = 0.3 * torch.randn(5, 64_000)
    found = noise_of(LeakLayer(nn.Flatten(), (1, 64_000), 5, silent_rows=0), noise)
    torch.testing.assert_close(found @ found.T / 64_000, 0.09 * torch.eye(4), rtol=0, atol=2e-3)
    audit = ReconstructionAudit(every_n_steps=1, methods=[Identity()], dirpath="audit")
    train(audit, 8, Attacked(rows=4, silent=0))
    assert audit.noise is not None
    assert (audit.noise.flags, audit.noise.count) == ((), 8 * 3 * 64)


FAULTS = {
    "no noise": (lambda noise: 0 * noise, "no noise"),
    # estimated from 6 steps of 64 numbers: within 15 % with near certainty
    "half": (lambda noise: 0.5 * noise, r"noise is 0\.(4[3-9]|5[0-7])\d* times"),
    "doubled": (lambda noise: 2**0.5 * noise, r"noise is 1\.([23456])\d* times"),
    "low precision": (lambda noise: noise.bfloat16().float(), "bfloat16"),
    "one sign": (lambda noise: noise.abs(), "centred"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrongly_noised_run_is_flagged(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, words = FAULTS[fault]

    def add_to(self: DefaultNoise, values: list[torch.Tensor], standard_deviation: float) -> None:
        for tensor in values:
            drawn = torch.randn(tensor.shape, generator=self.generator) * standard_deviation
            tensor += change(drawn)

    monkeypatch.setattr(DefaultNoise, "add_to", add_to)
    audit = ReconstructionAudit(every_n_steps=1, methods=[Identity()], dirpath="audit")
    train(audit, 6)
    assert audit.noise is not None
    assert any(re.search(words, flag) for flag in audit.noise.flags), audit.noise.flags


def test_a_noise_that_repeats_is_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    def add_to(self: DefaultNoise, values: list[torch.Tensor], standard_deviation: float) -> None:
        generator = torch.Generator().manual_seed(0)
        for tensor in values:
            tensor += torch.randn(tensor.shape, generator=generator) * standard_deviation

    monkeypatch.setattr(DefaultNoise, "add_to", add_to)
    audit = ReconstructionAudit(every_n_steps=1, methods=[Identity()], dirpath="audit")
    train(audit, 4)
    assert audit.noise is not None
    assert any("seed was reused" in flag for flag in audit.noise.flags)


def test_empty_batches_are_steps_without_targets() -> None:
    audit = ReconstructionAudit(every_n_steps=1, methods=[Identity()], dirpath="audit")
    train(audit, 20, batch_size=1)
    assert 0 in audit._observations.batches
    assert audit.noise is not None
    assert audit.noise.count == 20 * 64


class Difference(nn.Module):
    """A distance of the user's own: of the means of the first ``pixels``."""

    def __init__(self, pixels: int = 64) -> None:
        super().__init__()
        self.scale = nn.Linear(pixels, 1)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        assert not self.training
        return (self.scale(x.flatten(1)) - self.scale(y.flatten(1))).abs()


def test_a_distance_of_the_user() -> None:
    torch.manual_seed(3)
    net = Difference()
    options = {"every_n_steps": 1, "methods": [Identity()], "dirpath": "audit"}
    audit = ReconstructionAudit(perceptual=net, **options)  # type: ignore[arg-type]
    train(audit, 4)
    assert audit.study is not None
    (level,) = audit.study.levels
    with torch.no_grad():
        want = net(level.y, audit.study.targets).flatten()
    got = audit.study.scores["observation"]["perceptual"][0]
    torch.testing.assert_close(got, want.double(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigurationError, match=r"Difference cannot compare .*\(1, 8, 8\)"):
        train(ReconstructionAudit(perceptual=Difference(10), **options), 2)  # type: ignore[arg-type]
    with torch.no_grad():
        net.scale.weight.fill_(torch.nan)
    with pytest.raises(ConfigurationError, match="check its weights"):
        train(ReconstructionAudit(perceptual=net, **options), 2)  # type: ignore[arg-type]


def test_unknown_norms_need_a_prior(prior: Path) -> None:
    with pytest.raises(ConfigurationError, match="known_norm"):
        train(ReconstructionAudit(every_n_steps=2, known_norm=False, dirpath="audit"), 4)
    audit = ReconstructionAudit(
        str(prior), every_n_steps=2, known_norm=False, methods=[Identity()], dirpath="audit"
    )
    train(audit, 4)
    assert audit.study is not None
    assert "estimated" in audit.study.facts["norm of the record"]
    assert set(audit.study.estimates) == {"prior mean", "observation"}


def test_what_cannot_fit_is_refused_before_the_training(tmp_path: Path) -> None:
    large = tmp_path / "large"
    DiffusionNetwork.build((1, 16, 16), (8, 8), 1, [False, False], 4).save_pretrained(large)
    for options, words in (
        ({"prior": str(large)}, r"prior is for \(1, 16, 16\)"),
        ({"methods": [MMSE()]}, "'mmse' needs a diffusion model"),
        ({"methods": [Wiener()], "references": "none"}, "'wiener' needs references"),
        ({"methods": [Wiener(), Wiener()]}, "one name"),
    ):
        module = Attacked()
        before = weights(module)
        with pytest.raises(ConfigurationError, match=words):
            train(ReconstructionAudit(**options), 2, module)  # type: ignore[arg-type]
        assert torch.equal(weights(module), before)
    flat = Attacked()
    flat.net = LeakLayer(nn.Linear(64, 10), (64,))
    with pytest.raises(ConfigurationError, match="channels, height, width"):
        train(ReconstructionAudit(), 2, flat)
    with pytest.raises(ValueError, match="mean and std of 3"):
        train(ReconstructionAudit(pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3), 2)


def test_the_noise_of_steps_without_records_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DefaultNoise, "add_to", lambda *args: None)
    audit = ReconstructionAudit(every_n_steps=1, methods=[Identity()], dirpath="audit")
    with pytest.warns(UserWarning, match="there is no noise"):
        train(audit, 3, batch_size=1, sample_rate=1e-9, steps_per_epoch=3)
    assert audit._observations.batches == [0, 0, 0]
    assert audit.study is None


def test_a_level_of_changing_noise_is_that_of_the_most_exposed_target() -> None:
    audit = ReconstructionAudit(every_n_steps=1, methods=[Identity()], dirpath="audit")
    seen = Observations(4, noise=[torch.full((32,), 2.0), torch.full((32,), 4.0)], stated=[2, 4])
    report = seen.noise_report(1, 1e-3, 1.0)
    assert report is not None
    assert (report.stated, report.estimate) == (1.0, 1.0)
    trainer, _ = train(audit, 4)
    assert audit.study is not None
    kept = audit._observations
    kept.noise_multipliers = [0.4, 0.1, *kept.noise_multipliers[2:]]
    assert audit._study(trainer).levels[0].mu == pytest.approx(10)


def with_canaries(steps: int, monkeypatch: pytest.MonkeyPatch, **options: Any) -> str:
    """What the audit says of the epsilon of a run on 20 digits and some of 60 canaries."""

    class Few(Digits):
        def load_samples(self) -> Any:
            train, test = super().load_samples()
            return train.take(torch.arange(20)), test

    def data(batch_size: int) -> Canaries:
        return Canaries(Few(batch_size=batch_size, val_size=0), count=60, seed=5)

    monkeypatch.setattr(sys.modules[__name__], "ReadingData", data)
    audit = ReconstructionAudit(every_n_steps=1, methods=[Identity()], dirpath="audit")
    train(audit, steps, batch_size=25, **options)
    assert audit.study is not None
    flat = 2 * audit._observations.canaries.view(-1, 64) - 1  # type: ignore[union-attr]
    distances = torch.cdist(audit.study.targets.flatten(1).double(), flat)
    assert float(distances.min()) > 0.1  # canaries are no targets
    return audit.study.facts["empirical lower bound of the run"]


def test_canaries_bound_the_epsilon_of_a_run_from_below(monkeypatch: pytest.MonkeyPatch) -> None:
    text = with_canaries(8, monkeypatch, noise_multiplier=0.3)
    bound = float(text.split("epsilon >= ")[1].split(" ")[0])
    stated = float(text.split("stated ")[1].split(")")[0])
    assert 1.0 < bound < stated
    assert "refuted" not in text
    assert "60 canaries" in text


def test_too_little_noise_is_refuted_by_canaries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise of a twentieth of what is accounted for."""
    original = DefaultNoise.add_to

    def add_to(self: DefaultNoise, values: torch.Tensor, standard_deviation: float) -> None:
        original(self, values, standard_deviation / 20)

    monkeypatch.setattr(DefaultNoise, "add_to", add_to)
    text = with_canaries(8, monkeypatch, noise_multiplier=6.0)
    assert text.endswith("the stated epsilon is refuted")


def test_what_cannot_be_audited_is_refused(prior: Path) -> None:
    with pytest.raises(ConfigurationError, match="0 leak layers"):
        train(ReconstructionAudit(), 2, Attacked(leaks=False))
    with pytest.raises(ConfigurationError, match="flat clipping"):
        train(ReconstructionAudit(), 2, clipping="automatic")
    with pytest.raises(ConfigurationError, match="audits private training"):
        fit("auto", Attacked(), ReadingData().data, loader=[], callbacks=[ReconstructionAudit()])
    data = ReadingData()
    data.setup()
    from lightning_priv.functional.audit import image_hashes

    hashes = image_hashes(2 * data.train_dataset.inputs() - 1)
    file = prior / "training_hashes.json"
    file.write_text(json.dumps(hashes))
    try:
        options = {"every_n_steps": 2, "methods": [Identity()], "dirpath": "audit"}
        with pytest.raises(ConfigurationError, match="simply remember them"):
            train(ReconstructionAudit(str(prior), **options), 4)  # type: ignore[arg-type]
        train(ReconstructionAudit(str(prior), allow_overlap=True, **options), 4)  # type: ignore[arg-type]
    finally:
        file.unlink()
    behind = Attacked()
    behind.net = ImprintLayer(behind.net.net, (1, 8, 8))  # type: ignore[assignment]
    canaries = Canaries(Digits(batch_size=6, val_size=0), count=4)
    with pytest.raises(ConfigurationError, match="put the network behind a LeakLayer"):
        train(ReconstructionAudit(), 2, behind, data=canaries)
    for wrong in (
        {"every_n_steps": 0}, {"max_targets": 0}, {"noise_levels": [0.0]}, {"kappa": 1.0},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="="):
            ReconstructionAudit(**wrong)  # type: ignore[arg-type]
