"""The Inception-v3 features of the Fréchet Inception distance, weights from a file of the user."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torchvision.models import inception as tv

from lightning_priv.errors import ConfigurationError
from lightning_priv.files import read_tensors

__all__ = ["InceptionFeatures"]

_UNUSED = ("fc.", "AuxLogits.")


def _mean_pool(x: Tensor) -> Tensor:
    """3x3 means that do not count the padding, as in the TensorFlow network of the FID."""
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class _BlockA(tv.InceptionA):
    def _forward(self, x: Tensor) -> list[Tensor]:
        three = self.branch3x3dbl_1(x)
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(three))
        five = self.branch5x5_2(self.branch5x5_1(x))
        return [self.branch1x1(x), five, three, self.branch_pool(_mean_pool(x))]


class _BlockC(tv.InceptionC):
    def _forward(self, x: Tensor) -> list[Tensor]:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = x
        for layer in (
            *(self.branch7x7dbl_1, self.branch7x7dbl_2, self.branch7x7dbl_3),
            *(self.branch7x7dbl_4, self.branch7x7dbl_5),
        ):
            double = layer(double)
        return [self.branch1x1(x), seven, double, self.branch_pool(_mean_pool(x))]


class _BlockE(tv.InceptionE):
    largest = False  # the last block of that network takes maxima instead of means

    def _forward(self, x: Tensor) -> list[Tensor]:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, 1, 1) if self.largest else _mean_pool(x)
        return [
            self.branch1x1(x),
            torch.cat([self.branch3x3_2a(three), self.branch3x3_2b(three)], 1),
            torch.cat([self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)], 1),
            self.branch_pool(pooled),
        ]


class InceptionFeatures(nn.Module):
    """The 2048 pooled features of the Inception-v3 network that FIDs are computed with.

    Images are resized to 299x299 and scaled to [-1, 1]; the average pools leave out the padding and
    the last block takes maxima, as the TensorFlow network of the original FID does. The file is not
    shipped and not downloaded: take the PyTorch port of those weights that pytorch-fid publishes
    (pt_inception-2015-12-05-6726825d.pth). It is read when the first images come, so that training
    does not need it. With other weights, such as torchvision's own, numbers are no published FIDs.

    Args:
        weights: file of ``torch.save`` with a state dict in torchvision's names.

    Shape:
        Images in [0, 1], shape (B, 3, H, W) (or one channel, which is repeated), to (B, 2048).

    Raises:
        ConfigurationError: at the first images, if the file is missing or does not fit.
    """

    num_features = 2048

    def __init__(self, weights: str) -> None:
        super().__init__()
        self.weights = weights
        self._net: list[nn.Module] = []  # not a submodule: it stays out of checkpoints

    def forward(self, x: Tensor) -> Tensor:
        """Images to features."""
        if not self._net:
            self._net.append(self._read())
        net = self._net[0].to(x.device)
        x = x.float().expand(-1, 3, -1, -1)
        x = F.interpolate(x, (299, 299), mode="bilinear", align_corners=False)
        with torch.no_grad():
            out = net(2 * x - 1)
        assert isinstance(out, Tensor)
        return out

    def _read(self) -> nn.Module:
        remedy = (
            "put pytorch-fid's pt_inception-2015-12-05-6726825d.pth there, or leave the extractor "
            "out for an offline FID"
        )
        state = read_tensors(self.weights, remedy)
        net = _network()
        kept = {name: value for name, value in state.items() if not name.startswith(_UNUSED)}
        own = net.state_dict()
        optional = {name for name in own if name.endswith("num_batches_tracked")}
        problems = [f"{name} is missing" for name in own if name not in {*kept, *optional}]
        problems += [f"{name} is unknown" for name in kept if name not in own]
        problems += [
            f"{name} has shape {tuple(value.shape)}"
            for name, value in kept.items()
            if name in own and value.shape != own[name].shape
        ]
        if problems:
            raise ConfigurationError(
                f"{self.weights} is no Inception-v3 in torchvision's names: "
                f"{'; '.join(problems[:5])}{' and more' if len(problems) > 5 else ''}"
            )
        net.load_state_dict(kept, strict=False)
        return net.eval().requires_grad_(False)


def _network() -> nn.Module:
    blocks = [
        *(tv.BasicConv2d, _BlockA, tv.InceptionB, _BlockC),
        *(tv.InceptionD, _BlockE, tv.InceptionAux),
    ]
    net = tv.Inception3(
        aux_logits=False, transform_input=False, inception_blocks=blocks, init_weights=False
    )
    net.Mixed_7c.largest = True
    net.fc = nn.Identity()
    net.dropout = nn.Identity()
    return net
