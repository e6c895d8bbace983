"""The books of a pool, its loaders, checkpoints and file, and what must not happen to them."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from active_kit import Blobs, pool, ready
from lightning.pytorch import LightningDataModule
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    TensorDataset,
    WeightedRandomSampler,
)

from lightning_priv.acquisition import Query
from lightning_priv.data import ActivePool, Digits, PoolSubset
from lightning_priv.errors import ConfigurationError, OracleError


def query(made, count=6, round=1):
    return Query(round, tuple(made.pool_indices[:count].tolist()), "Test", (0.5,) * count)


def buy(made, count=6):
    made.propose(query(made, count, made.rounds + 1))
    made.accept(made.ask())


# -- books ---------------------------------------------------------------------------------------


def test_initial_labels_follow_from_the_seed():
    first, again, other = ready(seed=1), ready(seed=1), ready(seed=2)
    assert torch.equal(first.labelled_indices, again.labelled_indices)
    assert not torch.equal(first.labelled_indices, other.labelled_indices)
    assert len(first.labelled_indices) == 24
    both = torch.cat([first.labelled_indices, first.pool_indices]).sort().values
    assert torch.equal(both, torch.arange(101))
    assert first.round_of.dtype == torch.int32
    assert set(first.round_of.tolist()) == {-1, 0}


def test_initial_labels_by_list_file_and_class():
    assert ready(initial=[5, 3]).labelled_indices.tolist() == [3, 5]
    Path("start.csv").write_text("index\n7\n2\n")
    assert ready(initial="start.csv").labelled_indices.tolist() == [2, 7]
    made = ready(initial=30, stratified=True)
    assert made.whole_dataset.targets[made.labelled_indices].bincount().tolist() == [10, 10, 10]


def test_rounds_move_samples_once():
    made = ready()
    ids = made.pool_indices[:3].tolist()
    made.label(ids)
    made.label(ids)  # a second time changes nothing
    assert made.round_of[ids].tolist() == [1, 1, 1]
    made.label([*ids, int(made.pool_indices[0])])
    assert made.rounds == 2
    assert made.round_of[ids].tolist() == [1, 1, 1]
    made.unlabel(ids[:1])
    assert ids[0] in made.pool_indices
    made.ignore(ids[:1])
    assert ids[0] not in made.pool_indices
    assert made.round_of[ids[0]] == -1


@pytest.mark.parametrize(
    ("ids", "text"),
    [([101], "none of a data set of 101"), ([-1], "positions in the data set"), ([4, 4], "twice")],
)
def test_wrong_indices_change_nothing(ids, text):
    made = ready()
    before = made.round_of.clone()
    with pytest.raises(ValueError, match=text):
        made.label([0, *ids] if ids[0] != 4 else ids)
    assert torch.equal(before, made.round_of)


def test_a_contradicting_label_is_refused():
    made = ready()
    i = int(made.pool_indices[0])
    made.label([i], [2])
    made.label([i], [2])
    with pytest.raises(ValueError, match=f"index {i} was labelled 2 in round 1 .* given as 1"):
        made.label([i], [1])
    with pytest.raises(ValueError, match="2 labels for 1 samples"):
        made.label([i], [1, 2])
    with pytest.raises(ValueError, match="unlabel it before"):
        made.ignore([i])


def test_a_query_waits_for_its_answer():
    made = ready()
    asked = query(made)
    made.propose(asked)
    made.propose(asked)
    with pytest.raises(ValueError, match="round 1 still waits"):
        made.propose(query(made, 2, round=2))
    made.accept(made.ask())
    assert made.history == [asked]
    assert made.pending is None
    with pytest.raises(ValueError, match="the answer came twice"):
        made.accept()
    with pytest.raises(ValueError, match="no query waits"):
        made.ask()
    with pytest.raises(ValueError, match="labelled or ignored; queries hold indices of the data"):
        made.propose(Query(2, asked.ids, "Test"))
    with pytest.raises(ValueError, match="asks for no sample"):
        made.propose(Query(2, (), "Test"))


def test_queries_larger_than_the_pool():
    made = ready(initial=100)
    with pytest.raises(ConfigurationError, match="a query of 6 samples, but only 1 are left"):
        made.check_query(6)
    buy(made, 1)
    with pytest.raises(ConfigurationError, match="the pool is empty"):
        made.check_query(1)


@pytest.mark.parametrize(
    "options", [{"query_size": 0}, {"initial": -1}, {"serve": "some"}, {"oracle": "nobody"}]
)
def test_arguments_are_checked(options):
    with pytest.raises(ValueError, match="give"):
        pool(**options)


def test_set_ups_that_cannot_be(tmp_path):
    with pytest.raises(ConfigurationError, match="initial=102, but there are 101"):
        ready(initial=102)
    with pytest.raises(ConfigurationError, match="there is no such file"):
        ready(initial="nowhere.csv")
    with pytest.raises(ValueError, match="the data module inside it"):
        ActivePool(pool())
    with pytest.raises(RuntimeError, match="setup"):
        _ = pool().labelled_indices


# -- data sets and loaders -------------------------------------------------------------------------


def test_training_sees_labelled_samples_only():
    made = ready()
    x = made.whole_dataset.inputs()
    seen = torch.cat([batch[0] for batch in made.train_dataloader()])
    assert len(seen) == 24
    rows = {tuple(row) for row in seen.tolist()}
    assert rows == {tuple(row) for row in x[made.labelled_indices].tolist()}
    buy(made)
    assert sum(len(batch[0]) for batch in made.train_dataloader()) == 30
    assert len(made.plain_train_dataset) == 30
    assert torch.equal(made.plain_train_dataset.inputs(), x[made.labelled_indices])


def test_the_pool_is_served_in_order_with_global_indices():
    made = ready(pool_batch_size=20)
    items = made.pool_dataset
    assert [int(items[i][2]) for i in range(len(items))] == made.pool_indices.tolist()
    x = torch.cat([batch[0] for batch in made.pool_dataloader()])
    assert torch.equal(x, made.whole_dataset.inputs()[made.pool_indices])
    some = torch.tensor([9, 50, 3])
    assert torch.equal(next(iter(made.pool_dataloader(some)))[0], made.whole_dataset.inputs()[some])


def test_serving_all_records():
    made = ready(serve="all")
    assert made.train_dataset is made.whole_dataset
    assert sum(len(batch[0]) for batch in made.train_dataloader()) == 101
    made = ready(serve="all", oracle=lambda ids: [0] * len(ids))
    buy(made)
    assert made.train_dataset.targets[list(made.history[0].ids)].tolist() == [0] * 6
    assert len(made.train_dataset) == 101


def test_everything_else_is_the_base():
    made = ready()
    assert (made.num_classes, made.input_shape, made.class_names[0]) == (3, (2,), "red")
    assert len(made.test_dataset) == sum(len(b[0]) for b in made.test_dataloader()) == 60
    assert made.val_dataloader() == []
    assert not hasattr(made, "resample_training")  # it would mean all samples
    assert not hasattr(made, "nothing_like_it")


def test_a_broken_view_never_gives_way_to_all_samples(monkeypatch):
    def broken(*_):
        raise AttributeError("a fault in the view")

    made = ready()
    monkeypatch.setattr("lightning_priv.data.pool.PoolSubset", broken)
    with pytest.raises(AttributeError):
        _ = made.train_dataset


def test_no_training_batch_is_an_error():
    with pytest.raises(ConfigurationError, match="0 labelled samples give no training batch"):
        ready(initial=0).train_dataloader()
    made = ready(initial=5, base=Blobs(drop_last=True))
    with pytest.raises(ConfigurationError, match="drop_last True"):
        made.train_dataloader()


class Plain(LightningDataModule):
    """A data module as users write it: no train_dataset, nothing of ours."""

    def __init__(self, dataset, **loader):
        super().__init__()
        self.data, self.loader = dataset, {"batch_size": 4, "shuffle": True, **loader}
        self.moved = 0

    def train_dataloader(self):
        return DataLoader(self.data, **self.loader)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        self.moved += 1
        return batch


class Items(Dataset):
    def __init__(self, make):
        self.make = make

    def __len__(self):
        return 20

    def __getitem__(self, i):
        return self.make(i)


@dataclasses.dataclass
class Record:
    x: torch.Tensor
    label: int
    index: int = -1


def test_items_of_any_form_take_bought_labels():
    forms = {
        "pair": lambda i: (torch.ones(2) * i, 0),
        "tensors": lambda i: (torch.ones(2) * i, torch.tensor(0)),
        "mapping": lambda i: {"input_ids": torch.ones(2) * i, "labels": 0},
        "record": lambda i: Record(torch.ones(2) * i, 0),
        "input": lambda i: torch.ones(2) * i,
    }
    for name, make in forms.items():
        subset = PoolSubset(Items(make), torch.tensor([3, 8]), {8: 1}, indexed=True)
        (a, b), direct = subset.__getitems__([0, 1]), subset[1]
        for item, label, index in ((a, 0, 3), (b, 1, 8), (direct, 1, 8)):
            if isinstance(item, dict):
                got = (item["labels"], item["index"], item["input_ids"][0])
            elif isinstance(item, Record):
                got = (item.label, item.index, item.x[0])
            elif name == "input" and label == 0:
                got = (0, item[-1], item[0][0])
            else:
                got = (item[1], item[2], item[0][0])
            assert tuple(map(int, got)) == (label, index, index), name


def test_data_modules_of_other_projects():
    base = Plain(TensorDataset(torch.randn(20, 2), torch.arange(20) % 2))
    made = ready(base=base, initial=6)
    assert sum(len(b[0]) for b in made.train_dataloader()) == 6
    assert made.on_after_batch_transfer == base.on_after_batch_transfer
    assert sum(len(b[0]) for b in made.pool_dataloader()) == 14
    # the same order in each process and run, another one in each epoch
    loader = made.train_dataloader()
    first, second = (torch.cat([b[0] for b in loader]) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, torch.cat([b[0] for b in made.train_dataloader()]))


@pytest.mark.parametrize(
    ("base", "text"),
    [
        (Plain(TensorDataset(torch.zeros(9, 2)), batch_size=None, shuffle=False), "batch_size"),
        (
            Plain(Items(float), shuffle=False, sampler=WeightedRandomSampler([1.0] * 20, 20)),
            "WeightedRandomSampler",
        ),
        (Plain(type("S", (IterableDataset,), {"__iter__": lambda _: iter(())})(), shuffle=False),
         "map-style"),
    ],
    ids=["no batches", "weights", "stream"],
)  # fmt: skip
def test_data_modules_that_cannot_be_cut_down(base, text):
    with pytest.raises(ConfigurationError, match=text):
        ready(base=base, initial=2).train_dataloader()


# -- checkpoints, file, changed data ---------------------------------------------------------------


def test_checkpoint_round_trip():
    made = ready(oracle=lambda ids: [2] * len(ids))
    buy(made)
    made.propose(query(made, 3, round=2))
    made.ignore([int(made.pool_indices[-1])])
    state = json.loads(json.dumps(made.state_dict()))
    other = ready(seed=7)
    other.load_state_dict(state)
    assert torch.equal(other.round_of, made.round_of)
    assert torch.equal(other.pool_indices, made.pool_indices)
    assert (other.history, other.pending) == (made.history, made.pending)
    assert other.state.labels == made.state.labels
    assert other.state.seed == made.state.seed
    late = pool()  # state that comes before the data is known
    late.load_state_dict(state)
    late.setup("fit")
    assert torch.equal(late.round_of, made.round_of)


@pytest.mark.parametrize("base", [Blobs(shift=0.1), Digits()], ids=["values", "length"])
def test_changed_data_are_refused(base):
    made = ready()
    made.keep("pool.json")
    text = Path("pool.json").read_text()
    with pytest.raises(ConfigurationError, match="belongs to a data set of 101 samples"):
        ready(base=base).load_state_dict(made.state_dict())
    with pytest.raises(ConfigurationError, match=r"pool\.json belongs .* no index would fit"):
        ready(base=base).keep("pool.json", resume=True)
    assert Path("pool.json").read_text() == text


def test_labelling_does_not_change_the_fingerprint():
    made = ready(oracle=lambda ids: [1] * len(ids))
    before = made.state.fingerprint
    buy(made)
    assert ready().state.fingerprint == before


def test_the_file_is_written_before_and_after_a_query():
    made = ready()
    made.keep("pool.json")
    made.propose(query(made))
    waiting = ready()
    waiting.keep("pool.json", resume=True)  # as after a kill between query and answer
    assert waiting.pending == made.pending
    waiting.accept(waiting.ask())
    made.accept(made.ask())
    after = ready()
    after.keep("pool.json", resume=True)
    assert after.pending is None
    assert torch.equal(after.round_of, made.round_of)
    assert list(Path().glob(".*tmp")) == []


def test_a_crash_while_writing_leaves_the_old_file(monkeypatch):
    made = ready()
    made.keep("pool.json")
    text = Path("pool.json").read_text()

    def crash(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", crash)
    with pytest.raises(OSError, match="disk full"):
        made.propose(query(made))
    assert Path("pool.json").read_text() == text
    assert list(Path().glob(".*tmp")) == []


def test_a_broken_file_is_named():
    Path("pool.json").write_text('{"state": ')
    with pytest.raises(ConfigurationError, match=r"pool\.json cannot be read"):
        ready().keep("pool.json", resume=True)
    Path("pool.json").write_text('{"state": {"format": 99}, "queries": [], "answers": {}}')
    with pytest.raises(ConfigurationError, match="format 99"):
        ready().keep("pool.json", resume=True)


def test_an_older_checkpoint_does_not_lose_later_queries_and_labels():
    asked = []

    def oracle(ids):
        asked.append(list(ids))
        return [i % 3 for i in ids]

    made = ready(oracle=oracle)
    made.keep("pool.json")
    buy(made)
    old = made.state_dict()
    buy(made)
    again = ready(oracle=oracle)
    again.load_state_dict(old)
    again.keep("pool.json")
    again.save()
    assert again.rounds == 1
    assert again.recorded(2) == made.history[1]
    again.propose(again.recorded(2))
    again.accept(again.ask())  # the label is known: nobody is asked twice
    assert len(asked) == 2
    assert torch.equal(again.round_of, made.round_of)
    assert again.state.labels == made.state.labels


def test_export():
    made = ready(oracle=lambda ids: ["green"] * len(ids))
    buy(made, 2)
    made.export("labels.csv")
    lines = Path("labels.csv").read_text().splitlines()
    assert lines[0] == "index,round,label"
    assert len(lines) == 27
    assert [line for line in lines if line.endswith(",1,1")] == [
        f"{i},1,1" for i in made.history[0].ids
    ]


def test_a_twin_has_books_of_its_own():
    made = ready()
    twin = made.twin(seed=5)
    assert torch.equal(twin.labelled_indices, ready(seed=5).labelled_indices)
    buy(twin)
    assert len(made.labelled_indices) == 24


# -- oracles that fail, see also test_oracles ------------------------------------------------------


@pytest.mark.parametrize(
    ("oracle", "text"),
    [
        (lambda ids: 1 / 0, "failed in round 1: ZeroDivisionError"),
        (lambda ids: [1], "gave 1 labels for 6 samples"),
        (lambda ids: None, "gave None for 6"),
        (lambda ids: {ids[0]: 1}, "gave no label for index"),
        (lambda ids: [7] * 6, "classes are 0 to 2"),
        (lambda ids: ["violet"] * 6, "classes are red, green, blue"),
        (lambda ids: [float("nan")] * 6, "is no label"),
    ],
)
def test_a_failing_oracle_loses_nothing(oracle, text):
    made = ready(oracle=oracle)
    made.keep("pool.json")
    made.propose(query(made))
    with pytest.raises(OracleError, match=text):
        made.ask()
    again = ready(oracle=lambda ids: torch.zeros(6, dtype=torch.long))
    again.keep("pool.json", resume=True)
    assert again.pending == made.pending
    again.accept(again.ask())
    assert len(again.labelled_indices) == 30


def test_numbers_and_several_labels():
    made = ready(oracle=lambda ids: {i: [0.0, 1.0] for i in ids}, base=Plain(Items(lambda i: (torch.ones(2), torch.zeros(2)))), initial=2)  # fmt: skip  # noqa: E501
    buy(made, 2)
    i = made.history[0].ids[0]
    item = PoolSubset(made.whole_dataset, torch.tensor([i]), made.state.labels)[0]
    assert item[1].tolist() == [0.0, 1.0]
