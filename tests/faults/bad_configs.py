"""Wrong configurations, made from the real ones: one wrong thing each."""

import copy
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from command_line import CONFIGS

__all__ = ["Bad", "bad_configs", "subcommand"]

#: numbers that cannot be, by key
OUT_OF_RANGE: dict[str, list[Any]] = {
    "batch_size": [0, -8],
    "num_classes": [0, -1],
    "max_grad_norm": [0.0, -1.0],
    "noise_multiplier": [-1.0],
    "target_epsilon": [0.0, -3.0],
    "delta": [0.0, 1.0, 2.0],
    "lr": [-0.1],
    "dropout": [1.5, -0.1],
    "tau": [1.5, -0.2],
    "k": [0.0, -1.0],
    "width": [0, -4],
    "prior_precision": [-1.0],
    "physical_batch_size": [0, -2],
    "rounds": [0, -1],
    "query_size": [0, -1],
    "members": [0, -3],
    "targets": [0, -1],
    "epochs": [0, -1],
    "epsilon": [-1.0],
    "initial": [-1],
    "val_size": [-1, 1.5],
    "ema_decay": [1.0, -0.5],
    "draws": [0, -1],
    "jobs": [0],
    "widths": [[0]],
    "steps": [-1],
    "sample_rate": [-0.1, 1.5],
    "max_norm": [-1.0],
}


class Bad(NamedTuple):
    """One wrong configuration.

    Attributes:
        file: that it was made from.
        kind: what was done.
        keys: what the message may name, one of them.
        content: of the file.
    """

    file: Path
    kind: str
    keys: tuple[str, ...]
    content: Any

    def __str__(self) -> str:
        return f"{self.file.stem}: {self.kind} {self.keys}"


def subcommand(path: Path) -> str:
    """The one that the file's comment names as ``lightning_priv SUBCOMMAND --config``, or fit."""
    header = path.read_text(encoding="utf-8").split("\n\n")[0]
    named = re.search(r"^#.*lightning_priv ([\w-]+) .*--config", header, re.MULTILINE)
    return named.group(1) if named else "fit"


def bad_configs(count: int, seed: int) -> Iterator[Bad]:
    """Make wrong configurations, all kinds in turn."""
    draw = random.Random(seed)
    files = sorted([*CONFIGS.glob("*.yaml"), *(CONFIGS / "demo").glob("*.yaml")])
    made = 0
    while made < count:
        kind = list(KINDS)[made % len(KINDS)]
        file = draw.choice(files)
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        bad = KINDS[kind](draw, content)
        if bad is not None:
            keys, wrong = bad
            yield Bad(file, kind, keys, wrong)
            made += 1


Made = tuple[tuple[str, ...], Any] | None


def _places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to all values below mappings."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from _places(value, (*path, key))


def _named(content: Any) -> list[tuple[Any, ...]]:
    """Places with a key of the signature of something; class paths are not such."""
    return [
        p
        for p in _places(content)
        if isinstance(p[-1], str)
        and p[-1] not in ("class_path", "init_args", "dict_kwargs", "seed_everything")
    ]


def _at(content: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        content = content[key]
    return content


def _misspell(draw: random.Random, content: Any) -> Made:
    path = draw.choice(_named(content))
    parent, key = _at(content, path[:-1]), path[-1]
    place = draw.randrange(len(key))
    wrong = draw.choice([key[:place] + key[place] + key[place:], f"{key}_", f"my_{key}"])
    if "dict_kwargs" in path:
        return None
    parent[wrong] = parent.pop(key)
    return (wrong, key), content


def _wrong_type(draw: random.Random, content: Any) -> Made:
    numbers = [p for p in _named(content) if type(_at(content, p)) in (int, float, bool)]
    if not numbers:
        return None
    path = draw.choice(numbers)
    _at(content, path[:-1])[path[-1]] = draw.choice(["many", {"a": 1}, [["x"]]])
    return (path[-1],), content


def _out_of_range(draw: random.Random, content: Any) -> Made:
    places = [
        p
        for p in _named(content)
        if p[-1] in OUT_OF_RANGE and type(_at(content, p)) in (int, float, list)
    ]
    if not places:
        return None
    path = draw.choice(places)
    _at(content, path[:-1])[path[-1]] = draw.choice(OUT_OF_RANGE[path[-1]])
    return (path[-1],), content


def _nan(draw: random.Random, content: Any) -> Made:
    numbers = [p for p in _named(content) if type(_at(content, p)) is float]
    if not numbers:
        return None
    path = draw.choice(numbers)
    _at(content, path[:-1])[path[-1]] = float("nan")
    return (path[-1],), content


def _missing_class(draw: random.Random, content: Any) -> Made:
    places = [p for p in _places(content) if p[-1] == "class_path"]
    if not places:
        return None
    path = draw.choice(places)
    module, _, name = _at(content, path).rpartition(".")
    wrong = draw.choice([f"{module}.{name}s", f"{module}.no_{name}", f"{module}s.{name}"])
    _at(content, path[:-1])["class_path"] = wrong
    return (wrong, wrong.rpartition(".")[2], f"{module}s"), content


def _wrong_nesting(draw: random.Random, content: Any) -> Made:
    places = [p for p in _places(content) if p[-1] == "init_args" and _at(content, p)]
    if not places:
        return None
    path = draw.choice(places)
    owner = _at(content, path[:-1])
    init_args = owner.pop("init_args")
    if draw.random() < 0.5:  # the arguments stand where class_path stands
        owner.update(copy.deepcopy(init_args))
        keys = tuple(init_args)
    else:  # one mapping too many
        owner["init_args"] = {"init_args": init_args}
        keys = ("init_args",)
    return (*keys, owner["class_path"].rpartition(".")[2]), content


KINDS: dict[str, Callable[[random.Random, Any], Made]] = {
    "wrong key": _misspell,
    "wrong type": _wrong_type,
    "out of range": _out_of_range,
    "not a number": _nan,
    "missing class": _missing_class,
    "wrong nesting": _wrong_nesting,
}
