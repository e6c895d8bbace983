import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_priv.data import ImageFiles, ImageFolder, Imagenette
from lightning_priv.errors import DatasetUnavailableError


def write(
    folder: Path, classes: dict[str, int], size: tuple[int, int] = (20, 24), suffix: str = "png"
) -> None:
    rng = np.random.default_rng(len(folder.name))
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:02d}.{suffix}")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "train", {"cat": 6, "ant": 5, "bee": 7})
    write(tmp_path / "val", {"ant": 2, "cat": 1})
    write(tmp_path / "test", {"ant": 1, "bee": 2, "cat": 3})
    (tmp_path / "train" / "ant" / "notes.txt").write_text("no image")
    (tmp_path / "train" / ".hidden").mkdir()
    return tmp_path


def test_three_folders_are_three_parts(root: Path) -> None:
    data = ImageFolder(str(root), size=16, indexed=True, normalize=False)
    data.setup()
    assert (data.num_classes, data.class_names) == (3, ("ant", "bee", "cat"))
    assert data.input_shape == (3, 16, 16)
    assert data.train_dataset.targets.tolist() == [0] * 5 + [1] * 7 + [2] * 6
    assert data.train_dataset.ids.tolist() == list(range(18))
    assert data.val_dataset.targets.tolist() == [0, 0, 2]
    assert data.val_dataset.ids.tolist() == [18, 19, 20]
    assert data.test_dataset.targets.tolist() == [0, 1, 1, 2, 2, 2]
    assert isinstance(data.train_dataset.x, ImageFiles)  # nothing was read
    x, y, ids = next(iter(data.train_dataloader()))
    assert x.shape == (18, 3, 16, 16)
    assert (x.dtype, float(x.min()) >= 0, float(x.max()) <= 1) == (torch.float32, True, True)
    assert y.tolist() == data.train_dataset.targets[ids].tolist()


def test_without_a_val_folder_a_part_is_held_out(root: Path) -> None:
    shutil.rmtree(root / "val")
    parts = []
    for split_seed in (0, 0, 1):
        data = ImageFolder(str(root), size=8, val_size=6, split_seed=split_seed)
        data.setup()
        assert sorted(data.val_dataset.targets.tolist()) == [0, 0, 1, 1, 2, 2]
        parts.append(data.val_dataset.ids.tolist())
    assert parts[0] == parts[1] != parts[2]
    data = ImageFolder(str(root), size=8, val_size=0)
    data.setup()
    assert data.val_dataset is None
    assert len(data.train_dataset) == 18


def test_a_val_folder_and_a_val_size_contradict(root: Path) -> None:
    with pytest.raises(DatasetUnavailableError, match=r"val is there, but val_size=0.2 asks"):
        ImageFolder(str(root), val_size=0.2).setup()


def test_without_a_test_folder_there_is_training_only(root: Path) -> None:
    shutil.rmtree(root / "test")
    data = ImageFolder(str(root), size=8)
    data.setup()
    assert len(data.train_dataset) == 18
    with pytest.raises(DatasetUnavailableError, match=r"has no folder .*test; put the images"):
        data.test_dataloader()


def test_in_memory_keeps_bytes(root: Path) -> None:
    lazy, ready = (ImageFolder(str(root), size=8, in_memory=flag, seed=1) for flag in (False, True))
    for data in (lazy, ready):
        data.setup()
    assert ready.train_dataset.x.dtype == torch.uint8
    for a, b in zip(lazy.train_dataloader(), ready.train_dataloader(), strict=True):
        assert a[0].tolist() == b[0].tolist()


def test_grey_values(root: Path) -> None:
    data = ImageFolder(str(root), size=8, channels=1)
    data.setup()
    x, _ = next(iter(data.test_dataloader()))
    assert x.shape == (6, *data.input_shape) == (6, 1, 8, 8)


def test_a_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DatasetUnavailableError) as caught:
        ImageFolder(str(tmp_path / "nowhere")).setup()
    text = str(caught.value)
    assert str(tmp_path / "nowhere" / "train") in text
    assert "--data.init_args.root" in text
    assert "configs/demo/hcnn_patches.yaml" in text


