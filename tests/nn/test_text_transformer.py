"""A tiny BERT from a folder, trained in its last layer under DP-SGD."""

import json

import lightning.pytorch as pl
import pytest
import torch

from lightning_priv.data import SNLI, TokenIds
from lightning_priv.errors import DatasetUnavailableError
from lightning_priv.models import Classifier
from lightning_priv.nn import FineTuned, TextTransformer
from lightning_priv.strategies import DPSGDStrategy

transformers = pytest.importorskip("transformers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "man", "dog", "runs", "sleeps", "not"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """Folder with weights and tokenizer of a BERT of two small layers."""
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=len(WORDS), num_hidden_layers=2, **sizes)
    transformers.BertModel(config).save_pretrained(folder)
    return str(folder)


def network(bert):
    net = TextTransformer(bert, 3, separator_token=3)
    return FineTuned(net, train=["encoder.encoder.layer.1", "encoder.pooler", "head"])


def test_second_sentence_and_padding_are_found(bert):
    ids = TokenIds(bert, max_length=8).encode(["a man [SEP] a dog runs", "a man"])
    assert ids.shape == (2, 8)
    assert ids[0].tolist() == [2, 5, 6, 3, 5, 7, 8, 3]
    assert ids[1].tolist() == [2, 5, 6, 3, 0, 0, 0, 0]
    net = network(bert).eval()
    seen = {}
    encoder = net.net.encoder
    encoder.register_forward_pre_hook(lambda _, __, kw: seen.update(kw), with_kwargs=True)
    together = net(ids)
    assert seen["token_type_ids"][0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert seen["attention_mask"][1].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    # a longer padding changes nothing
    longer = TokenIds(bert, max_length=12).encode(["a man [SEP] a dog runs", "a man"])
    torch.testing.assert_close(net(longer), together, atol=1e-5, rtol=1e-5)


def test_only_the_last_layers_train_under_privacy(bert, tmp_path):
    lines = [
        json.dumps({"premise": "a man runs", "hypothesis": "a dog sleeps", "label": i % 3})
        for i in range(36)
    ]
    for part in ("train", "test"):
        (tmp_path / f"{part}.jsonl").write_text("\n".join(lines))
    data = SNLI(str(tmp_path), encoder=TokenIds(bert, max_length=10), batch_size=8)
    model = Classifier(network(bert), 3)
    before = {name: p.clone() for name, p in model.named_parameters()}
    strategy = DPSGDStrategy(noise_multiplier=1.0, accountant="rdp", report=None, ledger=None)
    trainer = pl.Trainer(
        strategy=strategy,
        accelerator="cpu",
        max_steps=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data)  # the start-up probe compares gradients of records
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert all(".layer.1." in name or "pooler" in name or "head" in name for name in changed)
    assert {"net.net.head.weight", "net.net.encoder.pooler.dense.weight"} <= changed
    assert any("layer.1.attention" in name for name in changed)
    assert strategy.steps == 3


def test_missing_folders_are_named():
    with pytest.raises(DatasetUnavailableError, match="give a folder written by save_pretrained"):
        TextTransformer("nowhere", 3)
    with pytest.raises(DatasetUnavailableError, match="looked for nowhere"):
        TokenIds("nowhere").encode(["a"])
    with pytest.raises(ValueError, match="max_length=1"):
        TokenIds("nowhere", max_length=1)
