"""Texts: the offline task, user-given files, and encoders that are not trained."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_priv.data import IMDB, SNLI, DocstringText, FrozenTextEncoder, TfidfSVD
from lightning_priv.data.docstrings import first_paragraphs
from lightning_priv.errors import DatasetUnavailableError


@pytest.fixture(scope="module")
def docstrings() -> DocstringText:
    data = DocstringText(
        ("networkx", "matplotlib"), per_class=80, encoder=TfidfSVD(dim=12), indexed=True
    )
    data.setup()
    return data


def test_docstrings_are_sentences_of_their_library(docstrings: DocstringText) -> None:
    assert docstrings.class_names == ("networkx", "matplotlib")
    parts = [docstrings.train_dataset, docstrings.val_dataset, docstrings.test_dataset]
    texts = [text for part in parts if part is not None for text in part.x.texts]
    assert len(set(texts)) == len(texts)
    assert all(40 <= len(text) <= 300 for text in texts)
    assert not any("networkx" in text.lower() for text in texts)
    assert len(docstrings.test_dataset) == pytest.approx(0.2 * len(texts), abs=1)
    x, y, index = next(iter(docstrings.train_dataloader()))
    assert (x.dtype, x.shape[1:]) == (torch.float32, (12,))
    row = docstrings.train_dataset.ids.tolist().index(int(index[0]))
    assert torch.equal(docstrings.plain_train_dataset.inputs()[row], x[0])
    assert docstrings.plain_train_dataset.targets[row] == y[0]
    torch.testing.assert_close(x.norm(dim=1), torch.ones(len(x)))


def test_the_encoder_sees_training_texts_only(docstrings: DocstringText) -> None:
    train = docstrings.train_dataset.x.texts
    alone = TfidfSVD(dim=12)
    alone.fit(train)
    test = docstrings.test_dataset
    torch.testing.assert_close(alone.encode(test.x.texts), test.inputs())


def test_a_linear_model_learns_from_the_vectors(docstrings: DocstringText) -> None:
    from sklearn.linear_model import LogisticRegression

    train, test = docstrings.plain_train_dataset, docstrings.test_dataset
    model = LogisticRegression(C=10).fit(train.inputs().numpy(), train.targets.numpy())
    assert model.score(test.inputs().numpy(), test.targets.numpy()) > 0.75


def test_paragraphs_are_those_of_the_source(tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "mypackage"
    (folder / "tests").mkdir(parents=True)
    long = "Do something that takes more than forty characters with numpy"
    for number in range(12):
        (folder / f"m{number}.py").write_text(
            f'def f():\n    """{long} {number}.\n\n    More.\n    """\n'
        )
    (folder / "__init__.py").write_text('"""Short."""\n')
    (folder / "broken.py").write_text("def {{template}}")
    (folder / "tests" / "test_x.py").write_text(f'"""{long} in a test."""\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    found = first_paragraphs("mypackage", 100)
    expected = {f"{long.replace('numpy', 'library')} {n}." for n in range(12)}
    assert set(found) == expected
    assert first_paragraphs("mypackage", 3) == found[:3]
    with pytest.raises(DatasetUnavailableError, match="not installed"):
        first_paragraphs("no_such_package", 10)


def write(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")


def reviews(count: int, first: int = 0) -> list[Any]:
    words = [("a dull film, bad", "neg"), ("a bright film, good", "pos")]
    numbers = range(first, first + count)
    return [{"text": f"{words[i % 2][0]} {i}", "label": words[i % 2][1]} for i in numbers]


def test_imdb_from_files() -> None:
    write(Path("data/imdb/train.jsonl"), reviews(40))
    write(Path("data/imdb/test.jsonl"), reviews(10, first=40))
    data = IMDB(encoder=TfidfSVD(dim=3, min_count=1), val_size=0)
    data.setup()
    assert data.input_shape == (3,)
    assert (len(data.train_dataset), len(data.test_dataset)) == (40, 10)
    assert data.train_dataset.targets.tolist() == [0, 1] * 20
    assert data.test_dataset.x.texts[0] == "a dull film, bad 40"


def test_snli_drops_pairs_without_a_label() -> None:
    official = [
        {"sentence1": "A man sleeps.", "sentence2": "He rests.", "gold_label": "entailment"},
        {"sentence1": "A man sleeps.", "sentence2": "He runs.", "gold_label": "contradiction"},
        {"sentence1": "A man sleeps.", "sentence2": "He is old.", "gold_label": "-"},
    ]
    packaged = [
        {"premise": f"A dog barks {i}.", "hypothesis": "It is loud.", "label": i % 3 - (i == 29)}
        for i in range(30)
    ]
    write(Path("data/snli/train.jsonl"), official + packaged)
    write(Path("data/snli/test.jsonl"), official)
    data = SNLI(encoder=TfidfSVD(dim=2, min_count=1), val_size=0)
    data.setup()
    assert (len(data.train_dataset), len(data.test_dataset)) == (32, 2)
    assert data.test_dataset.targets.tolist() == [0, 2]
    assert data.test_dataset.x.texts[0] == "A man sleeps. [SEP] He rests."


def test_missing_and_broken_files_are_named() -> None:
    with pytest.raises(DatasetUnavailableError, match=r"train\.jsonl.*DocstringText"):
        IMDB().setup()
    write(Path("data/imdb/test.jsonl"), reviews(4))
    Path("data/imdb/train.jsonl").write_text('{"text": "a", "label": 0}\nnot json\n')
    with pytest.raises(DatasetUnavailableError, match="line 2"):
        IMDB().setup()
    write(Path("data/imdb/train.jsonl"), [{"text": "a", "label": 7}])
    with pytest.raises(DatasetUnavailableError, match=r"record 1.*label 7"):
        IMDB().setup()
    with pytest.raises(ValueError, match="give a dim below"):
        TfidfSVD(dim=50).fit(["one text"] * 10)


def test_download_needs_the_package_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DatasetUnavailableError, match="pip install datasets"):
        IMDB(download=True).setup()


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with random weights."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dull", "bright", "film", ",",
             "good", "bad"]  # fmt: skip
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


def test_frozen_encoder(encoder_folder: Path) -> None:
    texts = ["a dull film", "a bright film, good good good", "bad"]
    encoder = FrozenTextEncoder(str(encoder_folder), max_length=12, device="cpu", cache="kept")
    encoder.fit(texts)
    assert encoder.dim == 16
    vectors = encoder.encode(texts)
    assert vectors.shape == (3, 16)
    assert len(list(Path("kept").iterdir())) == 1
    assert torch.equal(encoder.encode(texts), vectors)
    # one by one, without the padding that a batch needs
    single = FrozenTextEncoder(str(encoder_folder), batch_size=1, device="cpu", max_length=12)
    torch.testing.assert_close(single.encode(texts), vectors, rtol=1e-4, atol=1e-5)
    mean = FrozenTextEncoder(str(encoder_folder), "mean", 12, device="cpu")
    other = FrozenTextEncoder(str(encoder_folder), "mean", 12, batch_size=1, device="cpu")
    torch.testing.assert_close(mean.encode(texts), other.encode(texts), rtol=1e-4, atol=1e-5)
    assert not np.allclose(mean.encode(texts), vectors)
    write(Path("data/imdb/train.jsonl"), reviews(12))
    write(Path("data/imdb/test.jsonl"), reviews(4))
    data = IMDB(encoder=encoder, val_size=0)
    data.setup()
    assert data.plain_train_dataset.inputs().shape == (12, 16)
    with pytest.raises(DatasetUnavailableError, match="save_pretrained"):
        FrozenTextEncoder("nowhere").fit(texts)
