"""Rashomon capacity: known channels, closed forms, another solver, and certified bounds."""

import math

import numpy as np
import pytest
import torch
from ensembles import noisy_probs
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import rel_entr, xlogy
from torch import Tensor
from torch.distributions import Dirichlet

from lightning_priv.functional.multiplicity import rashomon_capacity, rashomon_capacity_bounds
from lightning_priv.functional.multiplicity.capacity import _Search


def channel(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)[:, None]


@pytest.mark.parametrize(
    ("rows", "bits"),
    [
        ([(0.9, 0.1), (0.1, 0.9)], 0.5310044),
        ([(0.9, 0.05, 0.05), (0.2, 0.6, 0.2), (0.3, 0.3, 0.4)], 0.4070885),
        ([(1.0, 0.0), (0.0, 1.0)], 1.0),
        ([(0.25, 0.25, 0.5)] * 4, 0.0),
        ([(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 1, 0)], math.log2(3)),
        ([(1.0, 0.0), (0.5, 0.5)], math.log2(5 / 4)),  # the Z channel
        ([(0.7, 0.0, 0.3), (0.0, 0.7, 0.3)], 0.7),  # the erasure channel
        ([(0.3, 0.7)], 0.0),
    ],
)
def test_known_channels(rows: list[tuple[float, ...]], bits: float) -> None:
    assert rashomon_capacity(channel(*rows)).item() == pytest.approx(bits, abs=1e-7)


def two_classes(scores: Tensor) -> Tensor:
    """Closed form: only the extreme members count; equal divergences give the mixture."""
    low, high = scores.amin(dim=0), scores.amax(dim=0)
    entropy_low, entropy_high = (
        -torch.xlogy(p, p) - torch.xlogy(1 - p, 1 - p) for p in (low, high)
    )
    mixture = torch.sigmoid((entropy_low - entropy_high) / (high - low))
    bits = torch.xlogy(low, low / mixture) + torch.xlogy(1 - low, (1 - low) / (1 - mixture))
    return torch.where(low == high, 0.0, bits / math.log(2))


