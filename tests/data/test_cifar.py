from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torchvision import datasets, transforms

from lightning_priv.callbacks import HierarchyPictures
from lightning_priv.data import CIFAR10, CIFAR100
from lightning_priv.errors import DatasetUnavailableError
from lightning_priv.models import Classifier
from lightning_priv.nn import HyperbolicResNet

pytestmark = pytest.mark.usefixtures("no_network")


def test_the_official_parts_in_their_order(fake_cifar10: type[CIFAR10], tmp_path: Path) -> None:
    data = fake_cifar10(str(tmp_path), indexed=True)
    data.setup()
    assert (len(data.train_dataset), len(data.test_dataset)) == (100, 20)
    assert data.val_dataset is None
    assert data.val_dataloader() == []
    for train, part in ((True, data.plain_train_dataset), (False, data.test_dataset)):
        official = data.reader(str(tmp_path), train=train)
        assert part.targets.tolist() == official.targets
        assert part.ids.tolist() == list(range(len(official)))
        pipeline = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize(CIFAR10.mean, CIFAR10.std)]
        )
        expected = torch.stack([pipeline(official[i][0]) for i in range(len(official))])
        torch.testing.assert_close(part.inputs(), expected, rtol=0, atol=2e-6)


def test_the_constants_are_the_papers() -> None:
    assert CIFAR10.mean == CIFAR100.mean == (0.5074, 0.4867, 0.4411)
    assert CIFAR10.std == CIFAR100.std == (0.267, 0.256, 0.276)
    assert CIFAR10().batch_size == 128
    assert (CIFAR10().augment, CIFAR10().normalize, CIFAR10().val_size) == (True, True, 0)


def test_the_validation_split_is_the_papers(fake_cifar10: type[CIFAR10], tmp_path: Path) -> None:
    data = fake_cifar10(str(tmp_path), val_size=20)
    data.setup()
    assert data.val_dataset is not None
    generator = torch.Generator().manual_seed(1)
    train, val = torch.utils.data.random_split(range(100), [80, 20], generator)  # type: ignore[arg-type]
    assert data.train_dataset.ids.tolist() == sorted(train.indices)
    assert data.val_dataset.ids.tolist() == sorted(val.indices)
    assert data.val_dataset.augment is None
    assert len(data.test_dataset) == 20  # untouched


def test_augmentation_is_on_the_training_pictures_only(
    fake_cifar10: type[CIFAR10], tmp_path: Path
) -> None:
    data = fake_cifar10(str(tmp_path), normalize=False, indexed=True)
    data.setup()
    (x, _, index), *_ = data.train_dataloader()
    stored = data.train_dataset.x[index] / 255
    assert (x != stored).flatten(1).any(1).double().mean() > 0.9
    for part in (data.test_dataset, data.plain_train_dataset):
        torch.testing.assert_close(part[3][0], part.x[3] / 255)
    plain = fake_cifar10(str(tmp_path), augment=False, normalize=False)
    plain.setup()
    torch.testing.assert_close(plain.train_dataset[3][0], plain.train_dataset.x[3] / 255)


def test_fine_labels_of_cifar100(fake_cifar100: type[CIFAR100], tmp_path: Path) -> None:
    data = fake_cifar100(str(tmp_path))
    assert (data.num_classes, len(set(CIFAR100.class_names))) == (100, 100)
    data.setup()
    assert data.train_dataset.targets.tolist() == list(range(20))
    assert CIFAR100.class_names == tuple(sorted(CIFAR100.class_names))  # the official order


@pytest.mark.parametrize(
    ("cls", "folder"), [(CIFAR10, "cifar-10-batches-py"), (CIFAR100, "cifar-100-python")]
)
def test_a_missing_set_says_where_how_and_what_else(
    cls: type[CIFAR10], folder: str, tmp_path: Path
) -> None:
    data = cls(str(tmp_path))
    data.prepare_data()  # downloads nothing unless asked
    with pytest.raises(DatasetUnavailableError) as caught:
        data.setup()
    assert str(caught.value) == (
        f"{cls.__name__} is not in {tmp_path / folder}; download it with "
        "--data.init_args.download true, or run configs/demo/hcnn_patches.yaml, which does the "
        "same on photographs that are already installed"
    )
    assert list(tmp_path.iterdir()) == []


def test_changed_files_are_refused(fake_cifar10: type[CIFAR10], tmp_path: Path) -> None:
    file = tmp_path / datasets.CIFAR10.base_folder / "data_batch_3"
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(
        DatasetUnavailableError, match=r"incomplete or changed .*delete that folder"
    ):
        fake_cifar10(str(tmp_path)).setup()


def test_download_on_request(
    fake_cifar10: type[CIFAR10],
    archive: Callable[[type[CIFAR10], Path, Path], None],
    tmp_path: Path,
) -> None:
    # the archive is there already, so torchvision checks and unpacks it without fetching it
    archive(fake_cifar10, tmp_path, tmp_path / "new")
    without = fake_cifar10(str(tmp_path / "new"))
    without.prepare_data()
    with pytest.raises(DatasetUnavailableError, match="FakeCIFAR10 is not in"):
        without.setup()
    data = fake_cifar10(str(tmp_path / "new"), download=True)
    data.prepare_data()
    data.setup()
    assert len(data.train_dataset) == 100


def test_a_failed_download_says_what_else(fake_cifar10: type[CIFAR10], tmp_path: Path) -> None:
    fake_cifar10.reader.url = (tmp_path / "nothing.tar.gz").as_uri()
    data = fake_cifar10(str(tmp_path / "new"), download=True)
    with pytest.raises(
        DatasetUnavailableError, match=r"could not be downloaded from file:.*run con"
    ):
        data.prepare_data()


def test_superclasses_of_cifar100() -> None:
    """20 of 5 classes each; single ones from the description of the set (Krizhevsky 2009)."""
    tree = CIFAR100.superclasses
    assert len(tree) == 20
    assert {len(members) for members in tree.values()} == {5}
    listed = [name for members in tree.values() for name in members]
    assert sorted(listed) == sorted(CIFAR100.class_names)
    assert tree["trees"] == ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree")
    assert tree["aquatic mammals"] == ("beaver", "dolphin", "otter", "seal", "whale")
    assert "tank" in tree["vehicles 2"]


def test_the_hierarchy_of_cifar100_is_drawn(fake_cifar100: type[CIFAR100], tmp_path: Path) -> None:
    """On the copy's 20 test pictures, one of each of the first 20 classes."""
    callback = HierarchyPictures(groupings=20)
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(tmp_path),
    )
    torch.manual_seed(0)
    model = Classifier(HyperbolicResNet(10, 100, "l", width=2), num_classes=100)
    (result,) = trainer.test(model, fake_cifar100(str(tmp_path)), verbose=False)
    assert callback.result is not None
    assert callback.result.class_centroid.shape == (20,)
    # apple .. clock: of these superclasses
    first = set(CIFAR100.class_names[:20])
    groups = [n for n, members in CIFAR100.superclasses.items() if first & set(members)]
    assert callback.result.superclass.shape == (len(groups),)
    assert 0 < result["lorentz/hierarchy_p_value"] <= 1
    assert {p.name for p in (tmp_path / "media/lorentz").iterdir()} == {
        *("hierarchy.png", "hierarchy.csv", "superclasses.csv", "radius.png"),
    }
