import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from lightning_priv.data import ArrayDataset, ImageFiles, MappedImages
from lightning_priv.errors import DatasetUnavailableError


def picture(path: Path, width: int, height: int, mode: str = "RGB", seed: int = 0) -> Path:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    kind = np.uint16 if mode == "I;16" else np.uint8
    pixels = np.random.default_rng(seed).integers(0, np.iinfo(kind).max, shape, dtype=kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize(("width", "height"), [(8, 8), (13, 9), (9, 30), (5, 4), (64, 48)])
def test_files_are_resized_and_cut_as_by_torchvision(
    width: int, height: int, tmp_path: Path
) -> None:
    path = picture(tmp_path / "a.png", width, height)
    (found,) = ImageFiles([path], size=8)[torch.tensor([0])]
    pipeline = transforms.Compose([transforms.Resize(8), transforms.CenterCrop(8)])
    expected = np.asarray(pipeline(Image.open(path)))
    assert found.dtype == torch.uint8
    assert found.permute(1, 2, 0).tolist() == expected.tolist()


def test_grey_and_colour(tmp_path: Path) -> None:
    grey = picture(tmp_path / "grey.png", 4, 4, "L")
    colour = picture(tmp_path / "colour.png", 4, 4)
    as_colour = ImageFiles([grey, colour], size=4)[torch.tensor([0, 1])]
    assert as_colour.shape == (2, 3, 4, 4)
    assert (
        as_colour[0, 0].tolist()
        == as_colour[0, 2].tolist()
        == np.asarray(Image.open(grey)).tolist()
    )
    as_grey = ImageFiles([grey, colour], size=4, channels=1)[torch.tensor([1, 0])]
    assert as_grey.shape == (2, 1, 4, 4)
    assert as_grey[0, 0].tolist() == np.asarray(Image.open(colour).convert("L")).tolist()


def test_a_file_with_16_bits_is_refused(tmp_path: Path) -> None:
    path = picture(tmp_path / "deep.png", 4, 4, "I;16")
    with pytest.raises(DatasetUnavailableError, match=r"deep.png has .*16, more than 8 bits"):
        ImageFiles([path], size=4)[torch.tensor([0])]


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"nothing")
    with pytest.raises(DatasetUnavailableError, match=r"broken.png cannot be read as an image"):
        ImageFiles([path], size=4)[torch.tensor([0])]


def test_taking_reads_nothing(tmp_path: Path) -> None:
    files = ImageFiles([tmp_path / f"{i}.png" for i in range(9)], size=4)  # none exists
    part = files.take(torch.tensor([7, 2])).take(torch.tensor([1]))
    assert (len(part), part.path(0)) == (1, tmp_path / "2.png")


def test_names_of_any_language(tmp_path: Path) -> None:
    path = picture(tmp_path / "naïve café" / "\N{GREEK SMALL LETTER ALPHA}.png", 4, 4)
    assert ImageFiles([path], size=4)[torch.tensor([0])].shape == (1, 3, 4, 4)


@pytest.mark.parametrize("shape", [(6, 4, 4), (6, 4, 4, 3)])
def test_mapped_images(shape: tuple[int, ...], tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "x.npy", stored)
    images = MappedImages(tmp_path / "x.npy").take(torch.tensor([5, 1, 3]))
    expected = torch.from_numpy(stored).view(6, 4, 4, -1).permute(0, 3, 1, 2)[[3, 5]]
    assert images[torch.tensor([2, 0])].tolist() == expected.tolist()
    sent = pickle.dumps(images)
    assert len(sent) < 1500 + stored.nbytes // 4
    assert pickle.loads(sent)[torch.tensor([2, 0])].tolist() == expected.tolist()


def test_a_data_set_over_files(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{i}.png", 4, 4, seed=i) for i in range(5)]
    files = ImageFiles(paths, size=4)
    lazy = ArrayDataset(files, torch.arange(5), transform=lambda x: x / 255, indexed=True)
    ready = ArrayDataset(
        files[torch.arange(5)], torch.arange(5), transform=lambda x: x / 255, indexed=True
    )
    for found, expected in zip(
        lazy.__getitems__([4, 1]).tensors, ready.__getitems__([4, 1]).tensors, strict=True
    ):
        assert found.tolist() == expected.tolist()
    assert lazy.plain().x is files
    assert lazy.inputs().tolist() == ready.inputs().tolist()
