"""Inception features: the network of the FID from a file, against torchvision's own."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F  # noqa: N812
from torch.testing import assert_close
from torchvision.models import inception as tv

from lightning_priv.errors import ConfigurationError
from lightning_priv.models import InceptionFeatures


@pytest.mark.slow
def test_features_are_torchvisions_with_the_pools_of_the_fid(tmp_path, monkeypatch):
    torch.manual_seed(0)
    net = tv.Inception3(aux_logits=False, init_weights=False)
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    state = {**net.state_dict(), "fc.weight": torch.zeros(1008, 2048)}
    state = {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}
    torch.save(state, "weights.pth")
    x = torch.rand(2, 1, 40, 40)
    got = InceptionFeatures("weights.pth")(x)
    assert got.shape == (2, 2048)

    mean = F.avg_pool2d
    calls = []

    def pool(y, kernel_size, stride=None, padding=0):
        calls.append(y.shape[1])
        if y.shape[1] == 2048:
            return F.max_pool2d(y, kernel_size, stride, padding)
        return mean(y, kernel_size, stride, padding, count_include_pad=False)

    monkeypatch.setattr(tv.F, "avg_pool2d", pool)
    net.fc = net.dropout = torch.nn.Identity()
    big = F.interpolate(x.expand(-1, 3, -1, -1), (299, 299), mode="bilinear")
    with torch.no_grad():
        want = net.eval()(2 * big - 1)
    assert calls == [192, 256, 288, 768, 768, 768, 768, 1280, 2048]
    assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_wrong_files_are_refused():
    text = r"none.pth: there is no such file.*pt_inception.*offline"
    with pytest.raises(ConfigurationError, match=text):
        InceptionFeatures("none.pth")(torch.rand(1, 3, 8, 8))
    Path("empty.pth").touch()
    with pytest.raises(ConfigurationError, match=r"empty.pth is damaged .*EOFError"):
        InceptionFeatures("empty.pth")(torch.rand(1, 3, 8, 8))
    torch.save({"a": torch.zeros(1)}, "other.pth")
    with pytest.raises(ConfigurationError, match=r"no Inception-v3 .*is missing"):
        InceptionFeatures("other.pth")(torch.rand(1, 3, 8, 8))
