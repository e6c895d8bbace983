import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_wine

from lightning_priv.data import BreastCancer, ClassificationDataModule, Wine
from lightning_priv.data.tables import _Table


@pytest.mark.parametrize("cls", [BreastCancer, Wine])
def test_standardised_by_the_training_samples_alone(cls: type[ClassificationDataModule]) -> None:
    data = cls()
    data.setup()
    train, test = data.train_dataset, data.test_dataset
    x = train.inputs().double()
    torch.testing.assert_close(x.mean(0), torch.zeros_like(x[0]), rtol=0, atol=1e-5)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones_like(x[0]), rtol=0, atol=1e-4)
    raw = train.x.double()
    expected = (test.x.double() - raw.mean(0)) / raw.std(0, correction=0)
    torch.testing.assert_close(test.inputs().double(), expected, rtol=0, atol=1e-4)
    assert test.inputs().mean(0).abs().max() > 0.01  # not by the test samples
    assert data.val_dataset is not None
    everything = torch.cat([train.x, data.val_dataset.x]).double()
    assert (everything.mean(0) - raw.mean(0)).abs().max() > 1e-3  # nor by the validation samples


@pytest.mark.parametrize(
    ("cls", "read", "test_counts"),
    [(BreastCancer, load_breast_cancer, [42, 72]), (Wine, load_wine, [12, 14, 10])],
)
def test_rows_keep_their_labels(
    cls: type[ClassificationDataModule], read: object, test_counts: list[int]
) -> None:
    data = cls(val_size=0)
    data.setup()
    assert torch.bincount(data.test_dataset.targets).tolist() == test_counts
    rows, labels = read(return_X_y=True)  # type: ignore[operator]
    rows = torch.from_numpy(rows).float().tolist()
    known = {tuple(row): int(label) for row, label in zip(rows, labels, strict=True)}
    for part in (data.train_dataset, data.test_dataset):
        found = [known[tuple(row)] for row in part.x.tolist()]
        assert found == part.targets.tolist()


def test_a_constant_column_is_only_centred() -> None:
    x = torch.tensor([[0.1, 1.0], [0.1, 3.0], [0.1, 5.0]])
    scaled = _Table().fit_transform(x)(x)
    torch.testing.assert_close(scaled[:, 0], torch.zeros(3))
    assert scaled[:, 1].std(correction=0) == pytest.approx(1)
