"""Read features and labels that the user has computed elsewhere: npz, npy, safetensors, csv."""

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_priv.errors import DatasetUnavailableError
from lightning_priv.files import ARRAY_ERRORS

__all__ = ["FeatureTable", "read_array", "read_features"]

_FEATURES = ("features", "embeddings", "x", "X")
_LABELS = ("labels", "label", "targets", "y")
_IDS = ("ids", "index", "id")
_KINDS = (".npz", ".npy", ".safetensors", ".csv")

Array = NDArray[Any]


class FeatureTable(NamedTuple):
    """Features (n, d), labels (n,) or (n, C) or None, and sample ids (n,) or None."""

    features: Array
    labels: Array | None
    ids: Array | None


def read_features(path: str | Path, labels: str | Path | None = None) -> FeatureTable:
    """Read features, labels and sample ids.

    Args:
        path: ``.npz`` or ``.safetensors`` with arrays named features (or embeddings, x), labels (or
            label, targets, y) and perhaps ids (or index, id); ``.npy`` with features alone; or
            ``.csv`` with a heading: columns label (and index) and numbers.
        labels: a file with the labels, ``.npy`` or one of the others; it goes before those of
            ``path``.

    Raises:
        DatasetUnavailableError: if a file is missing or holds something else.
    """
    path = _existing(Path(path))
    if path.suffix == ".csv":
        table = _read_csv(path)
    else:
        arrays = _arrays(path)
        features = _named(arrays, _FEATURES)
        if features is None:
            raise DatasetUnavailableError(
                f"{path} holds {', '.join(arrays)}; name one of them {', '.join(_FEATURES)}"
            )
        table = FeatureTable(features, _named(arrays, _LABELS), _named(arrays, _IDS))
    if labels is not None:
        table = table._replace(labels=_only_labels(_existing(Path(labels))))
    _check(table, path)
    return table


def read_array(path: str | Path) -> Array:
    """Read one array of features, shape (n, d), from a file as ``read_features`` takes."""
    return read_features(path).features


def _existing(path: Path) -> Path:
    if path.suffix not in _KINDS:
        raise DatasetUnavailableError(
            f"{path} ends in {path.suffix or 'nothing'!r}; give a file that ends in "
            f"{', '.join(_KINDS)}"
        )
    if not path.is_file():
        raise DatasetUnavailableError(f"there is no file {path}; check the path")
    return path


def _arrays(path: Path) -> Mapping[str, Array]:
    try:
        if path.suffix == ".npy":
            return {"features": np.load(path, mmap_mode="r", allow_pickle=False)}
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as found:
                return {name: found[name] for name in found.files}
        return _read_safetensors(path)
    except ARRAY_ERRORS as error:
        raise DatasetUnavailableError(
            f"{path} cannot be read: {error}; write plain arrays (no pickled objects)"
        ) from error


def _read_safetensors(path: Path) -> Mapping[str, Array]:
    try:
        from safetensors.torch import load_file
    except ModuleNotFoundError as error:
        raise DatasetUnavailableError(
            f"reading {path} needs the package safetensors; run: pip install safetensors, or "
            "write the arrays with numpy.savez"
        ) from error
    tensors = load_file(path)
    # through torch: numpy knows no bfloat16
    return {
        name: (t.float() if t.dtype.is_floating_point and t.element_size() < 4 else t).numpy()
        for name, t in tensors.items()
    }


def _named(arrays: Mapping[str, Array], names: tuple[str, ...]) -> Array | None:
    return next((arrays[name] for name in names if name in arrays), None)


def _only_labels(path: Path) -> Array:
    if path.suffix == ".csv":
        found = _read_csv(path).labels
    else:
        arrays = _arrays(path)
        found = _named(arrays, _LABELS)
        if found is None and len(arrays) == 1:
            found = next(iter(arrays.values()))
    if found is None:
        raise DatasetUnavailableError(f"{path} holds no labels; name them {', '.join(_LABELS)}")
    return np.asarray(found)


def _read_csv(path: Path) -> FeatureTable:
    with path.open(newline="", encoding="utf-8") as file:
        lines = csv.reader(file)
        heading = next(lines, [])
        rows = [row for row in lines if row]
    label = next((heading.index(name) for name in _LABELS if name in heading), None)
    index = next((heading.index(name) for name in _IDS if name in heading), None)
    numbers = [i for i in range(len(heading)) if i not in (label, index)]
    try:
        features = np.array([[float(row[i]) for i in numbers] for row in rows], dtype=np.float64)
        ids = None if index is None else np.array([int(row[index]) for row in rows])
    except (ValueError, IndexError) as error:
        raise DatasetUnavailableError(
            f"{path}: {error}; give a heading, one of {', '.join(_LABELS)} among it, and numbers "
            "in every other column"
        ) from error
    labels = None if label is None else _csv_labels([row[label] for row in rows])
    return FeatureTable(features.reshape(len(rows), len(numbers)), labels, ids)


def _csv_labels(words: list[str]) -> Array:
    """Whole numbers, other numbers, or names numbered in the order of the alphabet."""
    if all(re.fullmatch(r"[+-]?\d+", word.strip()) for word in words):
        return np.array([int(word) for word in words])
    try:
        return np.array([float(word) for word in words])
    except ValueError:
        return np.unique(words, return_inverse=True)[1].astype(np.int64)


def _check(table: FeatureTable, path: Path) -> None:
    features, labels, ids = table
    if features.ndim != 2 or features.dtype.kind not in "fiu" or not len(features):
        raise DatasetUnavailableError(
            f"the features of {path} are {features.dtype} of shape {features.shape}; give numbers "
            "of shape (n, d)"
        )
    for name, array in (("labels", labels), ("ids", ids)):
        if array is not None and len(array) != len(features):
            raise DatasetUnavailableError(
                f"{path} has {len(features)} features and {len(array)} {name}; give one each"
            )
