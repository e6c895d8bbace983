import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_priv.data.sampling import BlockSampler


@given(st.integers(0, 60), st.integers(1, 9), st.integers(1, 5))
def test_every_sample_once_in_the_same_blocks(size, block, replicas):
    if size == 0:
        return
    shares = [list(BlockSampler(range(size), block, replicas, r)) for r in range(replicas)]
    assert sorted(i for share in shares for i in share) == list(range(size))
    blocks = {tuple(s[i : i + block]) for s in shares for i in range(0, len(s), block)}
    alone = list(BlockSampler(range(size), block))
    assert blocks == {tuple(alone[i : i + block]) for i in range(0, size, block)}


def test_lengths():
    sampler = BlockSampler(torch.arange(7), 2, 2, 1)
    assert len(sampler) == 3
    assert len(BlockSampler(torch.arange(2), 2, 3, 2)) == 0
    with pytest.raises(ValueError, match="rank"):
        BlockSampler(torch.arange(2), 2, 2, 2)
