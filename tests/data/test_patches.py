import numpy as np
import pytest
import torch

from lightning_priv.data import PhotoPatches
from lightning_priv.data.patches import cut


@pytest.fixture(scope="module")
def data() -> PhotoPatches:
    data = PhotoPatches()
    data.setup()
    return data


def test_cut_gives_disjoint_patches_at_their_places() -> None:
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (70, 100, 3), dtype=np.uint8)  # 2 rows of 3 patches, and a rest
    patches = cut(photo)
    assert patches.pixels.shape == (6, 3, 32, 32)
    for pixels, row, column in zip(*patches, strict=True):
        there = photo[32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
        np.testing.assert_array_equal(pixels, there.transpose(2, 0, 1))


def test_cut_leaves_out_uniform_patches() -> None:
    photo = np.full((32, 96, 3), 200, dtype=np.uint8)
    photo[:16, 64:, 1] = 210  # one colour of the third patch varies
    photo[0, 32] = 201
    assert cut(photo).columns.tolist() == [2]


def test_training_and_test_pixels_are_disjoint(data: PhotoPatches) -> None:
    train, test = data.places()
    assert len(train) == len(test) == 11
    for left, right in zip(train, test, strict=True):
        # columns are whole patches: no pixel column of the photograph is on both sides
        assert left.columns.max() < right.columns.min()
        share = right.columns.min() / (right.columns.max() + 1)
        assert 0.75 < share < 0.85
        for part in (left, right):
            places = set(zip(part.rows.tolist(), part.columns.tolist(), strict=True))
            assert len(places) == len(part.rows)
    assert sum(len(part.rows) for part in test) == len(data.test_dataset)


def test_validation_pixels_are_disjoint_and_to_the_right(data: PhotoPatches) -> None:
    train, _ = data.places()
    columns = np.concatenate([part.columns for part in train])
    rows = np.concatenate([part.rows for part in train])
    assert data.val_dataset is not None
    kept, held = data.train_dataset.ids.numpy(), data.val_dataset.ids.numpy()
    labels = np.concatenate([[n] * len(part.rows) for n, part in enumerate(train)])
    for label in range(11):
        left, right = kept[labels[kept] == label], held[labels[held] == label]
        assert columns[left].max() <= columns[right].min()
        share = len(right) / (len(left) + len(right))
        assert share == pytest.approx(0.1, abs=0.02)
        places = {(rows[i], columns[i]) for i in left} & {(rows[i], columns[i]) for i in right}
        assert not places


def test_no_class_has_more_than_its_cap(data: PhotoPatches) -> None:
    assert data.val_dataset is not None
    train = torch.bincount(torch.cat([data.train_dataset.targets, data.val_dataset.targets]))
    test = torch.bincount(data.test_dataset.targets)
    assert int(train.max()) == 200
    assert int(test.max()) == 50
    assert int(train.min()) >= 90
    assert int(test.min()) >= 25
    small = PhotoPatches(max_per_class=5, val_size=0)
    small.setup()
    assert torch.bincount(small.train_dataset.targets).tolist() == [4] * 11
    assert torch.bincount(small.test_dataset.targets).tolist() == [1] * 11


def test_normalised_by_the_training_samples(data: PhotoPatches) -> None:
    x = data.plain_train_dataset.inputs().double()
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3).double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(3).double(), rtol=0, atol=1e-4)
    plain = PhotoPatches(normalize=False, augment=False, max_per_class=5)
    plain.setup()
    x = plain.train_dataset[0][0]
    torch.testing.assert_close(x, plain.train_dataset.x[0] / 255)


def test_the_cap_must_leave_a_test_patch() -> None:
    with pytest.raises(ValueError, match="max_per_class=4: give at least 5"):
        PhotoPatches(max_per_class=4)
