"""Pretrained networks of torchvision, read from files only."""

from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from lightning_priv.errors import ConfigurationError, DatasetUnavailableError
from lightning_priv.models import TorchvisionModel


def test_weights_of_a_file_give_torchvisions_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(Path.cwd()))
    torch.manual_seed(0)
    net = resnet18().eval()
    torch.save(net.state_dict(), "w.pt")
    model = TorchvisionModel(weights="w.pt").eval()
    model.configure_model()
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(x), net(x))
        assert torch.equal(model.predict_step((x, torch.zeros(2)), 0), net(x))
        model.resize = 40
        assert model(x).shape == (2, 1000)
    with pytest.raises(DatasetUnavailableError, match="download true"):
        TorchvisionModel().configure_model()
    with pytest.raises(ConfigurationError, match="no weights of resnet18"):
        TorchvisionModel(weights="nothing").configure_model()
    with pytest.raises(ConfigurationError, match="do not fit"):
        TorchvisionModel("resnet34", weights="w.pt").configure_model()
    with pytest.raises(ValueError, match=r"torchvision\.models has no"):
        TorchvisionModel("resnet19")