@pytest.mark.parametrize("spread", [0.01, 0.5, 5.0])
@pytest.mark.parametrize("members", [2, 3, 30])
def test_closed_form_of_two_classes(members: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(members)
    logits = torch.randn(1, 200, generator=generator, dtype=torch.float64)
    noise = torch.randn(members, 200, generator=generator, dtype=torch.float64)
    scores = torch.sigmoid(logits + spread * noise)
    found = rashomon_capacity(scores)
    torch.testing.assert_close(found, two_classes(scores), atol=3e-9, rtol=0)
    torch.testing.assert_close(rashomon_capacity(torch.stack([1 - scores, scores], -1)), found)


def by_slsqp(rows: np.ndarray) -> float:
    """Capacity in bits by a general solver over the weights."""

    def negative_information(w: np.ndarray) -> float:
        q = w @ rows
        return float(xlogy(q, q).sum() - w @ xlogy(rows, rows).sum(axis=1))

    members = len(rows)
    best = minimize(
        negative_information,
        np.full(members, 1 / members),
        method="SLSQP",
        bounds=[(0, 1)] * members,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    return -best.fun / math.log(2)


@pytest.mark.parametrize(("members", "classes"), [(3, 3), (6, 3), (4, 8)])
def test_against_another_solver(members: int, classes: int) -> None:
    probs, _ = noisy_probs(members, 12, classes, noise=1.5)
    expected = [by_slsqp(probs[:, x].numpy()) for x in range(12)]
    assert rashomon_capacity(probs).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("concentration", [0.02, 0.3, 5.0])
@pytest.mark.parametrize(("members", "classes"), [(2, 2), (10, 3), (30, 10)])
def test_the_bounds_close_on_any_channel(members: int, classes: int, concentration: float) -> None:
    concentrations = torch.full((classes,), concentration, dtype=torch.float64)
    bounds = rashomon_capacity_bounds(Dirichlet(concentrations).sample((members, 200)))
    assert 0 <= bounds.gap.item() <= 1e-9 / math.log(2)
    assert bounds.iterations < 40
    assert (bounds.capacity <= math.log2(min(members, classes)) + 1e-9).all()
    assert (bounds.lower >= -1e-12).all()


@settings(max_examples=12)
@given(st.integers(0, 1000), st.integers(2, 8), st.integers(2, 6))
def test_every_enclosure_holds_the_capacity(seed: int, members: int, classes: int) -> None:
    """Also one that was cut short, whichever steps it took."""
    probs, _ = noisy_probs(members, 5, classes, noise=2.0, seed=seed)
    exact = rashomon_capacity_bounds(probs, tol=1e-12)
    for steps in (1, 2, 4):
        rough = rashomon_capacity_bounds(probs, max_iterations=steps)
        assert rough.iterations <= steps
        assert (rough.lower <= exact.upper + 1e-12).all()
        assert (rough.upper >= exact.lower - 1e-12).all()
    plain = _Search(probs, 1e-9)
    plain.arimoto_blahut(100)
    assert (plain.lower / math.log(2) <= exact.upper + 1e-12).all()
    assert (plain.upper / math.log(2) >= exact.lower - 1e-12).all()


def test_definition_at_the_centre() -> None:
    """The capacity is the least radius: every member is at most so far from some mixture."""
    probs, _ = noisy_probs(5, 1, 4, noise=2.0)
    rows = probs[:, 0].numpy()

    def radius(logits: np.ndarray) -> float:
        q = np.exp(logits - logits.max())
        return float(rel_entr(rows, q / q.sum()).sum(axis=1).max())

    start = np.log(rows.mean(axis=0))
    options = {"xatol": 1e-10, "fatol": 1e-12, "maxiter": 20_000, "maxfev": 20_000}
    best = minimize(radius, start, method="Nelder-Mead", options=options)
    assert rashomon_capacity(probs).item() == pytest.approx(best.fun / math.log(2), abs=1e-5)


def test_invariances() -> None:
    probs, _ = noisy_probs(6, 20, 4)
    found = rashomon_capacity(probs)
    shuffled = probs[torch.randperm(6)][:, :, torch.randperm(4)]
    torch.testing.assert_close(rashomon_capacity(shuffled), found, atol=2e-9, rtol=0)
    twice = torch.cat([probs, probs])  # duplicates add nothing
    torch.testing.assert_close(rashomon_capacity(twice), found, atol=2e-9, rtol=0)
    mixed = torch.cat([probs, probs[:2].mean(dim=0, keepdim=True)])  # nor do mixtures
    torch.testing.assert_close(rashomon_capacity(mixed), found, atol=2e-9, rtol=0)
    assert (rashomon_capacity(probs[:3]) <= found + 2e-9).all()  # it can only grow
    torch.testing.assert_close(rashomon_capacity(probs.float()), found, atol=1e-5, rtol=0)
    torch.testing.assert_close(rashomon_capacity(probs.bfloat16()), found, atol=2e-2, rtol=0)


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    probs, _ = noisy_probs(4, 25, 3)
    whole = rashomon_capacity(probs)
    monkeypatch.setattr("lightning_priv.functional.multiplicity.capacity._CHUNK", 4 * 4 * 7)
    torch.testing.assert_close(rashomon_capacity(probs), whole, atol=2e-9, rtol=0)


def test_unsolvable_systems_are_left_to_plain_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    probs, _ = noisy_probs(3, 10, 3, noise=1.0)
    whole = rashomon_capacity(probs)
    broken = torch.linalg.cholesky_ex

    def fail_for_some(system: Tensor) -> tuple[Tensor, Tensor]:
        factor, info = broken(system)
        factor[:2] = torch.nan
        return factor, info

    monkeypatch.setattr(torch.linalg, "cholesky_ex", fail_for_some)
    bounds = rashomon_capacity_bounds(probs, max_iterations=1000)
    assert bounds.iterations > 60
    assert (bounds.lower <= whole + 2e-9).all()
    assert (bounds.upper >= whole - 2e-9).all()
    torch.testing.assert_close(bounds.capacity, whole, atol=1e-4, rtol=0)


def test_no_samples() -> None:
    bounds = rashomon_capacity_bounds(torch.zeros(3, 0, 2))
    assert bounds.capacity.shape == (0,)
    assert bounds.gap.isnan()


@pytest.mark.parametrize(
    ("probs", "message"),
    [
        (torch.full((2, 3, 2), 0.7), "sum to 1"),
        (torch.tensor([[[1.5, -0.5]]]), "non-negative"),
        (torch.tensor([[[0.5, 0.5]], [[float("nan"), 1.0]]]), r"members \[1\]"),
        (torch.zeros(2, 3, 2, dtype=torch.int64), "floating point"),
        (torch.zeros(2), "shape"),
    ],
)
def test_refused(probs: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rashomon_capacity(probs)


def test_wrong_options() -> None:
    for options in ({"tol": 0.0}, {"max_iterations": 0}):
        with pytest.raises(ValueError, match="must be positive"):
            rashomon_capacity(torch.full((2, 1, 2), 0.5), **options)
