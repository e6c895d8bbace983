from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_priv.data import CelebA
from lightning_priv.errors import DatasetUnavailableError

PARTS = [0] * 7 + [1] * 3 + [2] * 5


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    images = tmp_path / "img_align_celeba"
    images.mkdir()
    names = [f"{number + 1:06d}.jpg" for number in range(len(PARTS))]
    rows = []
    for number, name in enumerate(names):
        Image.fromarray(rng.integers(0, 256, (218, 178, 3), dtype=np.uint8)).save(images / name)
        rows.append(f"{name}  {1 if number % 2 else -1} {1 if number % 3 else -1}")
    partition = [f"{name} {part}" for name, part in zip(names, PARTS, strict=True)]
    (tmp_path / "list_eval_partition.txt").write_text("\n".join(partition))
    (tmp_path / "list_attr_celeba.txt").write_text("\n".join(["15", "Male Smiling", *rows]))
    return tmp_path


def test_the_official_parts(root: Path) -> None:
    data = CelebA(str(root), size=16, indexed=True)
    data.setup()
    assert (data.num_classes, data.class_names) == (2, ("not Smiling", "Smiling"))
    labels = torch.tensor([int(n % 3 > 0) for n in range(15)])
    assert data.train_dataset.targets.tolist() == labels[:7].tolist()
    assert data.val_dataset.targets.tolist() == labels[7:10].tolist()
    assert data.val_dataset.ids.tolist() == [7, 8, 9]
    assert data.test_dataset.targets.tolist() == labels[10:].tolist()
    x, _, ids = next(iter(data.train_dataloader()))
    assert x.shape == (7, *data.input_shape) == (7, 3, 16, 16)
    assert sorted(ids.tolist()) == list(range(7))
    assert 0 <= float(x.min()) < float(x.max()) <= 1


def test_the_test_part_may_be_as_large_as_the_validation_part(root: Path) -> None:
    data = CelebA(str(root), attribute="Male", size=8, equal_test=True)
    data.setup()
    kept = torch.randperm(5, generator=torch.Generator().manual_seed(1))[:3].sort().values
    assert data.test_dataset.targets.tolist() == [(10 + int(n)) % 2 for n in kept]


def test_what_is_missing_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetUnavailableError, match=r"no list_eval_partition.*img_align_celeba"):
        CelebA(str(tmp_path / "none")).setup()
    with pytest.raises(ValueError, match="attribute='Happy': give one of Male, Smiling"):
        CelebA(str(root), attribute="Happy").setup()
    partition = root / "list_eval_partition.txt"
    listed = partition.read_text()
    partition.write_text(f"{listed}\n000016.jpg 2")
    with pytest.raises(DatasetUnavailableError, match=r"attr_celeba.*does not list 000016\.jpg"):
        CelebA(str(root)).setup()
    partition.write_text(listed.rsplit("\n", 1)[0])
    with pytest.raises(DatasetUnavailableError, match=r"partition.*does not list 000015\.jpg"):
        CelebA(str(root)).setup()
    partition.write_text(listed)
    (root / "img_align_celeba" / "000004.jpg").unlink()
    with pytest.raises(DatasetUnavailableError, match=r"CelebA has no .*000004\.jpg"):
        CelebA(str(root)).setup()
