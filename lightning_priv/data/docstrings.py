"""Sentences from the documentation of installed packages: an offline text classification task."""

import ast
import hashlib
import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from lightning_priv.errors import DatasetUnavailableError

from .text import LabelledTexts, TextDataModule
from .text_features import TextEncoder

__all__ = ["DocstringText", "first_paragraphs"]

_PACKAGES = ("numpy", "scipy", "sklearn", "networkx", "matplotlib")
_SHORTEST, _LONGEST = 40, 300
_NAMES = re.compile(r"\b(numpy|scipy|sklearn|scikit-learn|networkx|matplotlib|np|nx|plt)\b", re.I)


class DocstringText(TextDataModule):
    """Which library does this sentence come from: first paragraphs of docstrings.

    The texts are those of installed packages, read from their source files without importing them:
    paragraphs of 40 to 300 characters, those of tests left out, the libraries' names replaced by
    "library", a text that several libraries have left out. They change with the installed
    versions. A fifth is for testing.

    Args:
        packages: the classes.
        per_class: texts of each package at most; which ones follows from the files' names.
        encoder: makes the vectors; default: ``TfidfSVD``.
        batch_size: samples in a batch, of each process.
        val_size: part of the training samples to validate on.
        seed: seed of the order; by default that of ``seed_everything``, else 0.
        split_seed: seed of the split into parts.
        indexed: return (x, y, index) instead of (x, y).
        drop_last: leave out a last training batch that is not full.
        num_workers: processes that load batches.
        pin_memory: load into page-locked memory, for a GPU.

    Raises:
        ValueError: if fewer than two packages are given, or ``per_class`` is below 10.
    """

    def __init__(
        self,
        packages: Sequence[str] = _PACKAGES,
        per_class: int = 500,
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
        if len(set(packages)) < 2 or len(set(packages)) < len(packages):
            raise ValueError(f"packages={list(packages)}: give at least two, none twice")
        if per_class < 10:
            raise ValueError(f"per_class={per_class}: give at least 10")
        self.packages = tuple(packages)
        self.per_class = per_class
        self.num_classes = len(self.packages)
        self.class_names = self.packages

    def read_texts(self) -> tuple[LabelledTexts, LabelledTexts | None]:
        """Return all texts; the test part is held out of them."""
        found = [first_paragraphs(package, self.per_class) for package in self.packages]
        owners: dict[str, int] = {}
        for texts in found:
            for text in texts:
                owners[text] = owners.get(text, 0) + 1
        own = [[text for text in texts if owners[text] == 1] for texts in found]
        labels = [label for label, texts in enumerate(own) for _ in texts]
        return ([text for texts in own for text in texts], labels), None


def first_paragraphs(package: str, most: int) -> list[str]:
    """Distinct first paragraphs of a package's docstrings, the names of libraries masked.

    Args:
        package: import name; it is located, not imported.
        most: stop after so many.

    Raises:
        DatasetUnavailableError: if the package is not installed or has fewer than ten.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DatasetUnavailableError(
            f"DocstringText reads the docstrings of {package}, which is not installed; name other "
            "packages (--data.init_args.packages)"
        )
    root = Path(spec.submodule_search_locations[0])
    # a fixed order that is not that of the alphabet, so that the first ones are of all parts
    files = sorted(root.rglob("*.py"), key=lambda path: _hash(path.relative_to(root).as_posix()))
    found: dict[str, None] = {}
    for path in files:
        inside = path.relative_to(root).parts
        if any(part.startswith("test") or part == "conftest.py" for part in inside):
            continue
        found |= dict.fromkeys(_paragraphs(path))
        if len(found) >= most:
            return list(found)[:most]
    if len(found) < 10:
        raise DatasetUnavailableError(
            f"DocstringText found {len(found)} texts in {root}; name a package with source files"
        )
    return list(found)


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _paragraphs(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):  # templates that are no Python yet
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)):
            text = (ast.get_docstring(node) or "").split("\n\n")[0]
            text = _NAMES.sub("library", " ".join(text.split()))
            if _SHORTEST <= len(text) <= _LONGEST:
                yield text
