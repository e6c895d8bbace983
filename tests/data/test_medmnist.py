import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_priv.data import MappedImages, MedMNIST
from lightning_priv.data.medmnist import _FINDINGS, _SETS
from lightning_priv.errors import DatasetUnavailableError

pytestmark = pytest.mark.usefixtures("no_network")
COUNTS = {"train": 20, "val": 6, "test": 9}


def write(root: Path, name: str, size: int = 28, compressed: bool = True) -> dict[str, Any]:
    """Write a tiny archive; return what medmnist would know about it."""
    rng = np.random.default_rng(size)
    arrays = {}
    for part, count in COUNTS.items():
        shape = (count, size, size) + ((3,) if _SETS[name].channels == 3 else ())
        arrays[f"{part}_images"] = rng.integers(0, 256, shape, dtype=np.uint8)
        columns = 14 if name == "chestmnist" else 1
        most = 2 if name == "chestmnist" else len(_SETS[name].classes)
        arrays[f"{part}_labels"] = rng.integers(0, most, (count, columns), dtype=np.uint8)
    end = "" if size == 28 else f"_{size}"
    path = root / f"{name}{end}.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    url = (root / "nowhere" / path.name).as_uri()
    return {"arrays": arrays, f"MD5{end}": md5, f"url{end}": url, "n_samples": COUNTS}


def fake(facts: dict[str, Any], *args: Any, **options: Any) -> MedMNIST:
    class Fake(MedMNIST):
        def facts(self) -> dict[str, Any]:
            return facts

    return Fake(*args, **options)


def test_the_table_is_that_of_the_package() -> None:
    for name, known in _SETS.items():
        data = MedMNIST(name, finding="mass" if name == "chestmnist" else None)  # type: ignore[arg-type]
        facts = data.facts()
        assert facts["n_channels"] == known.channels
        assert tuple(facts["label"].values()) == known.classes
        assert list(facts["label"]) == [str(number) for number in range(len(known.classes))]
        assert {f"MD5{end}" for end in ("", "_64", "_128", "_224")} <= set(facts)
    assert len(_SETS) == 12


@pytest.mark.parametrize(
    ("name", "size", "in_memory"),
    [
        *((name, 28, True) for name in sorted(_SETS) if name != "chestmnist"),  # see below
        ("pathmnist", 28, False),
        ("organamnist", 64, False),
        ("retinamnist", 64, True),
        ("bloodmnist", 128, False),
        ("breastmnist", 224, False),
    ],
)
def test_the_official_parts(name: str, size: int, in_memory: bool, tmp_path: Path) -> None:
    facts = write(tmp_path, name, size, compressed=size == 28)
    data = fake(facts, name, size, str(tmp_path), in_memory=in_memory, indexed=True)
    data.prepare_data()
    data.setup()
    parts = {"train": data.train_dataset, "val": data.val_dataset, "test": data.test_dataset}
    assert parts["val"].ids.tolist() == list(range(20, 26))
    for part, dataset in parts.items():
        stored = torch.from_numpy(facts["arrays"][f"{part}_images"])
        expected = stored.view(len(stored), size, size, -1).permute(0, 3, 1, 2) / 127.5 - 1
        torch.testing.assert_close(dataset.inputs(), expected, rtol=0, atol=1e-6)
        labels = facts["arrays"][f"{part}_labels"][:, 0]
        assert dataset.targets.tolist() == labels.tolist()
        assert isinstance(dataset.x, MappedImages) != in_memory
    x, _, ids = next(iter(data.train_dataloader()))
    assert x.shape == (20, *data.input_shape)
    assert sorted(ids.tolist()) == list(range(20))


def test_unpacking_is_done_once(tmp_path: Path) -> None:
    facts = write(tmp_path, "bloodmnist")
    fake(facts, "bloodmnist", 28, str(tmp_path), in_memory=False).prepare_data()
    made = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*.npy")}
    assert sorted(p.name for p in made) == ["bloodmnist_test.npy", "bloodmnist_train_val.npy"]
    data = fake(facts, "bloodmnist", 28, str(tmp_path), in_memory=False)
    data.prepare_data()
    data.setup()
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("*.npy")} == made
    assert list(tmp_path.glob("*.part*")) == []


def test_a_finding_of_chestmnist_is_a_task_of_two_classes(tmp_path: Path) -> None:
    facts = write(tmp_path, "chestmnist")
    data = fake(facts, "chestmnist", 28, str(tmp_path), finding="pneumonia")
    data.setup()
    assert data.class_names == ("no pneumonia", "pneumonia")
    assert data.num_classes == 2
    column = facts["arrays"]["train_labels"][:, _FINDINGS.index("pneumonia")]
    assert data.train_dataset.targets.tolist() == column.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "mnist"}, r"name='mnist': give one of bloodmnist, .*tissuemnist"),
        ({"name": "pathmnist", "size": 32}, r"size=32: give 28, 64, 128 or 224"),
        ({"name": "chestmnist"}, r"14 findings an image, and finding=None; give the one .*hernia"),
        ({"name": "chestmnist", "finding": "flu"}, r"finding='flu'; give the one to predict"),
        ({"name": "octmnist", "finding": "mass"}, r"finding='mass' goes with chestmnist only"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MedMNIST(**options)


def test_a_missing_set_says_where_how_and_what_else(tmp_path: Path) -> None:
    data = MedMNIST("dermamnist", 64, str(tmp_path))
    data.prepare_data()
    with pytest.raises(DatasetUnavailableError) as caught:
        data.setup()
    text = str(caught.value)
    assert f"MedMNIST is not in {tmp_path} (no dermamnist_64.npz)" in text
    assert "--data.init_args.download true" in text
    assert "configs/demo/hcnn_patches.yaml" in text


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_changed_archive_is_refused(in_memory: bool, tmp_path: Path) -> None:
    facts = write(tmp_path, "breastmnist")
    write(tmp_path, "breastmnist", compressed=False)  # the same numbers, another file
    data = fake(facts, "breastmnist", 28, str(tmp_path), in_memory=in_memory)
    with pytest.raises(DatasetUnavailableError, match=r"npz is incomplete or changed \(MD5"):
        data.setup()


def test_wrong_contents_are_refused(tmp_path: Path) -> None:
    facts = write(tmp_path, "breastmnist")
    facts["n_samples"] = {**COUNTS, "train": 546}
    with pytest.raises(DatasetUnavailableError, match="incomplete or changed"):
        fake(facts, "breastmnist", 28, str(tmp_path)).setup()


def test_download(tmp_path: Path) -> None:
    facts = write(tmp_path, "octmnist")
    data = fake(facts, "octmnist", 28, str(tmp_path), download=True)
    data.prepare_data()  # there and right: nothing is fetched
    data.setup()
    assert len(data.train_dataset) == 20
    gone = fake(facts, "octmnist", 28, str(tmp_path / "new"), download=True)
    with pytest.raises(DatasetUnavailableError, match=r"could not be downloaded .*hcnn_patches"):
        gone.prepare_data()
