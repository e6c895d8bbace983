import math

import numpy as np
import pytest

from lightning_priv.accountants import ACCOUNTANTS, delta, epsilon
from lightning_priv.accountants.history import canonical_history, merge_unsampled


def test_equal_pairs_are_merged_whatever_their_order():
    split = [(2.0, 0.02, 3), (1.0, 0.01, 4), (2.0, 0.02, 5), (1.0, 0.01, 0), (3.0, 0.0, 9)]
    assert canonical_history(split) == ((1.0, 0.01, 4), (2.0, 0.02, 8))


def test_numpy_numbers_are_accepted():
    entry = (np.float32(1.5), np.float64(0.25), np.int64(7))
    assert canonical_history([entry]) == ((1.5, 0.25, 7),)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ((-1.0, 0.1, 1), "noise_multiplier of history\\[0\\] is -1.0"),
        ((math.nan, 0.1, 1), "noise_multiplier"),
        ((math.inf, 0.1, 1), "finite"),
        ((1.0, -0.1, 1), "sample_rate"),
        ((1.0, 1.1, 1), "from 0 to 1"),
        ((1.0, math.nan, 1), "sample_rate"),
        ((1.0, 0.1, -1), "steps"),
        ((1.0, 0.1, 1.5), "whole number"),
        ((1.0, 0.1, math.nan), "steps"),
        ((1.0, 0.1, math.inf), "steps"),
        ((1.0, 0.1), "every entry is"),
        ("1.0", "every entry is"),
        (1.0, "every entry is"),
    ],
)
def test_wrong_entries_are_named(entry, message):
    with pytest.raises(ValueError, match=message):
        epsilon([entry], 1e-5)


@pytest.mark.parametrize("bad", [0.0, 1.0, -0.1, math.nan, 2.0])
def test_wrong_delta(bad):
    with pytest.raises(ValueError, match="delta is"):
        epsilon([(1.0, 0.1, 1)], bad)


@pytest.mark.parametrize("bad", [-1.0, math.nan])
def test_wrong_epsilon(bad):
    with pytest.raises(ValueError, match="epsilon is"):
        delta([(1.0, 0.1, 1)], bad)


def test_unknown_choices_list_the_known_ones():
    with pytest.raises(ValueError, match="rdp, prv, pld, gdp"):
        epsilon([], 1e-5, accountant="moments")
    with pytest.raises(ValueError, match=r"add_remove .* replace_special"):
        epsilon([], 1e-5, neighbouring="replace_one")


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_the_ends_of_the_ranges(accountant):
    assert epsilon([], 1e-5, accountant) == 0
    assert epsilon([(1.0, 0.0, 1000), (1.0, 0.5, 0)], 1e-5, accountant) == 0
    assert epsilon([(0.0, 0.0, 1000)], 1e-5, accountant) == 0
    assert epsilon([(1.0, 0.1, 10), (0.0, 1e-9, 1)], 1e-5, accountant) == math.inf
    assert delta([], 1.0, accountant) == 0
    assert delta([(0.0, 0.1, 1)], 1.0, accountant) == 1
    assert delta([(1.0, 0.1, 1)], math.inf, accountant) == 0


def test_merging_unsampled_steps_keeps_the_precision():
    merged = merge_unsampled([(2.0, 1.0, 4), (1.0, 0.5, 3), (4.0, 1.0, 16)])
    assert merged[0] == (1.0, 0.5, 3)
    assert merged[1] == (pytest.approx(1 / math.sqrt(2)), 1.0, 1)
