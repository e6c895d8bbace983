"""What was probably meant by a misspelt option, key or class, in the parsers' error messages."""

import difflib
import inspect
import re
import sys
from argparse import Action
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

__all__ = ["SuggestingMixin", "SuggestingParser", "suggestions"]

_LONGEST_LINE = 300


class SuggestingMixin:
    """Prints an error in a few lines: what is wrong, what was probably meant, where help is."""

    exit_on_error: bool
    prog: str
    _actions: list[Action]

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message with suggestions and leave with code 2."""
        if not self.exit_on_error:
            super().error(message, ex)  # type: ignore[misc]
        lines = [_cut(line) for line in message.splitlines()]
        lines += [f"did you mean {words}" for words in suggestions(message, _options(self))]
        parser = getattr(ex, "subcommand_parser", None) or self
        program = (
            str(parser.prog).replace(" [options]", "").replace("__main__.py", "lightning_priv")
        )
        sys.stderr.write("error: " + "\n".join(lines) + f"\nsee {program} --help\n")
        raise SystemExit(2)


class SuggestingParser(SuggestingMixin, ArgumentParser):
    """The parser of the calculators."""


def suggestions(message: str, options: Iterable[str]) -> list[str]:
    """Corrections for what an error message complains about.

    Args:
        message: an error message of jsonargparse.
        options: names of all options of the parser, dotted and without dashes.

    Returns:
        Texts such as ``trainer.max_epochs?``; empty if nothing comes close.
    """
    found = []
    names = list(dict.fromkeys(options))
    for wrong in re.findall(r"unrecognized arguments: --([\w.]+)", message):
        found += _close(wrong, names)
    refused = r"(\w+) '([\w.]+)' does not accept option '([\w.]+)'"
    for kind, owner, wrong in re.findall(refused, message):
        found += _close(f"{owner}.{wrong}" if kind == "Group" else wrong, names)
    # an option of a class: the class is the last one named before it
    classes = list(re.finditer(r"class_path '([\w.]+)'", message))
    for match in re.finditer(r"Option '([\w.]+)' is not accepted", message):
        before = [c.group(1) for c in classes if c.start() < match.start()]
        found += _close(match.group(1), _arguments(before[-1]) if before else names)
    for module, wrong in re.findall(r"No ([\w.]+) attribute (\w+)", message):
        found += _close(wrong, _public(module))
    return list(dict.fromkeys(found))


def _close(wrong: str, names: Iterable[str]) -> list[str]:
    """The names that come closest, as one text."""
    listed = list(names)
    close = difflib.get_close_matches(wrong, listed, n=1, cutoff=0.9)
    close = close or difflib.get_close_matches(wrong, listed, n=3, cutoff=0.75)
    if not close:  # a dotted name may have one wrong part in a long rest
        head = wrong.partition(".")[0]
        heads = list(dict.fromkeys(name.partition(".")[0] for name in listed))
        close = [] if head in heads else difflib.get_close_matches(head, heads, n=3, cutoff=0.6)
    return [f"{' or '.join(close)}?"] if close else []


def _options(parser: Any) -> Iterator[str]:
    for action in parser._actions:
        yield from (word.lstrip("-") for word in action.option_strings if word.startswith("--"))
        for child in (getattr(action, "choices", None) or {}) if action.nargs == "A..." else ():
            yield from _options(action.choices[child])


def _arguments(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    kind = getattr(import_module(module), name)
    bases = kind.__mro__ if inspect.isclass(kind) else (kind,)
    return [p for base in bases if base is not object for p in _parameters(base)]


def _parameters(kind: Any) -> list[str]:
    try:
        return list(inspect.signature(kind).parameters)
    except (TypeError, ValueError):  # classes of C have none
        return []


def _public(module: str) -> list[str]:
    try:
        return dir(import_module(module))
    except ImportError:
        return []


def _cut(line: str) -> str:
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]} ..."
