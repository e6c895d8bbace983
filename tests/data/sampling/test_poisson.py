from itertools import chain

import numpy as np
import pytest
from torch.utils.data import DataLoader

from lightning_priv.data.sampling import PoissonSampler, ShuffleSampler

SEED = 0x1234_5678_9ABC_DEF0_0FED_CBA9_8765_4321


@pytest.mark.parametrize("cryptographic", [False, True])
def test_inclusion_frequency_is_the_rate(cryptographic):
    rates = np.repeat([0.0, 0.02, 0.3, 0.85, 1.0], 40)
    steps = 4000
    sampler = PoissonSampler(rates, 200, steps, SEED, cryptographic=cryptographic)
    counts = np.zeros(200)
    for batch in sampler:
        counts[batch] += 1
    standard_error = np.sqrt(steps * rates * (1 - rates))
    assert np.all(np.abs(counts - steps * rates) <= 4.5 * standard_error)
    assert np.all(counts[:40] == 0)
    assert np.all(counts[-40:] == steps)
    # a cohort's total is much sharper than one record's count
    for k, rate in enumerate([0.02, 0.3, 0.85], start=1):
        total = counts[40 * k : 40 * k + 40].sum()
        assert abs(total - 40 * steps * rate) <= 4 * np.sqrt(40 * steps * rate * (1 - rate))


def test_ranks_share_out_the_global_batch():
    whole = list(PoissonSampler(0.1, 101, 50, SEED))
    for world_size in (2, 3):
        ranks = [
            list(PoissonSampler(0.1, 101, 50, SEED, rank=r, world_size=world_size))
            for r in range(world_size)
        ]
        for step, batch in enumerate(whole):
            parts = [ranks[r][step] for r in range(world_size)]
            assert sorted(chain(*parts)) == batch
            sizes = [len(p) for p in parts]
            assert max(sizes) - min(sizes) <= 1


def test_inclusions_are_uncorrelated_between_records_and_steps():
    steps, q = 6000, 0.2
    mask = np.zeros((steps, 6))
    for t, batch in enumerate(PoissonSampler(q, 6, steps, SEED)):
        mask[t, batch] = 1
    centred = mask - q
    between_records = centred.T @ centred / steps / (q * (1 - q))
    assert np.all(np.abs(between_records - np.eye(6)) < 5 / np.sqrt(steps))
    between_steps = (centred[1:] * centred[:-1]).mean(0) / (q * (1 - q))
    assert np.all(np.abs(between_steps) < 4.5 / np.sqrt(steps))
    # the shares of two ranks: a record that is drawn says nothing about one drawn on the other rank
    sizes = np.array([len(b) for b in PoissonSampler(q, 400, steps, SEED)])
    assert abs(sizes.mean() - 80) < 4.5 * np.sqrt(64 / steps)
    assert 0.9 < sizes.var() / 64 < 1.1  # binomial, not clumped


def test_batches_depend_on_step_only_and_resume_in_mid_pass():
    full = list(PoissonSampler(0.1, 60, 20, SEED))
    later = PoissonSampler(0.1, 60, 20, SEED, position=8)
    assert list(later)[:12] == full[8:]
    sampler = PoissonSampler(0.1, 60, 5, SEED)
    assert list(sampler) == list(sampler)  # the position has not moved
    sampler.position = 5
    assert list(sampler) == full[5:10]
    assert list(PoissonSampler(0.1, 60, 20, SEED + 1)) != full


def test_prefetching_workers_do_not_disturb_the_record_of_what_was_drawn():
    sampler = PoissonSampler(0.3, 30, 12, SEED)
    loader = DataLoader(list(range(30)), batch_sampler=sampler, collate_fn=list, num_workers=2)
    expected = list(PoissonSampler(0.3, 30, 12, SEED))
    for step, batch in enumerate(loader):
        drawn = sampler.drawn.popleft()
        assert batch == expected[step]
        assert drawn == (step, len(batch), len(batch))


def test_empty_batches_are_handed_out():
    batches = list(PoissonSampler(0.01, 5, 200, SEED))
    assert len(batches) == 200
    assert sum(not b for b in batches) > 150


def test_shuffle_gives_each_record_once_a_pass_in_a_new_order():
    sampler = ShuffleSampler(4, 22, SEED)
    assert len(sampler) == 5
    first = list(chain(*sampler))
    sampler.position = 5
    second = list(chain(*sampler))
    assert len(set(first)) == len(first) == 20
    assert len(set(second)) == 20
    assert first != second
    halves = [list(ShuffleSampler(4, 22, SEED, rank=r, world_size=2)) for r in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*halves, strict=True)] == [
        sorted(b) for b in ShuffleSampler(4, 22, SEED)
    ]


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"rates": [0.1, 0.2], "num_records": 3}, "one for each record"),
        ({"rates": 1.5, "num_records": 3}, "probabilities"),
        ({"rates": float("nan"), "num_records": 3}, "probabilities"),
        ({"rates": 0.1, "num_records": 0}, "empty"),
        ({"rates": 0.1, "num_records": 3, "rank": 2, "world_size": 2}, "rank"),
        ({"rates": 0.1, "num_records": 3, "seed": 1 << 128}, "128 bits"),
    ],
)
def test_wrong_arguments_are_named(kwargs, words):
    with pytest.raises(ValueError, match=words):
        PoissonSampler(**{"steps": 2, "seed": 1, **kwargs})
