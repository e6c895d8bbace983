import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from private_kit import REPEATABLE, SmallModule, fit, private, weights
from torch import nn

from lightning_priv.callbacks import PretrainedWeights
from lightning_priv.errors import ConfigurationError
from lightning_priv.nn import FineTuned, LoRA
from lightning_priv.strategies import DPSGDStrategy


class Net(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.Softplus())
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.body(x))


@pytest.fixture
def saved():
    """A checkpoint of a public training with other classes."""
    torch.manual_seed(5)
    module = SmallModule(Net(classes=7))
    torch.save({"state_dict": module.state_dict(), "epoch": 3}, "public.ckpt")
    return module.net


def start(net, **options):
    return SmallModule(net), PretrainedWeights("public.ckpt", "net.net", "net.", **options)


@pytest.mark.parametrize("wrap", [FineTuned, lambda net: LoRA(net, rank=2)], ids=["head", "lora"])
@pytest.mark.parametrize("engine", ["hooks", "ghost", "auto"])
def test_only_the_chosen_layers_move_and_account_as_ever(saved, wrap, engine):
    module, callback = start(wrap(Net()), skip=["head.*"])
    strategy = private(engine=engine)
    fit(strategy, module, callbacks=[callback], max_epochs=2)
    for name in ("body.0.weight", "body.0.bias"):
        assert torch.equal(module.net.net.state_dict()[name], saved.state_dict()[name])
    moved = {n for n, p in module.net.named_parameters() if p.requires_grad}
    assert {n for n in moved if "head" in n} == {"net.head.weight", "net.head.bias"}
    assert strategy.history == [(1.0, 1 / 6, 12)]
    if isinstance(module.net, LoRA):
        assert float(module.net.net.body[0].up.weight.detach().abs().min()) > 0  # noise at least


def test_dp_module_trains_the_last_layer_alone(saved):
    module = SmallModule(Net())
    body = module.net.body[0].weight.detach().clone()
    head = module.net.head.weight.detach().clone()
    fit(private(dp_module="net.head"), module, max_epochs=1)
    assert torch.equal(module.net.body[0].weight, body)
    assert not torch.equal(module.net.head.weight, head)


def test_a_resumed_run_does_not_load_again(saved):
    options = {**REPEATABLE, "count_abandoned": False}
    checkpoint = ModelCheckpoint("ckpt", every_n_train_steps=8, save_top_k=-1, filename="{step}")
    module, callback = start(LoRA(Net(), rank=2), skip=["head.*"])
    kept = {"callbacks": [callback, checkpoint], "enable_checkpointing": True}
    _, whole = fit(DPSGDStrategy(**options), module, **kept)
    module, callback = start(LoRA(Net(), rank=2), skip=["head.*"])
    callback.path = "gone.ckpt"
    _, resumed = fit(
        DPSGDStrategy(**options), module, callbacks=[callback], ckpt_path="ckpt/step=8.ckpt"
    )
    assert torch.equal(weights(resumed), weights(whole))


def test_mistakes(saved):
    def attempt(net=None, path="public.ckpt", module="net", prefix="net.", **options):
        callback = PretrainedWeights(path, module, prefix, **options)
        fit("auto", SmallModule(net or Net()), callbacks=[callback], max_epochs=1)

    with pytest.raises(ConfigurationError, match=r"head.bias has shape \(7,\), not \(3,\)"):
        attempt()
    with pytest.raises(ConfigurationError, match=r"nowhere.pt: there is no such file"):
        attempt(path="nowhere.pt")
    with pytest.raises(ConfigurationError, match="has no part 'body'"):
        attempt(module="body")
    with pytest.raises(ConfigurationError, match=r"names begin with 'model.'; it has net.body"):
        attempt(prefix="model.")
    with pytest.raises(ConfigurationError, match=r"0.weight is missing"):
        attempt(net=nn.Sequential(nn.Linear(6, 3)))
