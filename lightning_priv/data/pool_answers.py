"""What an oracle said, as labels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from torch import Tensor

from lightning_priv.acquisition.query import Query
from lightning_priv.errors import OracleError

from .pool_views import Label

__all__ = ["ask_oracle", "understood"]


def ask_oracle(
    oracle: Callable[[list[int]], Any],
    query: Query,
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
) -> list[Label]:
    """Ask an oracle; see ``understood`` for what it may answer.

    Raises:
        OracleError: if it fails, or does not answer what was asked.
    """
    try:
        answer = oracle(list(query.ids))
    except OracleError:
        raise
    except Exception as error:
        raise OracleError(
            f"the oracle failed in round {query.round}: {type(error).__name__}: {error}; the "
            "query is kept, mend the oracle and start the same command again"
        ) from error
    return understood(query, answer, class_names, num_classes)


def understood(
    query: Query,
    answer: Any,
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
) -> list[Label]:
    """An oracle's answer as one label for each sample of the query.

    Args:
        query: what was asked.
        answer: labels in the order of the query, or a mapping from index to label; class names
            count as class numbers.
        class_names: names of the classes, if they are known.
        num_classes: number of classes, if it is known.

    Raises:
        OracleError: if it is no such answer.
    """
    if isinstance(answer, Mapping):
        missing = [i for i in query.ids if i not in answer]
        if missing:
            raise _wrong(query, f"gave no label for index {missing[0]}")
        answer = [answer[i] for i in query.ids]
    if isinstance(answer, (Tensor, np.ndarray)):
        answer = answer.tolist()
    if not isinstance(answer, (list, tuple)) or len(answer) != len(query.ids):
        number = f"{len(answer)} labels" if hasattr(answer, "__len__") else repr(answer)
        raise _wrong(query, f"gave {number} for {len(query.ids)} samples")
    pairs = zip(query.ids, answer, strict=True)
    return [_label(query, i, label, class_names, num_classes) for i, label in pairs]


def _label(
    query: Query, index: int, label: Any, names: Sequence[str] | None, classes: int | None
) -> Label:
    if isinstance(label, str):
        if names is not None and label in names:
            return list(names).index(label)
        if not label.lstrip("-").isdigit():
            shown = ", ".join(map(str, (names or ())[:10])) or "numbers"
            raise _wrong(query, f"labels index {index} {label!r}; classes are {shown}")
        label = int(label)
    if isinstance(label, (Tensor, np.ndarray, np.generic)):
        label = label.tolist()
    numbers = label if isinstance(label, list) else [label]
    if not all(isinstance(v, (int, float)) and np.isfinite(v) for v in numbers):
        raise _wrong(query, f"labels index {index} {label!r}, which is no label")
    if isinstance(label, int) and classes is not None and not 0 <= label < classes:
        raise _wrong(query, f"labels index {index} {label}; classes are 0 to {classes - 1}")
    return cast(Label, label)


def _wrong(query: Query, what: str) -> OracleError:
    return OracleError(
        f"the oracle {what} (round {query.round}); nothing was labelled, the query is kept: "
        "correct the answer and start the same command again"
    )