def test_unknown_and_empty_classes(root: Path) -> None:
    write(root / "test", {"dog": 1})
    with pytest.raises(DatasetUnavailableError, match="has the classes dog, of which there is no"):
        ImageFolder(str(root)).setup()
    shutil.rmtree(root / "test" / "dog")
    (root / "train" / "dog").mkdir()
    with pytest.raises(DatasetUnavailableError, match="found no image of dog in"):
        ImageFolder(str(root)).setup()
    for name in ("ant", "bee", "dog"):
        shutil.rmtree(root / "train" / name)
    with pytest.raises(DatasetUnavailableError, match="found 1 class folders"):
        ImageFolder(str(root)).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"size": 0}, "size=0"), ({"channels": 2}, "channels=2"), ({"val_size": 1.5}, "val_size=1.5")],
)
def test_wrong_arguments(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageFolder("x", **options)


def test_resuming_in_the_middle_of_an_epoch(root: Path) -> None:
    def batches(skip: int) -> list[list[int]]:
        data = ImageFolder(str(root), batch_size=4, size=8, indexed=True, seed=2)
        data.setup()
        loader = data.train_dataloader()
        loader.load_state_dict({"epoch": 3, "batches": skip})
        return [ids.tolist() for _, _, ids in loader]

    assert batches(2) == batches(0)[2:]


# -- Imagenette ------------------------------------------------------------------------------------

WNIDS = list(Imagenette.reader._WNID_TO_CLASS)


class Fake(Imagenette):
    counts = (20, 10)


@pytest.fixture
def imagenette(tmp_path: Path) -> Path:
    write(tmp_path / "imagenette2-160" / "train", dict.fromkeys(WNIDS, 2), (16, 30), "jpeg")
    write(tmp_path / "imagenette2-160" / "val", dict.fromkeys(WNIDS, 1), (30, 16), "jpeg")
    return tmp_path


def test_imagenette(imagenette: Path) -> None:
    data = Fake(str(imagenette), size=16, indexed=True, val_size=10)
    data.prepare_data()
    data.setup()
    assert data.class_names[0] == "tench"
    assert data.class_names == tuple(v[0] for v in Imagenette.reader._WNID_TO_CLASS.values())
    assert data.test_dataset.targets.tolist() == list(range(10))
    assert (len(data.train_dataset), len(data.val_dataset)) == (10, 10)
    x, _, _ = next(iter(data.test_dataloader()))
    assert x.shape == (10, *data.input_shape) == (10, 3, 16, 16)


def test_imagenette_is_not_there(tmp_path: Path) -> None:
    data = Imagenette(str(tmp_path), archive="320px")
    data.prepare_data()
    with pytest.raises(DatasetUnavailableError) as caught:
        data.setup()
    text = str(caught.value)
    assert f"Imagenette is not in {tmp_path / 'imagenette2-320' / 'train'}" in text
    assert "--data.init_args.download true" in text
    assert "configs/demo/hcnn_patches.yaml" in text


def test_imagenette_is_incomplete(imagenette: Path) -> None:
    (imagenette / "imagenette2-160/train" / WNIDS[3] / "00.jpeg").unlink()
    with pytest.raises(DatasetUnavailableError, match=r"19 training and 10 test images of 10"):
        Fake(str(imagenette)).setup()


def test_imagenette_download(imagenette: Path, tmp_path: Path) -> None:
    target = tmp_path / "new"
    target.mkdir()
    packed = shutil.make_archive(str(tmp_path / "packed"), "gztar", imagenette, "imagenette2-160")
    archive = Path(packed).rename(target / "imagenette2-160.tgz")
    url = (tmp_path / "nowhere" / archive.name).as_uri()
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    reader = type("Imagenette", (Imagenette.reader,), {"_ARCHIVES": {"160px": (url, md5)}})

    data = type("Fetched", (Fake,), {"reader": reader})(str(target), download=True)
    data.prepare_data()  # the archive is there: it is checked and unpacked, not fetched
    data.setup()
    assert len(data.train_dataset) == 20
    data.prepare_data()  # the folder is there: nothing is done
    shutil.rmtree(target / "imagenette2-160")
    archive.write_bytes(b"x")
    with pytest.raises(DatasetUnavailableError, match=r"could not be downloaded .*hcnn_patches"):
        data.prepare_data()
