import hashlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from torchvision import datasets, transforms

from lightning_priv.data import SVHN
from lightning_priv.errors import DatasetUnavailableError

pytestmark = pytest.mark.usefixtures("no_network")


def fake(root: Path) -> type[SVHN]:
    rng = np.random.default_rng(0)
    split_list = {}
    for split, count in (("train", 30), ("test", 12)):
        url, name, _ = datasets.SVHN.split_list[split]
        pixels = rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        labels = (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]  # 10 means the digit 0
        scipy.io.savemat(root / name, {"X": pixels, "y": labels})
        md5 = hashlib.md5((root / name).read_bytes()).hexdigest()
        split_list[split] = [url, name, md5]
    reader = type("SVHN", (datasets.SVHN,), {"split_list": split_list})
    return type("FakeSVHN", (SVHN,), {"reader": reader})


def test_the_official_parts(tmp_path: Path) -> None:
    data = fake(tmp_path)(str(tmp_path), indexed=True, download=True)
    data.prepare_data()  # the files are there and right
    data.setup()
    for split, part in (("train", data.train_dataset), ("test", data.test_dataset)):
        official = data.reader(str(tmp_path), split)
        expected = torch.stack([transforms.ToTensor()(image) for image, _ in official])
        torch.testing.assert_close(part.inputs(), expected, rtol=0, atol=1e-7)
        assert part.targets.tolist() == [(i + 1) % 10 for i in range(len(official))]
    x, _, ids = next(iter(data.train_dataloader()))
    assert x.shape == (30, *data.input_shape)
    assert sorted(ids.tolist()) == list(range(30))


def test_augmentation_never_flips(tmp_path: Path) -> None:
    data = fake(tmp_path)(str(tmp_path), augment=True)
    data.setup()
    x, _ = next(iter(data.train_dataloader()))
    stored = torch.nn.functional.pad(data.train_dataset.x.float() / 255, [4] * 4)
    crops = stored.unfold(2, 32, 1).unfold(3, 32, 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    for image in x[:5]:
        assert (crops - image).abs().amax((1, 2, 3)).min() < 1e-6


def test_a_missing_set_says_where_how_and_what_else(tmp_path: Path) -> None:
    data = SVHN(str(tmp_path))
    data.prepare_data()
    with pytest.raises(DatasetUnavailableError) as caught:
        data.setup()
    text = str(caught.value)
    assert f"SVHN is not in {tmp_path} (no train_32x32.mat)" in text
    assert "--data.init_args.download true" in text
    assert "configs/demo/hcnn_patches.yaml" in text


def test_changed_files_are_refused(tmp_path: Path) -> None:
    cls = fake(tmp_path)
    file = tmp_path / "test_32x32.mat"
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(DatasetUnavailableError, match=r"incomplete or changed .*delete"):
        cls(str(tmp_path)).setup()


def test_a_failed_download_says_what_else(tmp_path: Path) -> None:
    cls = fake(tmp_path)
    url = (tmp_path / "nothing.mat").as_uri()
    cls.reader.split_list = {k: [url, *v[1:]] for k, v in cls.reader.split_list.items()}
    with pytest.raises(DatasetUnavailableError, match=r"could not be downloaded .*hcnn_patches"):
        cls(str(tmp_path / "new"), download=True).prepare_data()
