"""A JSON schema of the YAML files, by which editors complete, explain and check keys."""

import inspect
import json
import pkgutil
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from lightning_priv.files import write_atomically

__all__ = ["make_schema", "schema"]

_SIMPLE = {int: "integer", float: "number", bool: "boolean", str: "string", Path: "string"}
#: packages whose public classes are offered, and the base that such a class must have
_OFFERED = {
    "lightning.pytorch.callbacks": "lightning.pytorch.Callback",
    "lightning.pytorch.loggers": "lightning.pytorch.loggers.Logger",
    "torch.optim": "torch.optim.Optimizer",
    "torch.optim.lr_scheduler": "torch.optim.lr_scheduler.LRScheduler",
}
_CLASS = {"class_path", "init_args"}

Schema = dict[str, Any]


def schema(out: Path | None = None, format: Literal["json"] = "json") -> str:
    """A JSON schema of the YAML files, for completion in editors.

    It knows the keys of every training subcommand and of the calculators, and the arguments of all
    classes of lightning_priv, of Lightning's callbacks and loggers and of torch's optimizers. A
    ``class_path`` that it does not know is accepted with any arguments.

    Args:
        out: file to write it to as well.
        format: how it is written.
    """
    text = json.dumps(make_schema(), indent=1)
    if out is not None:
        write_atomically(out, text + "\n")
    return text


def make_schema() -> Schema:
    """The schema as plain types (draft 7)."""
    from lightning.pytorch import LightningDataModule, LightningModule, Trainer
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from lightning_priv.cli import CALCULATORS, INSTEAD
    from lightning_priv.lightning_cli import PrivacyCLI
    from lightning_priv.trainer import PrivacyTrainer

    maker = _Maker(_known_classes())
    keys: dict[str, list[Schema]] = {
        "seed_everything": [{"type": ["integer", "boolean"]}],
        "trainer": [maker.arguments(Trainer)],
        "model": [maker.of_type(LightningModule)],
        "data": [maker.of_type(LightningDataModule)],
        "optimizer": [maker.of_type(Optimizer)],
        "lr_scheduler": [maker.of_type(LRScheduler)],
    }
    parts: list[tuple[Any, set[str]]] = [
        (getattr(PrivacyTrainer, name), {"self", "return", "datamodule", *given})
        for name, given in PrivacyCLI.subcommands().items()
    ]
    for place in [*CALCULATORS.values(), *(place for _, place in INSTEAD.values())]:
        module, function = place.split(":")
        parts.append((getattr(import_module(module), function), set()))
    for function, without in parts:
        found = maker.arguments(function)["properties"]
        for key, value in found.items():
            if key not in without and value not in keys.setdefault(key, []):
                keys[key].append(value)
    properties = {k: v[0] if len(v) == 1 else _any_of(v) for k, v in sorted(keys.items())}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "lightning_priv",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "definitions": maker.definitions,
    }


def _known_classes() -> dict[str, type]:
    """Public classes by the path that a YAML file names them by."""
    import lightning_priv

    found: dict[str, type] = {}
    rooms = [f"lightning_priv.{m.name}" for m in pkgutil.iter_modules(lightning_priv.__path__)]
    for name in [*(r for r in rooms if hasattr(import_module(r), "__path__")), *_OFFERED]:
        module = import_module(name)
        public = getattr(module, "__all__", None) or dir(module)
        for word in public:
            kind = getattr(module, word, None)
            if inspect.isclass(kind) and not word.startswith("_") and _fits(kind, name):
                found[f"{name}.{word}"] = kind
    return found


def _fits(kind: type, place: str) -> bool:
    if place not in _OFFERED:
        return not issubclass(kind, (Exception, Enum))
    module, _, base = _OFFERED[place].rpartition(".")
    return issubclass(kind, getattr(import_module(module), base))


def _any_of(several: Iterable[Schema]) -> Schema:
    distinct: list[Schema] = []
    for one in several:
        if one == {}:
            return {}
        distinct += [one] if one not in distinct else []
    return distinct[0] if len(distinct) == 1 else {"anyOf": distinct}


