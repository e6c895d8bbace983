import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional as vision

from lightning_priv.data import RandomCropFlip, Scale
from lightning_priv.data.sampling import hashed


def pictures(count: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)


def word(top: int, left: int, mirrored: bool, padding: int = 4) -> int:
    """Return a random word that leads to the given crop: the middle of its interval of 16 bits."""
    places = 2 * padding + 1
    halfway = lambda place: (2 * place + 1) * 0x10000 // (2 * places)  # noqa: E731
    return halfway(top) | halfway(left) << 16 | mirrored << 32


@pytest.mark.parametrize(
    ("top", "left", "mirrored"), [(0, 0, False), (8, 8, True), (4, 4, False), (1, 7, True)]
)
def test_equals_pad_crop_and_flip_of_torchvision(top: int, left: int, mirrored: bool) -> None:
    x = pictures(2)
    words = np.array([word(top, left, mirrored), word(4, 4, False)], dtype=np.uint64)
    expected = vision.crop(vision.pad(x[0], [4]), top, left, 32, 32)
    result = RandomCropFlip(4)(x, words)
    torch.testing.assert_close(result[0], vision.hflip(expected) if mirrored else expected)
    torch.testing.assert_close(result[1], x[1])  # the middle place, not mirrored: unchanged


def test_every_place_is_equally_likely() -> None:
    # each pixel holds its own number: the pixel seen at (4, 4) tells where the picture was cropped
    x = torch.arange(1, 65).view(1, 1, 8, 8).expand(8100, -1, -1, -1)
    words = hashed(1, np.arange(8100))
    mirrored = torch.from_numpy((words >> np.uint64(32) & np.uint64(1)).astype(bool))
    out = RandomCropFlip(4)(x, words)[:, 0]
    seen = torch.where(mirrored, out[:, 4, 3], out[:, 4, 4])
    counts = torch.bincount(seen, minlength=65)[1:]  # 64 of the 81 places show a pixel there
    assert (counts - 100).abs().max() < 5 * 10
    assert abs(int(mirrored.sum()) - 4050) < 5 * 45


def test_an_empty_batch_stays_empty() -> None:
    out = RandomCropFlip(4)(pictures(0), np.zeros(0, dtype=np.uint64))
    assert out.shape == (0, 3, 32, 32)


def test_scale_equals_totensor_and_normalize_of_torchvision() -> None:
    mean, std = (0.5074, 0.4867, 0.4411), (0.267, 0.256, 0.276)
    x = pictures()
    pipeline = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    images = [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in x]
    expected = torch.stack([pipeline(image) for image in images])
    torch.testing.assert_close(Scale(255, mean, std)(x), expected, rtol=0, atol=2e-6)


def test_scale_of_features() -> None:
    x = torch.tensor([[1.0, 10.0], [3.0, 30.0]])
    result = Scale(mean=(2.0, 20.0), std=(1.0, 5.0))(x)
    torch.testing.assert_close(result, torch.tensor([[-1.0, -2.0], [1.0, 2.0]]))
    torch.testing.assert_close(x[0], torch.tensor([1.0, 10.0]))  # the input is not changed
