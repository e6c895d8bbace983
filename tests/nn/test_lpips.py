"""LPIPS with weights of the user's file, against its formula written out."""

from pathlib import Path

import pytest
import torch
import torchvision
from audit_kit import save_alexnet
from torch import nn
from torch.testing import assert_close
from torchmetrics.functional.image import lpips as theirs

from lightning_priv.errors import ConfigurationError
from lightning_priv.nn import LPIPS


def test_the_distance_is_that_of_the_formula() -> None:
    net = save_alexnet(Path("alexnet.pth"))
    x, y = 2 * torch.rand(2, 3, 3, 40, 40) - 1
    got = LPIPS("alexnet.pth", "alex")(x, y)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    own = Path(theirs.__file__).parent / "lpips_models/alex.pth"
    weights = torch.load(own, map_location="cpu", weights_only=True)
    want = torch.zeros(3)
    with torch.no_grad():
        a, b = ((z - shift.view(-1, 1, 1)) / scale.view(-1, 1, 1) for z in (x, y))
        level = 0
        for layer in net[:12]:
            a, b = layer(a), layer(b)
            if isinstance(layer, nn.ReLU):
                unit = [z / z.norm(dim=1, keepdim=True).clamp(min=1e-6) for z in (a, b)]
                w = weights[f"lin{level}.model.1.weight"].view(-1, 1, 1)
                want += (w * (unit[0] - unit[1]) ** 2).sum(1).mean((1, 2))
                level += 1
    assert level == 5
    assert_close(got, want, rtol=1e-3, atol=1e-6)
    # grey images, beyond the range, and of another size
    grey = 3 * x[:, :1]
    one = LPIPS("alexnet.pth", "alex", resize=64)
    assert_close(one(grey, grey), torch.zeros(3))
    assert one(grey, -grey).min() > 0
    assert_close(one(grey, y), one(grey.clamp(-1, 1).expand(-1, 3, -1, -1), y))


@pytest.mark.parametrize("net", ["vgg", "squeeze"])
def test_other_backbones_find_their_weights(net: str) -> None:
    name = {"vgg": "vgg16", "squeeze": "squeezenet1_1"}[net]
    with torch.device("meta"):
        model = getattr(torchvision.models, name)(weights=None)
    state = {
        n: torch.full(v.shape, 1e-3).half()
        for n, v in model.state_dict().items()
        if n.startswith("features.")
    }
    torch.save(state, "weights.pth")
    distances = LPIPS("weights.pth", net)(torch.zeros(2, 1, 32, 32), torch.ones(2, 1, 32, 32))
    assert distances.shape == (2,)
    assert torch.isfinite(distances).all()


def test_wrong_weights_are_refused_and_nothing_is_downloaded() -> None:
    x = torch.zeros(1, 3, 64, 64)
    with pytest.raises(ConfigurationError, match=r"cannot read 'none.pth'.*alexnet.*nothing is d"):
        LPIPS("none.pth", "alex")(x, x)
    Path("text.pth").write_text("not weights")
    with pytest.raises(ConfigurationError, match=r"cannot read 'text.pth'"):
        LPIPS("text.pth")(x, x)
    torch.save([1.0], "list.pth")
    with pytest.raises(ConfigurationError, match=r"holds a list"):
        LPIPS("list.pth")(x, x)
    save_alexnet(Path("alexnet.pth"))
    with pytest.raises(ConfigurationError, match=r"no vgg16 .*features.0.weight is not of shape"):
        LPIPS("alexnet.pth", "vgg")(x, x)
    with pytest.raises(ConfigurationError, match=r"8x8 are too small.*set its resize"):
        LPIPS("alexnet.pth", "alex")(x[..., :8, :8], x[..., :8, :8])
    for wrong in ({"net": "resnet"}, {"resize": 4}):
        with pytest.raises(ValueError, match="="):
            LPIPS("alexnet.pth", **wrong)  # type: ignore[arg-type]
