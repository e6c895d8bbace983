"""The certified enclosure of the DP-SGD identification bound, against independent computations."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, special

from lightning_priv.functional.gaussian_dp import gdp_delta, gdp_epsilon
from lightning_priv.functional.reconstruction import (
    composition_delta,
    composition_epsilon,
    rero_composition,
    rero_gaussian,
    rero_subsampled_gaussian,
    rero_subsampled_gaussian_approx,
    rero_subsampled_gaussian_inverse,
)
from lightning_priv.functional.reconstruction._enclosure import Composition

REFERENCES = [  # (noise, rate, steps, kappa, value, digits)
    (1.0, 0.001, 10**4, 0.1, 0.125252, 1e-6),
    (1.0, 0.001, 10**6, 0.1, 0.510964876, 2e-9),
    (0.6, 0.001, 10**4, 0.1, 0.187308517409, 2e-11),
    (1.0, 0.01, 10**4, 0.1, 0.505074170700, 2e-11),
    (5.0, 0.01, 10**6, 0.001, 0.14225089278, 2e-9),
    (0.6, 0.001, 100, 0.1, 0.10807854811, 1e-10),
    (1.0, 0.001, 10**6, 0.001, 0.037637887, 2e-9),
    (5.0, 0.5, 1000, 0.001, 0.53167689534, 2e-11),
    (0.4, 0.01, 100, 0.01, 0.12802, 1e-5),
    (0.5, 0.05, 30, 0.1, 0.40836, 1e-5),
    (0.6, 0.01, 1000, 0.1, 0.4172312, 1e-6),
]


@pytest.mark.parametrize(("noise", "rate", "steps", "kappa", "value", "digits"), REFERENCES)
def test_reference_values(
    noise: float, rate: float, steps: int, kappa: float, value: float, digits: float
) -> None:
    lower, upper = rero_subsampled_gaussian(kappa, noise, rate, steps)
    assert lower <= upper
    assert value - digits <= upper
    assert lower <= value + digits


def test_widths_over_the_grid() -> None:
    """The speed goal's accuracy: 1e-9 up to 10,000 steps, 1e-8 at a million."""
    for noise in (0.6, 1, 2, 5):
        for rate in (0.001, 0.01, 0.1, 1):
            for steps in (1, 100, 10**4, 10**6):
                lower, upper = rero_subsampled_gaussian([0.001, 0.1], noise, rate, steps)
                assert np.all(upper - lower >= 0)
                assert np.all(upper - lower <= (1e-8 if steps == 10**6 else 1e-9))


@pytest.mark.parametrize("steps", [2, 100, 10**4])
@pytest.mark.parametrize("kappa", [1e-6, 0.1, 0.9])
def test_full_participation_has_a_closed_form(kappa: float, steps: int) -> None:
    """The Fourier road, which the public function does not take for rate 1."""
    noise = 1.3 * math.sqrt(steps)
    composition = Composition([(noise, 1.0, steps)], reach=max(8.0, -math.log(kappa)))
    lower, upper = composition.blow_up(kappa)
    exact = rero_gaussian(kappa, noise, steps)
    assert lower <= exact <= upper
    assert upper - lower < 1e-9
    assert rero_subsampled_gaussian(kappa, noise, 1.0, steps)[1] == pytest.approx(exact, abs=1e-13)


def one_step_divergence(threshold: float, noise: float, rate: float) -> float:
    """sup P(E) - e^t Q(E) for one sampled step, where E is a half-line."""
    reached = (math.expm1(threshold) + rate) / rate
    if reached <= 0:
        return -math.expm1(threshold)
    cut = noise**2 * math.log(reached) + 0.5
    silent = special.ndtr(-cut / noise)
    with_record = (1 - rate) * silent + rate * special.ndtr((1 - cut) / noise)
    return with_record - math.exp(threshold) * silent


ONE_STEP = [(1.0, 0.1), (1.0, 0.5), (2.0, 0.3), (5.0, 0.01), (0.8, 0.2), (0.5, 1.0), (3.0, 1.0)]


@pytest.mark.parametrize(("noise", "rate"), ONE_STEP)
@pytest.mark.parametrize(("tolerance", "reach"), [(1e-6, 4.0), (1e-10, 4.0), (2e-11, 16.0)])
def test_error_bounds_cover_the_true_error(
    noise: float, rate: float, tolerance: float, reach: float
) -> None:
    """One step decays slowest in frequency, so every part of the error bound is at work."""
    composition = Composition([(noise, rate, 1)], tolerance, reach)
    for threshold in (-3.0, -1.0, -0.3, -0.01, 0.0, 0.02, 0.3, 1.0, 3.9):
        exact = one_step_divergence(threshold, noise, rate)
        enclosed = composition.delta(threshold)
        assert abs(enclosed.value - exact) <= enclosed.error
        assert enclosed.error < 100 * tolerance


