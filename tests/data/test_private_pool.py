"""What private training asks of a pool: every sample in the loader, of one class, with views."""

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset

from lightning_priv.data import ActivePool, Digits, PoolSubset
from lightning_priv.data.arrays import ArrayDataset
from lightning_priv.strategies.loader import dataset_fingerprint


def test_all_samples_are_served_and_the_kind_stays():
    labels = {3: 7}
    pool = ActivePool(Digits(val_size=0), initial=10, serve="all", oracle=lambda ids: labels)
    pool.setup("fit")
    before = pool.train_dataset
    assert len(before) == pool.num_records == 1437
    assert isinstance(before, PoolSubset)
    pool.label([3], [7])
    after = pool.train_dataset
    assert dataset_fingerprint(before) == dataset_fingerprint(after)
    assert int(after[3][1]) == 7
    assert len(pool.train_dataloader().dataset) == 1437
    plain = ActivePool(Digits(val_size=0), initial=10, serve="all")
    plain.setup("fit")
    assert plain.train_dataset is plain.whole_dataset


def test_views_of_a_pool():
    def noise(x, words):
        return x + torch.from_numpy(words % 1000).float().view(-1, 1) / 1000

    data = ArrayDataset(torch.zeros(5, 2), torch.arange(5), augment=noise)
    pool = PoolSubset(data, torch.arange(5), {2: 4})
    x, y = pool.with_views(3)[2]
    assert x.shape == (3, 2)
    assert len(x[:, 0].unique()) == 3
    assert int(y) == 4
    bare = PoolSubset(TensorDataset(torch.zeros(5, 2), torch.arange(5)), torch.arange(5))
    with pytest.raises(ValueError, match="TensorDataset makes no views"):
        bare.with_views(2)


def test_a_data_module_of_somebody_else_is_served_whole():
    class Theirs(LightningDataModule):
        def train_dataloader(self):
            data = TensorDataset(torch.randn(20, 3), torch.arange(20) % 2)
            return DataLoader(data, batch_size=5, shuffle=True)

    pool = ActivePool(Theirs(), initial=6, serve="all", seed=1)
    pool.setup("fit")
    loader = pool.train_dataloader()
    assert len(loader.dataset) == 20
    assert len(pool.labelled_indices) == 6
