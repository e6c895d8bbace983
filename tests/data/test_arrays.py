import pytest
import torch
from torch.utils.data import DataLoader, Subset, default_collate

from lightning_priv.data import ArrayDataset, EpochSampler, RandomCropFlip, Scale, collate_rows
from lightning_priv.data.sampling import EpochIndex


def dataset(indexed: bool = True, augmented: bool = False) -> ArrayDataset:
    x = torch.randint(0, 256, (30, 3, 8, 8), dtype=torch.uint8)
    augment = RandomCropFlip(2) if augmented else None
    ids = torch.arange(100, 130)
    return ArrayDataset(x, torch.arange(30) % 3, ids, Scale(255), augment, indexed)


def test_an_item_is_a_sample_of_the_batch() -> None:
    data = dataset()
    batch = collate_rows(data.__getitems__([4, 7]))
    x, y, index = data[7]
    torch.testing.assert_close(batch[0][1], x)
    assert (y, index) == (1, 107)
    assert (batch[1].tolist(), batch[2].tolist()) == ([1, 1], [104, 107])
    assert isinstance(y, int)
    assert isinstance(index, int)
    assert batch[1].dtype == batch[2].dtype == torch.int64
    assert x.dtype == torch.float32


def test_without_ids_an_item_is_a_pair() -> None:
    assert len(dataset(indexed=False)[0]) == 2
    assert len(collate_rows(dataset(indexed=False).__getitems__([0, 1]))) == 2


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: Subset(d, range(5, 25))])
def test_any_collate_function_sees_the_same_batches(wrap: object) -> None:
    data = wrap(dataset())  # type: ignore[operator]
    ours = list(DataLoader(data, batch_size=4, collate_fn=collate_rows))
    plain = list(DataLoader(data, batch_size=4, collate_fn=default_collate))
    samples = [collate_rows([data[i] for i in range(4)])]
    for left, right in zip(ours, plain, strict=True):
        torch.testing.assert_close(list(left), list(right))
    torch.testing.assert_close(list(ours[0]), list(samples[0]))


def test_python_iteration_and_bounds() -> None:
    data = dataset()
    assert len(list(data)) == 30  # type: ignore[call-overload]
    assert data[-1][2] == 129
    for outside in (30, -31):
        with pytest.raises(IndexError, match="outside a data set of 30 samples"):
            data[outside]


def test_augmentation_follows_from_key_and_id() -> None:
    data = dataset(augmented=True)
    batch = collate_rows(data.__getitems__([EpochIndex(i, 5) for i in range(30)]))[0]
    backwards = collate_rows(data.__getitems__([EpochIndex(i, 5) for i in reversed(range(30))]))[0]
    torch.testing.assert_close(batch, backwards.flip(0))
    torch.testing.assert_close(batch[3], data[EpochIndex(3, 5)][0])
    other = collate_rows(data.__getitems__([EpochIndex(i, 6) for i in range(30)]))[0]
    assert (batch != other).flatten(1).any(1).double().mean() > 0.9


def test_augmentation_of_a_subset_follows_the_sample() -> None:
    data = dataset(augmented=True)
    rows = torch.arange(10, 30)
    part = ArrayDataset(
        data.x[rows], data.targets[rows], data.ids[rows], data.transform, data.augment
    )
    torch.testing.assert_close(data[EpochIndex(12, 5)][0], part[EpochIndex(2, 5)][0])


def test_without_a_key_the_global_generator_is_asked() -> None:
    data = dataset(augmented=True)
    torch.manual_seed(0)
    first, second = data.__getitems__(range(30)), data.__getitems__(range(30))
    assert (first.tensors[0] != second.tensors[0]).any()
    torch.manual_seed(0)
    torch.testing.assert_close(data.__getitems__(range(30)).tensors[0], first.tensors[0])


def test_workers_augment_as_the_main_process_does() -> None:
    data = dataset(augmented=True)

    def batches(workers: int) -> list[torch.Tensor]:
        sampler = EpochSampler(data, seed=1)
        sampler.set_epoch(3)
        loader = DataLoader(data, 8, sampler=sampler, num_workers=workers, collate_fn=collate_rows)
        return [batch[0] for batch in loader]

    torch.testing.assert_close(batches(2), batches(0))


def test_plain_view_is_the_same_samples_without_augmentation() -> None:
    data = dataset(augmented=True)
    plain = data.plain()
    assert plain.x is data.x
    torch.testing.assert_close(plain[3][0], data.x[3] / 255)
    torch.testing.assert_close(plain.inputs(), data.x / 255)
    assert plain.ids.tolist() == data.ids.tolist()


def test_an_empty_batch_keeps_its_shape() -> None:
    x, y, ids = collate_rows(dataset(augmented=True).__getitems__([]))
    assert (x.shape, y.shape, ids.shape) == ((0, 3, 8, 8), (0,), (0,))


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="got 3 inputs, 2 labels and 3 ids"):
        ArrayDataset(torch.zeros(3, 1), torch.zeros(2))
