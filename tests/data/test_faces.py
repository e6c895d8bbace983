import torch

from lightning_priv.data import LFWFaces


def test_parts_are_balanced() -> None:
    data = LFWFaces(val_size=0)
    data.setup()
    assert torch.bincount(data.train_dataset.targets).tolist() == [80, 80]
    assert torch.bincount(data.test_dataset.targets).tolist() == [20, 20]


def test_class_one_are_the_faces() -> None:
    data = LFWFaces(val_size=0)
    data.setup()
    assert data.class_names == ("not a face", "face")
    train = data.train_dataset
    mean = train.x[train.targets == 1].mean((0, 1))
    other = train.x[train.targets == 0].mean((0, 1))
    # a face is brighter than what is beside it, and its eyes are darker than forehead and cheeks
    assert mean[:, 12].mean() - mean[:, [0, 24]].mean() > 0.1
    assert abs(other[:, 12].mean() - other[:, [0, 24]].mean()) < 0.1
    for column in (7, 16):
        forehead, eye, cheek = mean[[4, 8, 12], column]
        assert eye < 0.45 < 0.55 < min(forehead, cheek)
