import copy
import pickle
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from lightning_priv.data import EpochSampler, ShardSampler
from lightning_priv.data.sampling import EpochIndex, evaluation_batch_size, hashed, mix


def dataset(samples: int) -> TensorDataset:
    return TensorDataset(torch.zeros(samples))


def order(sampler: EpochSampler, epoch: int) -> list[int]:
    sampler.set_epoch(epoch)
    return [int(i) for i in sampler]


def test_the_order_follows_from_seed_and_epoch_alone() -> None:
    used, fresh = EpochSampler(dataset(50), seed=3), EpochSampler(dataset(50), seed=3)
    for epoch in range(4):
        order(used, epoch)
    assert order(used, 7) == order(fresh, 7)
    assert order(used, 7) != order(used, 8)
    assert order(used, 7) != order(EpochSampler(dataset(50), seed=4), 7)


def test_neighbouring_seeds_share_no_epoch() -> None:
    # torch's own sampler takes seed + epoch: seed 0, epoch 1 is seed 1, epoch 0
    assert order(EpochSampler(dataset(50), seed=0), 1) != order(
        EpochSampler(dataset(50), seed=1), 0
    )


def test_the_order_is_fixed_at_the_first_draw_not_at_iter() -> None:
    sampler = EpochSampler(dataset(20))
    early = iter(sampler)
    sampler.set_epoch(5)
    assert [int(i) for i in early] == order(EpochSampler(dataset(20)), 5)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 120), st.integers(1, 5), st.integers(1, 16), st.integers(0, 3))
def test_processes_share_one_order(samples: int, world: int, batch: int, epoch: int) -> None:
    if samples < world:
        with pytest.raises(ValueError, match="cannot be shared"):
            EpochSampler(dataset(samples), 0, batch, world)
        return
    shares = [
        order(EpochSampler(dataset(samples), 1, batch, world, r), epoch) for r in range(world)
    ]
    assert len({len(share) for share in shares}) == 1  # all take equally many steps
    together = [position for row in zip(*shares, strict=True) for position in row]
    alone = order(EpochSampler(dataset(samples), 1), epoch)
    assert together == alone[: len(together)]  # so nothing comes twice
    per_process = len(shares[0])
    assert samples - len(together) <= world - 1 + world
    assert per_process % batch != 1 or batch == 1 or per_process == 1


@pytest.mark.parametrize(
    ("samples", "batch", "kept"), [(9, 4, 8), (10, 4, 10), (5, 1, 5), (1, 4, 1), (9, None, 9)]
)
def test_a_last_batch_of_one_sample_is_left_out(samples: int, batch: int | None, kept: int) -> None:
    sampler = EpochSampler(dataset(samples), 0, batch)
    assert len(sampler) == len(order(sampler, 0)) == kept


def test_the_sample_left_out_changes() -> None:
    sampler = EpochSampler(dataset(9), 0, 4)
    missing = {(set(range(9)) - set(order(sampler, epoch))).pop() for epoch in range(30)}
    assert len(missing) > 4


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 120), st.integers(1, 5), st.integers(1, 20))
def test_evaluation_takes_each_sample_once_in_equally_many_batches(
    samples: int, world: int, batch: int
) -> None:
    if samples < world:
        with pytest.raises(ValueError, match=f"{samples} samples cannot be shared by {world}"):
            ShardSampler(dataset(samples), world)
        return
    samplers = [ShardSampler(dataset(samples), world, rank) for rank in range(world)]
    shares = [list(sampler) for sampler in samplers]
    assert sorted(chain(*shares)) == list(range(samples))
    assert [len(sampler) for sampler in samplers] == [len(share) for share in shares]
    size = evaluation_batch_size(samples, world, batch)
    assert size >= batch
    assert len({-(-len(share) // size) for share in shares}) == 1


def test_the_batch_size_stays_where_it_can() -> None:
    assert evaluation_batch_size(100, 1, 50) == 50
    assert evaluation_batch_size(100, 2, 50) == 50
    assert evaluation_batch_size(101, 2, 49) == 49


def test_an_index_carries_its_key_through_copies() -> None:
    index = EpochIndex(5, key=9)
    assert index == 5
    assert [10, 11, 12, 13, 14, 15][index] == 15
    for twin in (pickle.loads(pickle.dumps(index)), copy.deepcopy(index)):
        assert (twin, twin.key) == (5, 9)


def test_mix_is_a_fixed_function_of_ordered_numbers() -> None:
    assert mix(1, 2) != mix(2, 1) != mix(1, 2, 0)
    seen = {mix(seed, epoch) for seed in range(-5, 50) for epoch in range(50)}
    assert len(seen) == 55 * 50
    assert all(0 <= number < 2**63 for number in seen)
    assert mix(0) == 0xE220A8397B1DCDAF >> 1  # splitmix64's first word for seed 0, without a bit


def test_the_first_word_of_splitmix64() -> None:
    # published test vector of splitmix64 with seed 1234567 (Steele et al.; Rosetta Code)
    words = hashed(1234567, np.array([1, 2, 3]))
    assert words.tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_hashed_words_are_uniform_and_uncorrelated() -> None:
    words = hashed(mix(0, 0), np.arange(20000))
    bits = (words[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    sigma = 0.5 / np.sqrt(len(words))
    assert np.abs(bits.mean(0) - 0.5).max() < 5 * sigma
    other = hashed(mix(0, 1), np.arange(20000))
    equal = ((words[:, None] ^ other[:, None]) >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(equal.mean(0) - 0.5).max() < 5 * sigma
