"""Text classification: any labelled texts, with an encoder that is not trained."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_priv.errors import ConfigurationError, DatasetUnavailableError
from lightning_priv.files import read_tensors, save_tensors

from .arrays import Transform
from .base import ClassificationDataModule, Samples
from .splits import held_out_count, stratified_split
from .text_features import TextEncoder, Texts, TfidfSVD

__all__ = ["IMDB", "SNLI", "FrozenTextEncoder", "LabelledTexts", "TextDataModule", "read_jsonl"]

LabelledTexts = tuple[list[str], list[int]]


class FrozenTextEncoder(TextEncoder):
    """Vectors of a transformer that is not trained, from a folder with its weights and tokenizer.

    Nothing is downloaded. Needs the extra ``text`` (transformers).

    Args:
        path: folder as ``save_pretrained`` of model and tokenizer writes it.
        pooling: ``cls`` takes the first token, ``mean`` the mean over the tokens of the text.
        max_length: tokens of a text that are read; 512 in the paper.
        batch_size: texts at once.
        device: where to run; ``auto`` is a GPU if there is one.
        cache: folder to keep vectors in, by a name made from texts, weights and options.

    Raises:
        ValueError: if an argument is below 1.
        DatasetUnavailableError: when it is used, if the folder or transformers is missing.
    """

    def __init__(
        self,
        path: str,
        pooling: Literal["cls", "mean"] = "cls",
        max_length: int = 512,
        batch_size: int = 32,
        device: str = "auto",
        cache: str | None = None,
    ) -> None:
        for name, value in (("max_length", max_length), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name}={value}: give a whole number of at least 1")
        self.path = path
        self.pooling = pooling
        self.max_length = max_length
        self.batch_size = batch_size
        self.device = device
        self.cache = cache
        self.dim = 0  # known when the weights are read

    def fit(self, texts: Sequence[str]) -> None:
        """Read the length of the vectors; the weights stay as they are."""
        self.dim = int(json.loads(self._file("config.json").read_text())["hidden_size"])

    def encode(self, texts: Sequence[str]) -> Tensor:
        """One vector for each text, shape (N, dim), float32."""
        kept = self._kept(texts)
        if kept is not None and kept.is_file():
            remedy = "remove it, and the vectors are made anew"
            found = read_tensors(kept, remedy)
            if not isinstance(found, Tensor) or found.shape != (len(texts), self.dim):
                raise ConfigurationError(f"{kept} holds no vectors of these texts; {remedy}")
            return found
        vectors = self._run(list(texts))
        if kept is not None:
            save_tensors(vectors, kept)
        return vectors

    @torch.no_grad()
    def _run(self, texts: list[str]) -> Tensor:
        try:
            from transformers import AutoModel, AutoTokenizer
        except ModuleNotFoundError as error:
            raise DatasetUnavailableError(
                "FrozenTextEncoder needs transformers; run: pip install lightning-priv[text], or "
                "use lightning_priv.data.TfidfSVD"
            ) from error
        self._file("config.json")
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.path, local_files_only=True)
            model = AutoModel.from_pretrained(self.path, local_files_only=True)
        except Exception as error:
            raise ConfigurationError(
                f"the encoder in {self.path} cannot be read "
                f"({' '.join(str(error).split())[:150]}); give a folder that save_pretrained of "
                "model and tokenizer wrote"
            ) from error
        model = model.to(device).eval()
        vectors = []
        for start in range(0, len(texts), self.batch_size):
            tokens = tokenizer(
                texts[start : start + self.batch_size],
                truncation=True,
                max_length=self.max_length,
                padding=True,
                return_tensors="pt",
            ).to(device)
            hidden = model(**tokens).last_hidden_state
            if self.pooling == "cls":
                pooled = hidden[:, 0]
            else:
                mask = tokens["attention_mask"][..., None].to(hidden)
                pooled = (hidden * mask).sum(1) / mask.sum(1).clamp_min(1)
            vectors.append(pooled.float().cpu())
        return torch.cat(vectors)

    def _file(self, name: str) -> Path:
        path = Path(self.path) / name
        if not path.is_file():
            raise DatasetUnavailableError(
                f"FrozenTextEncoder looked for {path}; give a folder written by save_pretrained of "
                "a transformers model and its tokenizer, or use lightning_priv.data.TfidfSVD"
            )
        return path

    def _kept(self, texts: Sequence[str]) -> Path | None:
        if self.cache is None:
            return None
        digest = hashlib.sha256(f"{self.pooling} {self.max_length}".encode())
        for file in sorted(Path(self.path).iterdir()):
            digest.update(f"{file.name} {file.stat().st_size}".encode())
            if file.suffix == ".json":
                digest.update(file.read_bytes())
        for text in texts:
            digest.update(text.encode() + b"\0")
        return Path(self.cache) / f"{digest.hexdigest()[:16]}.pt"


class TextDataModule(ClassificationDataModule):
    """Labelled texts as vectors; a subclass writes ``read_texts``.

    The encoder is fitted on the training texts (without those to validate on) and makes one vector
    for each text; a batch is (vectors, labels). ``input_shape`` is known after ``setup``.

    Args:
        encoder: makes the vectors; default: ``TfidfSVD``.
        batch_size: samples in a batch, of each process.
        val_size: part of the training samples to validate on.
        seed: seed of the order; by default that of ``seed_everything``, else 0.
        split_seed: seed of the split into parts.
        indexed: return (x, y, index) instead of (x, y).
        drop_last: leave out a last training batch that is not full.
        num_workers: processes that load batches.
        pin_memory: load into page-locked memory, for a GPU.
    """

    def __init__(
        self,
        encoder: TextEncoder | None,
        batch_size: int,
        val_size: int | float,
        seed: int | None,
        split_seed: int,
        indexed: bool,
        drop_last: bool,
        num_workers: int,
        pin_memory: bool,
    ) -> None:
        super().__init__(
            *(batch_size, val_size, seed, split_seed, indexed, drop_last, num_workers, pin_memory)
        )
        self.encoder = TfidfSVD() if encoder is None else encoder
        self._every: list[str] = []

    def read_texts(self) -> tuple[LabelledTexts, LabelledTexts | None]:
        """Return texts and class numbers of the training and the test part.

        Without a test part a fifth of the training part is held out for it.
        """
        raise NotImplementedError(f"{type(self).__name__} must write read_texts()")

    def load_samples(self) -> tuple[Samples, Samples]:
        """Return both parts as positions in one list of texts."""
        (texts, labels), test = self.read_texts()
        y = torch.tensor(labels, dtype=torch.int64)
        if test is None:
            kept, held = stratified_split(y, held_out_count(0.2, len(y)), self.split_seed)
        else:
            kept, held = torch.arange(len(y)), len(y) + torch.arange(len(test[1]))
            texts, y = [*texts, *test[0]], torch.cat([y, torch.tensor(test[1], dtype=torch.int64)])
        self._every = texts
        return Samples(Texts(texts, kept), y[kept]), Samples(Texts(texts, held), y[held])

    def fit_transform(self, x: Any) -> Transform:
        """Fit the encoder on the training texts, and look vectors up."""
        self.encoder.fit(x.texts)
        self.input_shape = (self.encoder.dim,)
        vectors = self.encoder.encode(self._every)
        return _Lookup(vectors)


class _Lookup:
    """Vectors of positions; a class, so that worker processes can have it."""

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = vectors

    def __call__(self, rows: Tensor) -> Tensor:
        return self.vectors[rows]


class IMDB(TextDataModule):
    """Film reviews, negative or positive: 25,000 for training and 25,000 for testing.

    From ``root/train.jsonl`` and ``root/test.jsonl`` with the keys ``text`` and ``label`` (0 or 1,
    or ``neg`` and ``pos``); or by the package datasets, with ``download``.

    Args:
        root: folder of the two files.
        download: fetch the set by the package datasets, if the files are not there.
        encoder: makes the vectors; default: ``TfidfSVD``.
        batch_size: samples in a batch, of each process.
        val_size: part of the training samples to validate on.
        seed: seed of the order; by default that of ``seed_everything``, else 0.
        split_seed: seed of the validation split.
        indexed: return (x, y, index) instead of (x, y).
        drop_last: leave out a last training batch that is not full.
        num_workers: processes that load batches.
        pin_memory: load into page-locked memory, for a GPU.
    """

    num_classes = 2
    class_names = ("negative", "positive")

    def __init__(
        self,
        root: str = "data/imdb",
        download: bool = False,
        encoder: TextEncoder | None = None,
        batch_size: int = 64,
        val_size: int | float = 0.1,
        seed: int | None = None,
        split_seed: int = 0,
        indexed: bool = False,
        drop_last: bool = False,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(
            *(encoder, batch_size, val_size, seed, split_seed, indexed, drop_last),
            *(num_workers, pin_memory),
        )
        self.root = root
        self.download = download

    def read_texts(self) -> tuple[LabelledTexts, LabelledTexts | None]:
        """Return both parts."""
        names = {"neg": 0, "pos": 1, "negative": 0, "positive": 1}
        train, test = (
            _labelled(rows, ("text",), names, "IMDB")
            for rows in _parts(self.root, self.download, "imdb", "IMDB")
        )
        return train, test


class SNLI(TextDataModule):
    """Pairs of sentences: entailment, neutral or contradiction; 549,367 labelled for training.

    From ``root/train.jsonl`` and ``root/test.jsonl`` with the keys ``premise``, ``hypothesis`` (or
    the official ``sentence1``, ``sentence2``) and ``label`` (or ``gold_label``); or by the package
    datasets, with ``download``. Pairs without a label (-1 or ``-``) are left out. A text is premise
    and hypothesis with " [SEP] " between.

    Args:
        root: folder of the two files.
        download: fetch the set by the package datasets, if the files are not there.
        encoder: makes the vectors; default: ``TfidfSVD``.
        batch_size: samples in a batch, of each process.
        val_size: part of the training samples to validate on.
        seed: seed of the order; by default that of ``seed_everything``, else 0.
        split_seed: seed of the validation split.
        indexed: return (x, y, index) instead of (x, y).
        drop_last: leave out a last training batch that is not full.
        num_workers: processes that load batches.
        pin_memory: load into page-locked memory, for a GPU.
    """

    num_classes = 3
    class_names = ("entailment", "neutral", "contradiction")

    def __init__(
        self,
        root: str = "data/snli",
        download: bool = False,
        encoder: TextEncoder | None = None,
        batch_size: int = 64,
        val_size: int | float = 0.1,
        seed: int | None = None,
        split_seed: int = 0,
        indexed: bool = False,
        drop_last: bool = False,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(
            *(encoder, batch_size, val_size, seed, split_seed, indexed, drop_last),
            *(num_workers, pin_memory),
        )
        self.root = root
        self.download = download

    def read_texts(self) -> tuple[LabelledTexts, LabelledTexts | None]:
        """Return both parts."""
        names = {name: number for number, name in enumerate(self.class_names)} | {"-": -1}
        keys = ("premise|sentence1", "hypothesis|sentence2")
        train, test = (
            _labelled(rows, keys, names, "SNLI")
            for rows in _parts(self.root, self.download, "snli", "SNLI")
        )
        return train, test


def read_jsonl(path: Path) -> list[Mapping[str, Any]]:
    """The objects of a file with one JSON object a line.

    Raises:
        DatasetUnavailableError: if a line is no object; it names the line.
    """
    rows = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DatasetUnavailableError(
                    f"{path}, line {number}: {error.msg}; write one JSON object a line"
                ) from error
            if not isinstance(row, Mapping):
                raise DatasetUnavailableError(
                    f"{path}, line {number} is no JSON object; write one a line"
                )
            rows.append(row)
    return rows


def _parts(
    root: str, download: bool, name: str, needed_for: str
) -> tuple[Iterable[Mapping[str, Any]], Iterable[Mapping[str, Any]]]:
    files = [Path(root) / f"{part}.jsonl" for part in ("train", "test")]
    if all(file.is_file() for file in files):
        return read_jsonl(files[0]), read_jsonl(files[1])
    if not download:
        raise DatasetUnavailableError(
            f"{needed_for} is not in {files[0]} and {files[1]}; put the files there, set "
            "--data.init_args.download true (needs the package datasets), or use "
            "lightning_priv.data.DocstringText"
        )
    try:
        from datasets import load_dataset
    except ModuleNotFoundError as error:
        raise DatasetUnavailableError(
            f"{needed_for} with download needs the package datasets; run: pip install datasets, "
            f"or put {files[0]} and {files[1]} there"
        ) from error
    found = load_dataset(name)
    return found["train"], found["test"]


def _labelled(
    rows: Iterable[Mapping[str, Any]],
    keys: Sequence[str],
    names: Mapping[str, int],
    needed_for: str,
) -> LabelledTexts:
    texts: list[str] = []
    labels: list[int] = []
    for number, row in enumerate(rows, 1):
        label = row.get("label", row.get("gold_label"))
        label = names.get(label, label) if isinstance(label, str) else label
        parts = [next((row[k] for k in key.split("|") if k in row), None) for key in keys]
        known = isinstance(label, int) and -1 <= label <= max(names.values())
        if not known or not all(isinstance(part, str) for part in parts):
            raise DatasetUnavailableError(
                f"{needed_for}, record {number} has the keys {sorted(row)} and label {label!r}; "
                f"needed are {', '.join(keys)} and a label among {', '.join(names)}"
            )
        if label >= 0:
            texts.append(" [SEP] ".join(map(str, parts)))
            labels.append(int(label))
    return texts, labels
