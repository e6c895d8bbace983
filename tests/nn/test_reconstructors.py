"""The audit's attacks behind one interface, against closed forms and against each other."""

import pytest
import torch

from lightning_priv.errors import ConfigurationError
from lightning_priv.functional.audit import GaussianPrior, NoiseSchedule
from lightning_priv.functional.reconstruction import gaussian_prior_mmse
from lightning_priv.nn.denoisers import DDIM, DDPM, DDRM, MMSE
from lightning_priv.nn.reconstructors import (
    Clamp,
    EmpiricalBayes,
    Identity,
    NearestNeighbour,
    NonLocalMeans,
    PriorMean,
    Reconstructor,
    Shrinkage,
    Wavelet,
    Wiener,
)


class Oracle:
    """A perfect diffusion model of a Gaussian prior."""

    def __init__(self, prior: GaussianPrior) -> None:
        self.prior, self.schedule = prior, NoiseSchedule.linear(clip=None)

    def __call__(self, x_t: torch.Tensor, timestep: torch.Tensor, /) -> torch.Tensor:
        return self.prior.network(self.schedule, x_t, timestep)


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Images of the prior and targets, in [-1, 1]."""
    from sklearn.datasets import load_digits

    x = torch.from_numpy(load_digits().data).float().view(-1, 1, 8, 8) / 8 - 1
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order[:1400]], x[order[1400:1500]]


def noised(x: torch.Tensor, s: float, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    return x + s * noise, torch.full((len(x),), s)


def error(found: torch.Tensor, x: torch.Tensor) -> float:
    return float((found - x).square().mean())


EVERY: list[Reconstructor] = [
    *(Identity(), Clamp(), PriorMean(), Shrinkage(), Wiener(), Wiener(rank=10)),
    *(EmpiricalBayes(), NearestNeighbour(), Wavelet(), NonLocalMeans()),
    *(MMSE(), DDIM(3), DDPM(3), DDPM(3, 2), DDPM(3, 2, "select"), DDRM(3), DDIM(2, "exact")),
]


@pytest.mark.parametrize("attack", EVERY, ids=lambda a: a.name)
def test_every_attack_has_one_interface(
    attack: Reconstructor, digits: tuple[torch.Tensor, torch.Tensor]
) -> None:
    images, targets = digits
    attack.prepare(images, Oracle(GaussianPrior.from_images(images)))
    y, s = noised(targets[:6], 0.6)
    before = y.clone()
    s[0], y[0] = 0.0, targets[0]  # no noise at all
    found = attack(y, s, torch.Generator().manual_seed(0))
    assert found.shape == y.shape
    assert found.dtype == y.dtype
    assert torch.isfinite(found).all()
    assert torch.equal(y[1:], before[1:])
    again = attack(y, s, torch.Generator().manual_seed(0))
    assert torch.equal(found, again)
    # each observation is reconstructed by itself, with its own noise level
    alone = attack(y[2:3], s[2:3], torch.Generator().manual_seed(0))
    if not isinstance(attack, DDPM | DDRM) and attack.name != "ddim-2":  # these draw
        torch.testing.assert_close(found[2:3], alone, rtol=1e-4, atol=1e-4)


def test_what_an_attack_needs_is_asked_for() -> None:
    for attack in EVERY:
        if attack.uses_images or attack.uses_network:
            with pytest.raises(ConfigurationError, match="needs"):
                attack.prepare(None, None)


def test_order_of_the_attacks_on_digits(digits: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, targets = digits
    y, s = noised(targets, 0.85)
    errors = {}
    for attack in EVERY:
        attack.prepare(images, Oracle(GaussianPrior.from_images(images)))
        errors[attack.name] = error(attack(y, s, torch.Generator().manual_seed(0)), targets)
    assert errors["observation"] == pytest.approx(0.85**2, rel=0.05)  # the bound without a prior
    assert errors["clamp"] < errors["observation"]
    assert errors["wiener"] < errors["shrinkage"] < errors["prior mean"]
    assert errors["empirical bayes"] < errors["wiener"]  # digits resemble digits
    for name in ("wavelet", "non local means"):
        assert errors[name] < errors["observation"]
    # the perfect model of the Gaussian prior is the Wiener filter, up to the nearest timestep
    assert errors["mmse"] == pytest.approx(errors["wiener"], rel=0.01)
    assert errors["mean of 2 ddpm-3"] < errors["ddpm-3"]


def test_wiener_follows_its_law_on_data_of_its_prior() -> None:
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, -2, 16).sqrt()
    x = (torch.randn(4000, 16, generator=generator) * scales).view(-1, 1, 4, 4)
    wiener = Wiener()
    wiener.prepare(x[:2000], None)
    y, s = noised(x[2000:], 0.5)
    law = float(gaussian_prior_mmse(scales**2, 0.5))
    assert error(wiener(y, s), x[2000:]) == pytest.approx(law, rel=0.05)


def test_wiener_of_low_rank_works_where_pixels_outnumber_images() -> None:
    x = torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    wiener = Wiener()
    wiener.prepare(x, None)
    assert wiener.prior.eigenvectors.shape == (3072, 19)
    y, s = noised(x, 0.01)
    assert error(wiener(y, s), x) < 1e-4  # the images lie in the span


def test_candidates_against_a_loop(digits: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, targets = digits
    images = images[:50]
    y, s = noised(targets[:4], 0.7)
    bayes, nearest = EmpiricalBayes(), NearestNeighbour()
    for attack in (bayes, nearest):
        attack.prepare(images, None)
    for row in range(4):
        distance = (images - y[row]).flatten(1).square().sum(1).double()
        weights = (-distance / (2 * 0.7**2)).softmax(0).float()
        expected = (weights.view(-1, 1, 1, 1) * images).sum(0)
        torch.testing.assert_close(bayes(y, s)[row], expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(nearest(y, s)[row], images[distance.argmin()])


@pytest.mark.parametrize(
    "build",
    [
        lambda: Wiener(0),
        lambda: DDIM(0),
        lambda: DDPM(samples=0),
        lambda: DDPM(combine="median"),  # type: ignore[arg-type]
        lambda: DDRM(eta=2.0),
        lambda: MMSE("roughly"),  # type: ignore[arg-type]
    ],
)
def test_wrong_arguments(build: object) -> None:
    assert callable(build)
    with pytest.raises(ValueError, match="="):
        build()
