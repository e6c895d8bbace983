from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets, transforms

from lightning_priv.data import TinyImageNet
from lightning_priv.data.augmentation import RandomCropFlip
from lightning_priv.errors import DatasetUnavailableError

WNIDS = ("n01", "n02", "n10")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy with 4 training and 2 test images of 3 classes."""
    rng = np.random.default_rng(0)

    def write(path: Path, grey: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (64, 64) if grey else (64, 64, 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path, quality=95)

    for wnid in WNIDS:
        for number in range(4):
            write(tmp_path / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", grey=number == 3)
        (tmp_path / "train" / wnid / f"{wnid}_boxes.txt").write_text("0\t0\t62\t44\n")
    lines = []
    for number in range(6):
        write(tmp_path / "val" / "images" / f"val_{number}.JPEG")
        lines.append(f"val_{number}.JPEG\t{WNIDS[number * 2 % 3]}\t0\t32\t44\t62\n")
    (tmp_path / "val" / "val_annotations.txt").write_text("".join(lines))
    (tmp_path / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn10\tbus\n")
    return tmp_path


class Fake(TinyImageNet):
    num_classes = 3
    images_per_class = (4, 2)


def test_the_official_parts(root: Path) -> None:
    data = Fake(str(root), indexed=True)
    data.setup()
    assert data.class_names == ("goldfish", "n02", "bus")
    assert data.train_dataset.targets.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.test_dataset.targets.tolist() == [0, 2, 1, 0, 2, 1]
    assert data.val_dataset is None
    pipeline = transforms.Compose(
        [
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    official = datasets.ImageFolder(str(root / "train"), pipeline)
    expected = torch.stack([x for x, _ in official])
    torch.testing.assert_close(data.plain_train_dataset.inputs(), expected, rtol=0, atol=2e-6)
    test = torch.stack(
        [pipeline(Image.open(root / f"val/images/val_{i}.JPEG").convert("RGB")) for i in range(6)]
    )
    torch.testing.assert_close(data.test_dataset.inputs(), test, rtol=0, atol=2e-6)


def test_the_recipe_is_the_papers() -> None:
    data = TinyImageNet()
    assert (data.num_classes, data.images_per_class) == (200, (500, 50))
    assert (data.batch_size, data.input_shape, data.val_size) == (128, (3, 64, 64), 0)
    augment = data.make_augmentation()
    assert isinstance(augment, RandomCropFlip)
    assert (augment.padding, augment.flip) == (4, True)


def test_from_disk_and_from_memory_are_the_same(root: Path) -> None:
    batches = []
    for in_memory, workers in ((True, 0), (False, 0), (False, 2)):
        data = Fake(
            str(root),
            batch_size=4,
            val_size=3,
            in_memory=in_memory,
            num_workers=workers,
            indexed=True,
            seed=3,
        )
        data.setup()
        assert isinstance(data.train_dataset.x, torch.Tensor) == in_memory
        batches.append([*data.train_dataloader(), *data.val_dataloader()])
    for other in batches[1:]:
        for left, right in zip(batches[0], other, strict=True):
            for a, b in zip(left, right, strict=True):
                assert a.tolist() == b.tolist()


def test_a_missing_set_says_where_and_what_else(tmp_path: Path) -> None:
    data = TinyImageNet(str(tmp_path / "tiny"))
    data.prepare_data()
    with pytest.raises(DatasetUnavailableError) as caught:
        data.setup()
    text = str(caught.value)
    assert f"TinyImageNet is not in {tmp_path / 'tiny'} (no train)" in text
    assert "tiny-imagenet-200.zip" in text
    assert "--data.init_args.root" in text
    assert "configs/demo/hcnn_patches.yaml" in text


def lose_a_training_image(root: Path) -> None:
    next((root / "train/n02/images").iterdir()).unlink()


def lose_a_class(root: Path) -> None:
    (root / "train/n02").rename(root / "n02")


def lose_a_test_image(root: Path) -> None:
    (root / "val/images/val_3.JPEG").unlink()


def lose_a_line(root: Path) -> None:
    file = root / "val/val_annotations.txt"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_a_training_image, r"incomplete: train has 11 images of 3 classes, not 4 of each"),
        (lose_a_class, r"names val_2.JPEG of class n02, but that image or class is not there"),
        (lose_a_test_image, r"names val_3.JPEG of class n01, but that image or class is not"),
        (lose_a_line, r"incomplete: val has 5 images of 3 classes, not 2 of each of 3"),
    ],
)
def test_an_incomplete_set_is_refused(
    damage: Callable[[Path], Any], message: str, root: Path
) -> None:
    damage(root)
    with pytest.raises(DatasetUnavailableError, match=message):
        Fake(str(root)).setup()
