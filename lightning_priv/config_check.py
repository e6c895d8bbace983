"""What no parser complains of in a configuration, or not so that one can find it."""

import math
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

__all__ = ["config_files", "problems"]

_OF_A_CLASS = {"class_path", "init_args", "dict_kwargs"}


def config_files(words: list[str]) -> list[Path]:
    """The configuration files that the words of a command line name and that are there."""
    named = [b for a, b in pairwise(words) if a in ("-c", "--config")]
    named += [word.partition("=")[2] for word in words if word.startswith("--config=")]
    return [path for path in map(Path, named) if path.is_file()]


def problems(words: list[str]) -> Iterator[str]:
    """What is wrong with the files and options of a command line, each with its place.

    A number that is none (``.nan``) passes every comparison and ends in results that are none; an
    argument beside ``class_path`` instead of below ``init_args`` is an error whose message, for one
    of several callbacks, does not say where.

    Args:
        words: behind the program's name.
    """
    for word in words[1:]:
        option, _, value = word.rpartition("=")
        if (value or option).lower() in ("nan", ".nan"):
            yield f"{option or 'an option'} is nan, which is no number; give one"
    comments = any(w.startswith("--print_config") and "comments" in w for w in words)
    if comments and (find_spec("ruamel") is None or find_spec("ruamel.yaml") is None):
        yield "--print_config=comments needs the package ruamel.yaml; run: pip install ruamel.yaml"
    for path in config_files(words):
        for place, text in _wrong(_content(path), ()):
            yield f"{path}: {'.'.join(map(str, place))} {text}"


def _content(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError):  # the parser says what is wrong
        return None


def _wrong(content: Any, place: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], str]]:
    if isinstance(content, float) and math.isnan(content):
        yield place, "is .nan, which is no number; give one, or leave the line out"
    if isinstance(content, dict):
        rate = content.get("lr")
        if isinstance(rate, (int, float)) and rate < 0:  # torch says so once the data are there
            yield (*place, "lr"), f"is {rate}; a learning rate is 0 or more"
        if isinstance(content.get("class_path"), str):
            beside = [str(key) for key in content if key not in _OF_A_CLASS]
            inside = content.get("init_args")
            if beside:
                yield (
                    (*place, beside[0]),
                    f"stands beside class_path: {content['class_path']}; arguments of a class "
                    "stand below its init_args, two columns further right",
                )
            if isinstance(inside, dict) and set(inside) & _OF_A_CLASS - {"class_path"}:
                yield (
                    (*place, "init_args"),
                    f"of {content['class_path']} holds {', '.join(map(str, inside))}; the "
                    "arguments of a class stand directly below its init_args",
                )
        for key, value in content.items():
            yield from _wrong(value, (*place, key))
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from _wrong(value, (*place, number))