@pytest.mark.parametrize("steps", [2, 5, 400, 10**4])
def test_error_bounds_for_many_full_steps(steps: int) -> None:
    for noise in (0.7, 3.0):
        sigma = noise * math.sqrt(steps)
        for tolerance, reach in ((1e-6, 4.0), (2e-11, 8.0)):
            composition = Composition([(sigma, 1.0, steps)], tolerance, reach)
            for epsilon in (0.0, 0.1, 1.0, 3.9):
                enclosed = composition.delta(epsilon)
                assert abs(enclosed.value - gdp_delta(epsilon, 1 / noise)) <= enclosed.error


def two_steps(kappa: float, noise: float, rate: float) -> float:
    """The bound for two steps by direct integration over the first one."""

    def loss(x: float) -> float:
        return math.log1p(rate * math.expm1((2 * x - 1) / (2 * noise**2)))

    def tail(threshold: float, with_record: bool) -> float:
        def chance(x: float) -> float:
            gap = math.expm1(threshold - loss(x)) / rate + 1
            cut = noise**2 * math.log(gap) + 0.5 if gap > 0 else -math.inf
            silent = special.ndtr(-cut / noise)
            value = silent
            if with_record:
                value = (1 - rate) * silent + rate * special.ndtr((1 - cut) / noise)
                value *= math.exp(loss(x))
            return value * math.exp(-0.5 * (x / noise) ** 2) / (noise * math.sqrt(2 * math.pi))

        ends = np.linspace(-10 * noise, 1 + 10 * noise, 13)
        parts = [
            integrate.quad(chance, a, b, epsabs=1e-14, limit=200)[0] for a, b in pairwise(ends)
        ]
        return sum(parts)

    low, high = 2 * math.log1p(-rate) + 1e-9, -math.log(kappa)
    threshold = optimize.brentq(lambda t: tail(t, False) - kappa, low, high, xtol=1e-14)
    return tail(threshold, True)


@pytest.mark.parametrize(("noise", "rate"), [(1.0, 0.1), (2.0, 0.3)])
def test_two_steps_against_direct_integration(noise: float, rate: float) -> None:
    lower, upper = rero_subsampled_gaussian(0.1, noise, rate, 2)
    assert upper - lower < 1e-9
    assert (lower + upper) / 2 == pytest.approx(two_steps(0.1, noise, rate), abs=1e-9)


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "grid"), [(1.0, 0.01, 1000, 1e-3), (0.6, 0.01, 1000, 1e-3)]
)
def test_below_a_pessimistic_privacy_loss_distribution(
    noise: float, rate: float, steps: int, grid: float
) -> None:
    """An upper bound by another method, which must lie above, and close."""
    from dp_accounting.pld import privacy_loss_distribution as pld

    law = pld.from_gaussian_mechanism(
        noise, sampling_prob=rate, value_discretization_interval=grid
    ).self_compose(steps)
    removal = law._pmf_remove.to_dense_pmf()
    loss = (np.arange(len(removal._probs)) + removal._lower_loss) * grid
    mass = removal._probs
    order = np.argsort(-loss)
    loss, mass = loss[order], mass[order]
    for kappa in (0.001, 0.1):
        share = mass * np.exp(-loss)
        before = np.concatenate(([0.0], np.cumsum(share)[:-1]))
        part = np.clip((kappa - before) / np.maximum(share, 1e-300), 0, 1)
        pessimistic = removal._infinity_mass + float(mass @ part)
        lower, upper = rero_subsampled_gaussian(kappa, noise, rate, steps)
        assert lower <= upper <= pessimistic <= lower + 2e-4


def test_inside_the_monte_carlo_interval() -> None:
    for noise, rate, steps, kappa in ((0.5, 0.05, 30, 0.1), (0.4, 0.01, 100, 0.01)):
        lower, upper = rero_subsampled_gaussian(kappa, noise, rate, steps)
        estimate = rero_subsampled_gaussian_approx(kappa, noise, rate, steps, "mc", draws=40_000)
        assert estimate.low <= lower <= upper <= estimate.high
        assert estimate.high - estimate.low < 0.04


