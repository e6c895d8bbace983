"""Texts as numbers of tokens, for a transformer that is trained."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lightning_priv.errors import DatasetUnavailableError

from .text_features import TextEncoder

__all__ = ["TokenIds"]


class TokenIds(TextEncoder):
    """Token numbers of texts, padded to one length, from a folder with a tokenizer.

    For ``nn.TextTransformer``, which finds padding and the second sentence by the numbers alone.
    Nothing is downloaded. Needs the extra ``text`` (transformers). A tokenizer is public: it must
    not be made from the records.

    Args:
        path: folder as ``save_pretrained`` of a tokenizer writes it.
        max_length: tokens of a text; longer ones are cut.

    Raises:
        ValueError: if ``max_length`` is below 2.
        DatasetUnavailableError: when it is used, if the folder or transformers is missing.
    """

    def __init__(self, path: str, max_length: int = 128) -> None:
        if max_length < 2:
            raise ValueError(f"max_length={max_length}: give at least 2")
        self.path, self.max_length = path, max_length
        self.dim = max_length

    def fit(self, texts: Sequence[str]) -> None:
        """Nothing is learnt."""

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Token numbers, shape (N, max_length), int64."""
        try:
            from transformers import AutoTokenizer
        except ModuleNotFoundError as error:
            raise DatasetUnavailableError(
                "TokenIds needs transformers; run: pip install lightning-priv[text], or use "
                "lightning_priv.data.TfidfSVD with a network of vectors"
            ) from error
        if not Path(self.path).is_dir():
            raise DatasetUnavailableError(
                f"TokenIds looked for {self.path}; give a folder written by save_pretrained of a "
                "tokenizer, or use lightning_priv.data.TfidfSVD"
            )
        tokenizer = AutoTokenizer.from_pretrained(self.path, local_files_only=True)
        rows = []
        for start in range(0, len(texts), 4096):
            found = tokenizer(
                list(texts[start : start + 4096]),
                truncation=True,
                max_length=self.max_length,
                padding="max_length",
                return_tensors="pt",
            )
            rows.append(found["input_ids"].to(torch.int64))
        return torch.cat(rows)
