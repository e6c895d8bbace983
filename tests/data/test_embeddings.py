"""Features from files, as a table and as a data module."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_priv.data import Embeddings
from lightning_priv.data.feature_files import read_features
from lightning_priv.errors import DatasetUnavailableError

X = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
Y = np.arange(30) % 3


def write(name: str) -> Path:
    path = Path(name)
    if path.suffix == ".npz":
        np.savez(path, x=X, y=Y)
    elif path.suffix == ".npy":
        np.save(path, X)
    elif path.suffix == ".csv":
        lines = ["index,label,a,b,c,d"]
        lines += [f"{i},{y}," + ",".join(map(repr, map(float, x))) for i, (x, y) in
                  enumerate(zip(X, Y, strict=True))]  # fmt: skip
        path.write_text("\n".join(lines) + "\n")
    else:
        from safetensors.torch import save_file

        save_file({"embeddings": torch.from_numpy(X), "labels": torch.from_numpy(Y)}, path)
    return path


@pytest.mark.parametrize("name", ["f.npz", "f.csv", "f.safetensors", "f.npy"])
def test_every_kind_of_file_gives_the_same(name: str) -> None:
    np.save("labels.npy", Y)
    table = read_features(write(name), "labels.npy" if name == "f.npy" else None)
    np.testing.assert_allclose(table.features, X, rtol=1e-6)
    assert table.labels is not None
    assert table.labels.tolist() == Y.tolist()
    assert (table.ids is not None) == (name == "f.csv")


def test_half_precision_is_widened() -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.from_numpy(X).bfloat16()}, "half.safetensors")
    table = read_features("half.safetensors")
    assert table.features.dtype == np.float32
    assert table.labels is None


def test_names_in_a_csv_become_classes() -> None:
    Path("n.csv").write_text("label,a\ncat,1\nant,2\ncat,3.5\n")
    table = read_features("n.csv")
    assert table.labels is not None
    assert table.labels.tolist() == [1, 0, 1]
    Path("r.csv").write_text("y,a\n0.5,1\n1.5,2\n")
    labels = read_features("r.csv").labels
    assert labels is not None
    assert labels.dtype == np.float64


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: read_features("none.npz"), "there is no file"),
        (lambda: read_features("none.txt"), "ends in '.txt'"),
        (lambda: (np.savez("a.npz", z=X), read_features("a.npz")), "name one of them features"),
        (lambda: (np.savez("b.npz", x=X, y=Y[:5]), read_features("b.npz")), "30 features and 5"),
        (lambda: (np.save("c.npy", Y), read_features("c.npy")), "shape \\(n, d\\)"),
        (
            lambda: (Path("d.csv").write_text("label,a\n1,word\n"), read_features("d.csv")),
            "numbers",
        ),
        (lambda: (Path("e.npz").write_bytes(b"no zip"), read_features("e.npz")), "cannot be read"),
    ],
)
def test_wrong_files_are_explained(make: Any, text: str) -> None:
    with pytest.raises(DatasetUnavailableError, match=text):
        make()


def test_embeddings_are_a_data_set() -> None:
    write("f.npz")
    data = Embeddings("f.npz", val_size=0.2, batch_size=8, indexed=True)
    data.setup()
    assert (data.num_classes, data.input_shape) == (3, (4,))
    assert len(data.test_dataset) == 6
    batch = next(iter(data.train_dataloader()))
    assert [tuple(t.shape) for t in batch] == [(8, 4), (8,), (8,)]
    np.save("g.npy", X)
    np.save("labels.npy", Y)
    given = Embeddings("g.npy", "labels.npy", test="f.npz", val_size=0)
    given.setup()
    assert (len(given.train_dataset), len(given.test_dataset)) == (30, 30)
    assert given.train_dataset.ids.tolist() == list(range(30))
    assert torch.equal(given.train_dataset.inputs(), given.test_dataset.inputs())
    with pytest.raises(DatasetUnavailableError, match="no labels"):
        Embeddings("g.npy").setup()
    np.savez("narrow.npz", x=X[:, :2], y=Y)
    with pytest.raises(DatasetUnavailableError, match="files of one encoder"):
        Embeddings("f.npz", test="narrow.npz").setup()