class _Maker:
    """Makes schemas of types; those of classes are kept as definitions, each once.

    Args:
        known: classes by their path.
    """

    def __init__(self, known: Mapping[str, type]) -> None:
        self.known = known
        self.definitions: dict[str, Schema] = {}

    def arguments(self, kind: Any) -> Schema:
        """The arguments of a class or function as an object."""
        bases = kind.__mro__[:-1] if inspect.isclass(kind) else (kind,)
        helps = _helps(bases)
        properties: dict[str, Schema] = {}
        free = True  # takes more than the signatures say
        for base in bases:
            function = base.__dict__.get("__init__") if inspect.isclass(base) else base
            if function is None:
                continue
            hints = _hints(function)
            free = False
            for name, parameter in inspect.signature(function).parameters.items():
                if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                    free = free or parameter.kind == parameter.VAR_KEYWORD
                elif name != "self":
                    made = dict(self.of_type(hints.get(name, Any)))
                    if name in helps and "$ref" not in made:
                        made["description"] = helps[name]
                    properties.setdefault(name, made)
            if not free:
                break
        return {"type": "object", "properties": properties, "additionalProperties": free}

    def of_type(self, kind: Any) -> Schema:
        """What a value of a type may look like in YAML."""
        origin, args = get_origin(kind), get_args(kind)
        if kind in _SIMPLE:
            # YAML 1.1 reads 1e-3 as a text, which the parser takes for the number that it is
            return {"type": ["number", "string"] if kind is float else _SIMPLE[kind]}
        if kind is None or kind is type(None):
            return {"type": "null"}
        if origin is Literal:
            return {"enum": list(args)}
        if origin in (Union, types.UnionType):
            return _any_of([self.of_type(arg) for arg in args])
        if origin is typing.Annotated:
            return self.of_type(args[0])
        if (origin in (list, set, Sequence, Iterable, tuple)) or kind in (list, tuple, set):
            items = _any_of([self.of_type(a) for a in args if a is not Ellipsis]) if args else {}
            return {"type": "array", "items": items}
        if origin in (dict, Mapping) or kind in (dict, Mapping):
            more = self.of_type(args[1]) if len(args) == 2 else {}
            return {"type": "object", "additionalProperties": more}
        if origin is Callable or kind is Callable:
            returned = args[1] if len(args) == 2 else None
            made = [self.of_type(returned)] if inspect.isclass(returned) else []
            return _any_of(made or [{"type": "string"}, self._a_class([])])
        if inspect.isclass(kind) and issubclass(kind, Enum):
            return {"enum": [member.name for member in kind]}
        for simple in (int, float, str):  # numbers of a range: PositiveInt and the like
            if inspect.isclass(kind) and issubclass(kind, simple):
                return self.of_type(simple)
        if inspect.isclass(kind) and kind is not object and kind is not inspect.Parameter.empty:
            return self._of_class(kind)
        return {}

    def _of_class(self, base: type) -> Schema:
        """A class path of a subclass, alone or with its arguments; or fields of a dataclass."""
        name = f"{base.__module__}.{base.__qualname__}"
        if name not in self.definitions:
            self.definitions[name] = {}  # classes may hold each other
            paths = [p for p, kind in self.known.items() if _is_a(kind, base)]
            made = [{"type": "string"}, self._a_class(paths)]
            if is_dataclass(base):
                made.append(self._fields(base))
            self.definitions[name] = {"anyOf": made}
        return {"$ref": f"#/definitions/{name}"}

    def _fields(self, base: Any) -> Schema:
        hints = _hints(base)
        properties = {f.name: self.of_type(hints.get(f.name, Any)) for f in fields(base)}
        return {"type": "object", "properties": properties, "additionalProperties": False}

    def _a_class(self, paths: Sequence[str]) -> Schema:
        rules = [
            {
                "if": {"properties": {"class_path": {"const": path}}, "required": ["class_path"]},
                "then": {"properties": {"init_args": {"$ref": self._arguments_of(path)}}},
            }
            for path in paths
        ]
        known: list[Schema] = [{"enum": list(paths)}] if paths else []
        return {
            "type": "object",
            "properties": {
                "class_path": {"anyOf": [*known, {"type": "string"}]},
                "init_args": {"type": "object"},
                "dict_kwargs": {"type": "object"},
            },
            "additionalProperties": False,
            **({"allOf": rules} if rules else {}),
        }

    def _arguments_of(self, path: str) -> str:
        name = f"arguments of {path}".replace(" ", "_")
        if name not in self.definitions:
            self.definitions[name] = {}
            self.definitions[name] = self.arguments(self.known[path])
        return f"#/definitions/{name}"


def _is_a(kind: type, base: type) -> bool:
    try:
        return issubclass(kind, base)
    except TypeError:  # protocols with data members cannot be asked
        return base in kind.__mro__


def _hints(function: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=False)
    except (NameError, TypeError, AttributeError):  # names that only type checkers import
        return {}


def _helps(bases: Iterable[Any]) -> dict[str, str]:
    """What docstrings say of arguments."""
    from docstring_parser import parse

    helps: dict[str, str] = {}
    for base in bases:
        for said in parse(base.__dict__.get("__doc__", None) or "").params:
            helps.setdefault(said.arg_name, " ".join((said.description or "").split()))
    return helps
