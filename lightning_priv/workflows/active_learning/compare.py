"""What a study compares, by name or by ``class_path``."""

from collections.abc import Sequence

import lightning_priv.acquisition as room
from lightning_priv.acquisition import Acquisition, ScoredAcquisition

__all__ = ["named", "to_compare"]


def to_compare(given: str | Sequence[str | Acquisition]) -> dict[str, Acquisition]:
    """Acquisitions by the names under which they stand in table and figure.

    Args:
        given: names separated by commas, or a list of names and acquisitions.

    Raises:
        ValueError: if a name is unknown, or nothing is given.
    """
    words = [w.strip() for w in given.split(",")] if isinstance(given, str) else list(given)
    made = [named(word) if isinstance(word, str) else word for word in words if word]
    if not made:
        raise ValueError("nothing to compare; give names such as random,entropy,bald")
    types = [type(a).__name__ for a in made]
    found: dict[str, Acquisition] = {}
    for acquisition, name in zip(made, types, strict=True):
        label = name if types.count(name) == 1 else repr(acquisition)
        if label in found:
            raise ValueError(f"{label} is there twice; compare different acquisitions")
        found[label] = acquisition
    return found


def named(name: str) -> Acquisition:
    """The acquisition of a class name, with its default arguments; case and _ do not matter.

    Raises:
        ValueError: if there is none, or it has no defaults.
    """
    wanted = name.replace("_", "").replace("-", "").lower()
    kinds = {}
    for each in dir(room):
        kind = getattr(room, each)
        if isinstance(kind, type) and issubclass(kind, Acquisition):
            kinds[each] = kind
    known = [each for each in kinds if kinds[each] not in (Acquisition, ScoredAcquisition)]
    chosen = next((each for each in known if each.lower() == wanted), None)
    if chosen is None:
        raise ValueError(f"no acquisition is called {name!r}; there are {', '.join(known)}")
    try:
        return kinds[chosen]()
    except TypeError:
        raise ValueError(
            f"{chosen} needs arguments; give it in YAML by class_path and init_args"
        ) from None
