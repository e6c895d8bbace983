"""The full MNIST sets, on tiny copies; ``test_mnist.py`` is about the shipped digits."""

import gzip
import hashlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import datasets, transforms

from lightning_priv.data import MNIST, FashionMNIST
from lightning_priv.errors import DatasetUnavailableError

pytestmark = pytest.mark.usefixtures("no_network")
COUNTS = (30, 12)


def fake(root: Path, base: type[MNIST] = MNIST, packed: bool = False) -> type[Any]:
    """Write a tiny copy; torchvision's reader differs only in its MD5 sums."""
    rng = np.random.default_rng(0)
    folder = root / base.reader.__name__ / "raw"
    folder.mkdir(parents=True)
    resources = []
    for (name, _), count in zip(base.reader.resources, np.repeat(COUNTS, 2), strict=True):
        shape = (int(count), 28, 28) if "images" in name else (int(count),)
        values = rng.integers(0, 256 if "images" in name else 10, shape, dtype=np.uint8)
        content = struct.pack(f">{1 + len(shape)}i", 0x800 + len(shape), *shape) + values.tobytes()
        archive = gzip.compress(content)
        if packed:
            (folder / name).write_bytes(archive)
        else:
            (folder / Path(name).stem).write_bytes(content)
        resources.append((name, hashlib.md5(archive).hexdigest()))
    reader = type(base.reader.__name__, (base.reader,), {"resources": resources})
    return type(f"Fake{base.__name__}", (base,), {"reader": reader, "counts": COUNTS})


@pytest.mark.parametrize("base", [MNIST, FashionMNIST])
def test_the_official_parts(base: type[MNIST], tmp_path: Path) -> None:
    data = fake(tmp_path, base)(str(tmp_path), indexed=True)
    data.setup()
    assert data.val_dataset is None
    for train, part in ((True, data.train_dataset), (False, data.test_dataset)):
        official = data.reader(str(tmp_path), train=train)
        expected = torch.stack([transforms.ToTensor()(image) for image, _ in official])
        torch.testing.assert_close(part.inputs(), expected, rtol=0, atol=1e-7)
        assert part.targets.tolist() == official.targets.tolist()
        assert part.x.dtype == torch.uint8
    x, _, ids = next(iter(data.train_dataloader()))
    assert x.shape[1:] == data.input_shape == (1, 28, 28)
    assert sorted(ids.tolist()) == list(range(30))


def test_resizing_is_torchvisions(tmp_path: Path) -> None:
    data = fake(tmp_path)(str(tmp_path), size=32)
    data.setup()
    assert data.input_shape == (1, 32, 32)
    official = data.reader(str(tmp_path), train=True)
    pipeline = transforms.Compose([transforms.ToTensor(), transforms.Resize(32)])
    expected = torch.stack([pipeline(image) for image, _ in official])
    torch.testing.assert_close(data.train_dataset.inputs(), expected, rtol=0, atol=1e-6)


def test_names_and_defaults() -> None:
    assert FashionMNIST.class_names[0] == "T-shirt/top"
    assert (MNIST().counts, MNIST().augment, MNIST().download) == ((60_000, 10_000), False, False)
    assert MNIST.reader is datasets.MNIST
    assert FashionMNIST.reader is datasets.FashionMNIST


@pytest.mark.parametrize("base", [MNIST, FashionMNIST])
def test_a_missing_set_says_where_how_and_what_else(base: type[MNIST], tmp_path: Path) -> None:
    data = base(str(tmp_path))
    data.prepare_data()
    with pytest.raises(DatasetUnavailableError) as caught:
        data.setup()
    text = str(caught.value)
    assert f"{base.__name__} is not in {tmp_path / base.__name__ / 'raw'} (no train-" in text
    assert "--data.init_args.download true" in text
    assert "configs/demo/hcnn_digits.yaml" in text
    assert list(tmp_path.iterdir()) == []


def test_download_checks_and_unpacks(tmp_path: Path) -> None:
    cls = fake(tmp_path, packed=True)  # the archives are there, so nothing is fetched
    with pytest.raises(DatasetUnavailableError, match="FakeMNIST is not in"):
        cls(str(tmp_path)).setup()
    data = cls(str(tmp_path), download=True)
    data.prepare_data()
    data.setup()
    assert (len(data.train_dataset), len(data.test_dataset)) == COUNTS


def test_a_wrong_archive_is_not_used(tmp_path: Path) -> None:
    cls = fake(tmp_path, packed=True)
    (name, _), *_rest = cls.reader.resources
    (tmp_path / "MNIST" / "raw" / name).write_bytes(gzip.compress(b"something else"))
    cls.reader.mirrors = [(tmp_path / "nowhere").as_uri() + "/"]
    with pytest.raises(DatasetUnavailableError, match=r"could not be downloaded to .*hcnn_digits"):
        cls(str(tmp_path), download=True).prepare_data()


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    cls = fake(tmp_path)
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(DatasetUnavailableError, match=r"incomplete or changed .*delete"):
        cls(str(tmp_path)).setup()
    cls.counts = (30, 13)
    file.write_bytes(b"")
    with pytest.raises(DatasetUnavailableError, match="incomplete or changed"):
        cls(str(tmp_path)).setup()


def test_a_wrong_number_of_images_is_refused(tmp_path: Path) -> None:
    cls = fake(tmp_path)
    cls.counts = (60_000, 10_000)
    with pytest.raises(DatasetUnavailableError, match="30 images and 30 labels, not 60000"):
        cls(str(tmp_path)).setup()


def test_the_validation_split_is_seeded(tmp_path: Path) -> None:
    cls = fake(tmp_path)
    ids = []
    for split_seed in (1, 1, 2):
        data = cls(str(tmp_path), val_size=10, split_seed=split_seed)
        data.setup()
        assert not set(data.val_dataset.ids.tolist()) & set(data.train_dataset.ids.tolist())
        ids.append(data.val_dataset.ids.tolist())
    assert ids[0] == ids[1] != ids[2]
    assert len(ids[0]) == 10


def test_a_wrong_size() -> None:
    with pytest.raises(ValueError, match="size=0: give 28"):
        MNIST(size=0)
