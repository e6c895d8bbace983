import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from lightning_priv.data import Digits


def test_the_parts_are_scikit_learns() -> None:
    data = Digits(val_size=0)
    data.setup()
    assert (len(data.train_dataset), len(data.test_dataset)) == (1437, 360)
    images, labels = load_digits(return_X_y=True)
    test = sorted(train_test_split(range(1797), test_size=0.2, stratify=labels, random_state=0)[1])
    assert (data.test_dataset.x.flatten(1) * 16).tolist() == images[test].tolist()
    assert data.test_dataset.targets.tolist() == labels[test].tolist()


def test_values_lie_between_0_and_1() -> None:
    data = Digits()
    data.setup()
    assert (float(data.train_dataset.x.min()), float(data.train_dataset.x.max())) == (0, 1)


def test_logistic_regression_reaches_the_documented_accuracy() -> None:
    data = Digits(val_size=0)
    data.setup()
    train, test = data.plain_train_dataset, data.test_dataset
    model = LogisticRegression(max_iter=1000)
    model.fit(train.inputs().flatten(1).numpy(), train.targets.numpy())
    accuracy = model.score(test.inputs().flatten(1).numpy(), test.targets.numpy())
    assert accuracy == pytest.approx(0.967, abs=0.006)  # 348 of 360, give or take two