def test_the_published_expansion_is_no_bound() -> None:
    """It overstates here and understates there; both values are the official code's."""
    over = rero_subsampled_gaussian_approx(0.01, 0.4, 0.01, 100, "edgeworth").value
    under = rero_subsampled_gaussian_approx(0.1, 0.5, 0.05, 30, "edgeworth").value
    assert over == pytest.approx(0.2507, abs=5e-5)
    assert under == pytest.approx(0.3947, abs=5e-5)
    assert over > rero_subsampled_gaussian(0.01, 0.4, 0.01, 100)[1]
    assert under < rero_subsampled_gaussian(0.1, 0.5, 0.05, 30)[0]
    mixed = rero_subsampled_gaussian_approx(0.1, 1.0, 0.001, 10**4, "edgeworth").value
    assert mixed == pytest.approx(rero_subsampled_gaussian(0.1, 1.0, 0.001, 10**4)[0], abs=2e-5)
    normal = rero_subsampled_gaussian_approx(0.1, 1.0, 0.001, 10**4, "clt").value
    assert normal == pytest.approx(0.125, abs=1e-3)


def test_bounds_hold_however_the_grid_is_chosen() -> None:
    """Enclosures of one number must overlap at every tolerance and period."""
    intervals = [
        Composition([(1.0, 0.01, 1000)], tolerance, reach).blow_up(0.1)
        for tolerance in (1e-6, 1e-8, 1e-10, 1e-12)
        for reach in (4.0, 20.0)
    ]
    assert max(low for low, _ in intervals) <= min(high for _, high in intervals)
    assert min(high - low for low, high in intervals) < 1e-10


@settings(max_examples=15)
@given(
    kappa=st.floats(0.01, 0.6),
    noise=st.floats(0.7, 5),
    rate=st.floats(0.01, 1),
    steps=st.integers(20, 3000),
)
def test_monotone(kappa: float, noise: float, rate: float, steps: int) -> None:
    lower, upper = rero_subsampled_gaussian(kappa, noise, rate, steps)
    assert kappa <= lower <= upper <= 1
    assert upper - lower < 1e-9
    assert rero_subsampled_gaussian(kappa, 1.1 * noise, rate, steps)[0] <= upper
    assert rero_subsampled_gaussian(kappa, noise, 0.9 * rate, steps)[0] <= upper
    assert rero_subsampled_gaussian(kappa, noise, rate, steps + 10)[1] >= lower
    assert lower <= rero_gaussian(kappa, noise, steps) + 1e-12


def test_histories() -> None:
    whole = rero_composition(0.1, [(1.0, 0.01, 1000)])
    assert rero_composition(0.1, [(1.0, 0.01, 400), (1.0, 0.01, 600)]) == whole
    mixed = rero_composition(0.1, [(1.0, 0.01, 500), (2.0, 0.02, 500)])
    assert mixed[1] - mixed[0] < 1e-9
    one = rero_composition(0.1, [(1.0, 0.01, 500)])
    assert one[1] < mixed[0]
    full = rero_composition(0.1, [(3.0, 1.0, 2), (4.0, 1.0, 5)])
    mu = math.sqrt(2 / 9 + 5 / 16)
    assert full[1] == pytest.approx(rero_gaussian(0.1, 1 / mu), abs=1e-13)
    # a full step beside sampled ones, against the sampled ones with the step's rate near 1
    beside = rero_composition(0.1, [(3.0, 1.0, 1), (2.0, 0.1, 50)])
    almost = rero_composition(0.1, [(3.0, 1 - 1e-9, 1), (2.0, 0.1, 50)])
    assert beside[0] == pytest.approx(almost[0], abs=1e-8)
    with pytest.raises(ValueError, match="at least one phase"):
        rero_composition(0.1, [])


def test_edges() -> None:
    assert rero_subsampled_gaussian(0.0, 1.0, 0.1, 10) == (0.0, 0.0)
    assert rero_subsampled_gaussian(1.0, 1.0, 0.1, 10) == (1.0, 1.0)
    # without noise the record is found as soon as it is used
    lower, upper = rero_subsampled_gaussian(0.1, 0.0, 0.01, 10)
    assert lower == pytest.approx(1 - 0.99**10 * 0.9)
    assert upper == pytest.approx(lower)
    assert rero_subsampled_gaussian(0.1, 0.5, 0.5, 10**6)[0] > 1 - 1e-10  # far apart
    nearly = rero_subsampled_gaussian(0.001, 1.0, 0.1, 10**4)
    assert nearly[1] - nearly[0] < 1e-9
    tiny = rero_subsampled_gaussian(1e-9, 1.0, 0.01, 1000)
    assert 1e-9 < tiny[0] <= tiny[1] < 1e-7
    large = rero_subsampled_gaussian(0.1, 100.0, 0.5, 10**6)
    assert large[1] - large[0] < 1e-9


