import pytest
import torch

from lightning_priv.callbacks.fixed_masks import FixedMasks
from lightning_priv.nn import MishResNet9
from lightning_priv.nn.per_sample import module_problems


def test_layout():
    net = MishResNet9(10)
    assert sum(p.numel() for p in net.parameters()) == 2_448_714
    assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert MishResNet9(11, in_channels=1, width=4)(torch.zeros(1, 1, 128, 128)).shape == (1, 11)
    assert not module_problems(net)


def test_dropout_is_there_for_draws_alone():
    torch.manual_seed(0)
    net, x = MishResNet9(4, width=4, scoring_dropout=0.3), torch.randn(3, 3, 32, 32)
    twin = MishResNet9(4, width=4)
    twin.load_state_dict(net.state_dict())
    assert torch.equal(net.train()(x), twin.train()(x))
    net.eval()
    draws = []
    for seed in (1, 2, 1):
        with FixedMasks(net, seed):
            draws.append(net(x))
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])
    assert torch.equal(net(x), twin.eval()(x))
    with pytest.raises(ValueError, match="scoring_dropout=1"):
        MishResNet9(4, scoring_dropout=1.0)
