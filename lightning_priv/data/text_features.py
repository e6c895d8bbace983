"""Texts as vectors: TF-IDF of n-grams reduced by truncated SVD, fitted on training texts only."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .lazy import LazyInputs

__all__ = ["TextEncoder", "Texts", "TfidfSVD"]


class TextEncoder(ABC):
    """Makes vectors of texts; ``fit`` sees training texts only."""

    dim: int

    @abstractmethod
    def fit(self, texts: Sequence[str]) -> None:
        """Learn from training texts."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Tensor:
        """One vector for each text, shape (N, dim), float32."""


class Texts(LazyInputs):
    """Texts of a data set, as positions in one list that all its parts share.

    A batch is a tensor of positions; the data module's transform looks their vectors up.

    Args:
        every: all texts of the data set.
        rows: the positions of this part, shape (N,).
    """

    def __init__(self, every: Sequence[str], rows: Tensor) -> None:
        self.every, self.rows = every, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Positions of the texts at ``rows``, shape (B,), int64."""
        return self.rows[rows]

    def take(self, rows: Tensor) -> "Texts":
        """Return the texts at ``rows``."""
        return Texts(self.every, self.rows[rows])

    @property
    def texts(self) -> list[str]:
        """The texts themselves, in order."""
        return [self.every[row] for row in self.rows.tolist()]


class TfidfSVD(TextEncoder):
    """TF-IDF of words, word pairs and pieces of words of 2 to 4 characters, reduced by SVD.

    Each of the two TF-IDF matrices has rows of length 1, and so has their sum of squares; the
    result is scaled to length 1 again. Vocabulary, weights and directions come from the texts that
    ``fit`` sees.

    Args:
        dim: length of the vectors.
        max_features: most frequent n-grams of each kind that are kept.
        min_count: texts that an n-gram must occur in.
        seed: seed of the randomised SVD.

    Raises:
        ValueError: if an argument is below 1, or ``fit`` gets too few texts.
    """

    def __init__(
        self, dim: int = 128, max_features: int = 10_000, min_count: int = 2, seed: int = 0
    ) -> None:
        for name, value in (("dim", dim), ("max_features", max_features), ("min_count", min_count)):
            if value < 1:
                raise ValueError(f"{name}={value}: give a whole number of at least 1")
        self.dim = dim
        self.max_features = max_features
        self.min_count = min_count
        self.seed = seed
        self._pipeline: object | None = None

    def fit(self, texts: Sequence[str]) -> None:
        """Learn vocabulary, weights and directions."""
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_pipeline, make_union
        from sklearn.preprocessing import Normalizer

        if len(texts) <= self.dim:
            raise ValueError(
                f"TfidfSVD(dim={self.dim}) got {len(texts)} training texts; give a dim below that"
            )
        options = {
            "max_features": self.max_features,
            "min_df": self.min_count,
            "sublinear_tf": True,
            "dtype": np.float32,
        }
        pipeline = make_pipeline(
            make_union(
                TfidfVectorizer(ngram_range=(1, 2), **options),
                TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), **options),
            ),
            TruncatedSVD(self.dim, random_state=self.seed),
            Normalizer(),
        )
        try:
            pipeline.fit(texts)
        except ValueError as error:
            raise ValueError(
                f"TfidfSVD cannot learn from {len(texts)} texts: {error}; give more or longer "
                "texts, or a smaller dim or min_count"
            ) from error
        self._pipeline = pipeline

    def encode(self, texts: Sequence[str]) -> Tensor:
        """One vector of length 1 for each text, shape (N, dim), float32."""
        if self._pipeline is None:
            raise RuntimeError("TfidfSVD has not seen training texts; call fit() first")
        vectors = self._pipeline.transform(texts)  # type: ignore[attr-defined]
        return torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32))