def test_next_to_no_noise() -> None:
    """A use of the record is all but seen; the bounds close where both roads apply."""
    lower, upper = rero_subsampled_gaussian(0.1, 0.05, 0.01, 100)
    assert lower <= 1 - 0.99**100 * 0.9 <= upper + 1e-12
    assert upper - lower < 1e-12
    lower, upper = rero_subsampled_gaussian(0.1, 0.079, 0.05, 2)
    wide = rero_subsampled_gaussian(0.1, 0.081, 0.05, 2)
    assert wide[0] - 1e-6 <= upper <= wide[1] + 1e-6
    mixed = rero_composition(0.1, [(0.01, 0.1, 1), (1.0, 0.1, 20)])
    other = rero_composition(0.1, [(1.0, 0.1, 20)])
    assert mixed[1] == pytest.approx(0.1 + 0.9 * other[1], abs=1e-9)
    assert mixed[1] - mixed[0] < 1e-9
    assert composition_epsilon(1e-5, [(0.01, 0.1, 3)])[1] < math.inf


def test_arrays_and_tensors() -> None:
    lower, upper = rero_subsampled_gaussian(np.array([0.1, 0.2]), [[1.0], [2.0]], 0.01, 100)
    assert lower.shape == upper.shape == (2, 2)
    assert upper[1, 0] == pytest.approx(rero_subsampled_gaussian(0.1, 2.0, 0.01, 100)[1])
    low, high = rero_subsampled_gaussian(torch.tensor([0.1, 0.2]), 1.0, 0.01, 100)
    assert low.dtype == high.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(n, math.nan) for n in ("kappa", "noise_multiplier", "sample_rate", "steps")],
        *[("kappa", 1.2), ("noise_multiplier", -1), ("sample_rate", 0), ("sample_rate", 1.5)],
        *[("steps", 0), ("steps", 2.5), ("steps", math.inf)],
    ],
)
def test_wrong_values_are_named(name: str, value: Any) -> None:
    good = {"kappa": 0.1, "noise_multiplier": 1.0, "sample_rate": 0.1, "steps": 10}
    with pytest.raises(ValueError, match=f"{name} must be"):
        rero_subsampled_gaussian(**{**good, name: value})


def test_inverse_is_just_enough() -> None:
    noise = rero_subsampled_gaussian_inverse(0.2, 0.1, 0.01, 1000)
    assert rero_subsampled_gaussian(0.1, noise, 0.01, 1000)[1] <= 0.2
    assert rero_subsampled_gaussian(0.1, noise * 0.9999, 0.01, 1000)[1] > 0.2
    assert rero_subsampled_gaussian_inverse(0.1, 0.1, 0.01, 1000) == math.inf
    assert rero_subsampled_gaussian_inverse(1.0, 0.1, 0.01, 1000) == 0.0


@pytest.mark.parametrize(
    ("history", "epsilon"),
    [
        ([(1.0, 0.01, 1000)], 1.8282),
        ([(1.0, 0.01, 10_000)], 6.1877),
        ([(1.0, 0.01, 500), (2.0, 0.02, 500)], 1.6151),
        ([(4.1, 0.5, 60), (4.1, 0.16, 300)], 5.3768),
    ],
)
def test_epsilon_against_the_pld_accountant(
    history: list[tuple[float, float, int]], epsilon: float
) -> None:
    lower, upper = composition_epsilon(1e-5, history)
    assert upper - lower < 1e-5
    assert upper == pytest.approx(epsilon, abs=1.2e-4)
    assert composition_delta(upper, history)[1] <= 1e-5 * (1 + 1e-6)


def test_epsilon_of_full_participation_is_the_gaussian_one() -> None:
    lower, upper = composition_epsilon(1e-5, [(3.0, 1.0, 5)])
    assert lower <= gdp_epsilon(1e-5, math.sqrt(5) / 3) <= upper
    # and nearly so through the Fourier road, for a rate next to 1
    nearly = composition_epsilon(1e-5, [(3.0, 1 - 1e-12, 5)])
    assert nearly[0] == pytest.approx(lower, abs=1e-6)
