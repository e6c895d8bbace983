import numpy as np
import pytest
import torch
from scipy.stats import kstest

from lightning_priv.strategies.noise import DefaultNoise, SecureNoise, make_noise

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["default", "secure"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_law_is_normal(kind, dtype):
    values = torch.full((40_000,), 3.0, dtype=dtype)
    make_noise(kind, CPU, seed=None).add_to([values], 0.7)
    assert values.dtype == dtype
    assert kstest((values.double().numpy() - 3) / 0.7, "norm").pvalue > 1e-5


def test_secure_noise_covers_any_length_and_is_never_the_same():
    noise = SecureNoise()
    for count in (0, 1, 1 << 20, (1 << 20) + 3):
        values = torch.zeros(count)
        noise.add_to([values], 1.0)
        assert (values == 0).sum() <= 1
    a, b = torch.zeros(1000), torch.zeros(1000)
    noise.add_to([a], 1.0)
    SecureNoise().add_to([b], 1.0)
    assert not torch.equal(a, b)
    assert noise.state() is None
    with pytest.raises(ValueError, match="no state"):
        noise.restore(torch.zeros(1))


def test_default_noise_is_seeded_with_more_than_32_bits():
    def draw(seed):
        values = torch.zeros(50)
        DefaultNoise(CPU, seed).add_to([values], 1.0)
        return values

    assert torch.equal(draw(5), draw(5))
    # manual_seed would give the same numbers for seeds that agree in their low 32 bits
    assert not torch.equal(draw(5), draw(5 + (1 << 32)))
    assert not torch.equal(draw(5), draw(5 + (1 << 100)))
    assert not torch.equal(draw(None), draw(None))


def test_the_whole_state_is_drawn_from_the_seed():
    generator = DefaultNoise(CPU, 11).generator
    reference = np.random.MT19937(np.random.SeedSequence(11))
    state = reference.state
    state["state"]["pos"] = 624  # numpy would first use up the last word as it is
    reference.state = state
    # torch makes a 64-bit integer from two draws of the Mersenne twister, low one last
    high, low = reference.random_raw(2)
    drawn = torch.empty(1, dtype=torch.int64).random_(generator=generator).item()
    assert drawn == ((int(high) << 32) | int(low)) % (2**63)


def test_state_continues_the_stream():
    noise = DefaultNoise(CPU, 1)
    noise.add_to([torch.zeros(33)], 1.0)
    state = noise.state().clone()
    a, b = torch.zeros(9), torch.zeros(9)
    noise.add_to([a], 1.0)
    other = DefaultNoise(CPU)
    other.restore(state)
    other.add_to([b], 1.0)
    assert torch.equal(a, b)


def test_the_global_generator_is_not_touched():
    before = torch.get_rng_state()
    DefaultNoise(CPU).add_to([torch.zeros(100)], 1.0)
    SecureNoise().add_to([torch.zeros(100)], 1.0)
    assert torch.equal(before, torch.get_rng_state())
