import pytest
import torch
from abstention_kit import member, probabilities, samples
from torch import nn

from lightning_priv.errors import ConfigurationError, DivergenceError
from lightning_priv.nn.ensemble import Ensemble
from lightning_priv.nn.ensemble import probabilities as as_probabilities
from lightning_priv.nn.member_files import duplicates, find_member_files, state_digest

X = samples()[0]


@pytest.mark.parametrize(
    "options",
    [{}, {"mode": "vmap"}, {"chunk_size": 2}, {"mode": "loop"}, {"offload": True}],
    ids=str,
)
def test_equals_the_members_one_by_one(options):
    seeds = [1, 2, 3, 4, 5]
    ensemble = Ensemble([member(s) for s in seeds], **options)
    expected = probabilities(seeds, X)
    torch.testing.assert_close(ensemble(X), expected, rtol=0, atol=1e-6)
    assert ensemble.train().training is False
    torch.testing.assert_close(ensemble(X), expected, rtol=0, atol=1e-6)  # no dropout
    for place, seed in enumerate(seeds):
        assert state_digest(ensemble.member(place).state_dict()) == state_digest(
            member(seed).state_dict()
        )


def test_members_of_several_architectures_run_in_a_loop():
    ensemble = Ensemble([member(1), member(2, hidden=9)])
    assert ensemble(X).shape == (2, len(X), 3)
    with pytest.raises(ValueError, match="mode='vmap'"):
        Ensemble([member(1), member(2, hidden=9)], mode="vmap")
    with pytest.raises(ConfigurationError, match="outputs of shape"):
        Ensemble([member(1), member(2, outputs=4)])(X)


def test_kinds_of_outputs():
    logits = torch.tensor([[[2.0, -1.0], [0.3, 0.1]]])
    torch.testing.assert_close(as_probabilities(logits), logits.softmax(-1))
    probs = logits.softmax(-1)
    torch.testing.assert_close(as_probabilities(probs), probs)
    torch.testing.assert_close(as_probabilities(probs, "logits"), probs.softmax(-1))
    one = torch.tensor([[[2.0], [-3.0]]])
    p = one[..., 0].sigmoid()
    torch.testing.assert_close(as_probabilities(one), torch.stack([1 - p, p], -1))
    torch.testing.assert_close(as_probabilities(one, multilabel=True), one.sigmoid())
    with pytest.raises(ConfigurationError, match="may be logits or"):
        as_probabilities(torch.tensor([[[0.2], [0.9]]]))
    with pytest.raises(ConfigurationError, match="do not sum to one"):
        as_probabilities(logits, "probabilities")
    with pytest.raises(DivergenceError, match=r"members \[1\]"):
        as_probabilities(torch.tensor([[[1.0, 2.0]], [[torch.nan, 1.0]]]))


def test_bad_members():
    with pytest.raises(ValueError, match="at least one member"):
        Ensemble([])
    with pytest.raises(ConfigurationError, match=r"shape \(B, C\)"):
        Ensemble([nn.Identity()])(torch.zeros(2, 3, 4, 5))


def test_files_are_found_in_natural_order(tmp_path):
    for name in ("a10/best.ckpt", "a9/best.ckpt", "b/2.ckpt", "b/10.ckpt", "c/s2/member.ckpt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "c/s2/checkpoints").mkdir()
    (tmp_path / "c/s2/checkpoints/last.ckpt").touch()

    def names(where):
        return [str(p.relative_to(tmp_path)) for p in find_member_files(where)]

    assert names(f"{tmp_path}/a*/best.ckpt") == ["a9/best.ckpt", "a10/best.ckpt"]
    assert names(tmp_path / "b") == ["b/2.ckpt", "b/10.ckpt"]
    assert names(str(tmp_path / "c")) == ["c/s2/member.ckpt"]
    with pytest.raises(ConfigurationError, match=r"nothing/\*\.ckpt' names no checkpoint"):
        find_member_files("nothing/*.ckpt")


def test_duplicates_are_found_by_content():
    states = [member(s).state_dict() for s in (1, 2, 1)]
    assert duplicates(states) == [[0, 2]]
