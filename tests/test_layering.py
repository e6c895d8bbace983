"""Imports run downwards only, and heavy packages are imported where they belong.

A room is a package or a top-level file of ``lightning_priv``; LAYERS lists them from the ground up.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[1] / "lightning_priv"

LAYERS = [
    {"errors"},
    {"protocols", "files"},
    {"locks"},  # for all
    {"functional", "accountants"},
    {"nn", "optim", "metrics", "acquisition", "reports"},
    {"data", "models", "callbacks", "strategies"},
    {"workflows"},
    {
        "trainer",
        "lightning_cli",
        "cli",
        "config_check",
        "config_schema",
        "plugins",
        "suggestions",
        "__main__",
        "__init__",
    },
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
SIBLINGS = {  # room -> modules of the same layer that it may import all the same
    "accountants": ("lightning_priv.functional",),
    "models": ("lightning_priv.data.base",),
    "strategies": ("lightning_priv.data.sampling",),
    "callbacks": ("lightning_priv.data.sampling",),
}

GROUND = {"torch", "numpy", "scipy", "lazy_loader"}
BLOCKS = GROUND | {"geoopt", "torchmetrics"}
PLUGINS = BLOCKS | {"lightning", "sklearn", "torchvision", "matplotlib", "PIL", "rich"}
ALLOWED = {  # room -> packages, in addition to the standard library and SPECIAL
    "errors": set(),
    "protocols": {"torch"},
    "files": {"torch"},
    "locks": set(),
    **dict.fromkeys(LAYERS[3], GROUND),
    **dict.fromkeys(LAYERS[4], BLOCKS),
    "reports": BLOCKS | {"matplotlib", "rich"},
    **dict.fromkeys(LAYERS[5] | LAYERS[6], PLUGINS),
    **dict.fromkeys(LAYERS[7], PLUGINS | {"docstring_parser", "jsonargparse", "yaml"}),
}
HEAVY = {  # package -> where it may be imported
    "diffusers": ("nn/diffusion.py",),
    "dp_accounting": ("accountants/",),
    "laplace": ("nn/laplace_probe.py",),
    "medmnist": ("data/",),
    "mlxtend": ("data/",),
    "opacus": ("nn/per_sample/", "strategies/"),
    "opacus.accountants": ("accountants/", "strategies/"),
    "skimage": ("data/", "nn/reconstructors.py"),
    "wandb": (
        "data/",
        "models/",
        "callbacks/",
        "strategies/",
        "workflows/",
        "reports/workspace.py",
    ),
    "wandb_workspaces": ("reports/",),
}
OPTIONAL = {  # optional package -> the files it belongs to
    "datasets": ("data/text.py",),
    "pyarrow": ("reports/information/files.py",),
    "safetensors": ("data/feature_files.py",),
    "umap": ("reports/hyperbolic_umap.py",),
    "transformers": ("data/text.py", "data/token_ids.py", "nn/text_transformer.py"),
}
IN_FUNCTIONS_ONLY = {
    *OPTIONAL,
    *("diffusers", "dp_accounting", "laplace", "medmnist", "skimage", "sklearn", "wandb"),
    *("wandb_workspaces", "mlxtend"),
}
# at the top only of the leaf files that are about them
AT_THE_TOP = {"diffusers": "nn/diffusion.py", "opacus": "nn/per_sample/"}
FORBIDDEN = ("pytorch_lightning", "opacus.lightning", "opacus.privacy_engine")


class Import(NamedTuple):
    file: str  # relative to the package
    line: int
    module: str  # absolute
    names: tuple[str, ...]
    at_top: bool  # executed when the module is imported

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def imports_of(path: Path, root: Path = PACKAGE) -> Iterator[Import]:
    file = path.relative_to(root).as_posix()
    parts = ("lightning_priv", *path.relative_to(root).parent.parts)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef)) or _typing_only(outer)
        for node in ast.walk(outer)
    }
    for node in ast.walk(tree):
        at_top = id(node) not in inside
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, (), at_top)
        elif isinstance(node, ast.ImportFrom):
            base = parts[: len(parts) + 1 - node.level] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            yield Import(file, node.lineno, module, tuple(a.name for a in node.names), at_top)


def _typing_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def targets(found: Import) -> list[str]:
    """The modules that ``from a import b`` may mean: a.b, which may be a module."""
    return [f"{found.module}.{name}" for name in found.names] or [found.module]


def room_of(file: str) -> str:
    return file.split("/")[0].removesuffix(".pyi").removesuffix(".py")


def complaint(found: Import) -> str | None:
    """What is wrong with an import, or None."""
    room = room_of(found.file)
    if room not in LEVEL:
        return f"{found.file}: room {room!r} stands in no layer"
    for target in targets(found):
        if any(target == bad or target.startswith(f"{bad}.") for bad in FORBIDDEN):
            return f"{found}, which no part may"
        if target.startswith("lightning_priv."):
            other = target.split(".")[1]
            if other not in LEVEL:
                continue  # __version__
            free = room in LAYERS[-1] or other == room
            free |= any(target == m or target.startswith(f"{m}.") for m in SIBLINGS.get(room, ()))
            if not free and LEVEL[other] >= LEVEL[room]:
                return f"{found}: {room} may not import {other}"
    return _outside(found, room)


def _outside(found: Import, room: str) -> str | None:
    package = found.module.split(".")[0]
    if package == "lightning_priv" or package in sys.stdlib_module_names:
        return None
    if package in OPTIONAL:
        places: tuple[str, ...] = OPTIONAL[package]
    elif package in HEAVY:
        longest = next((k for k in HEAVY if "." in k and found.module.startswith(k)), package)
        places = HEAVY[longest]
    else:
        return None if package in ALLOWED[room] else f"{found}: not in {room}'s list"
    if room not in LAYERS[-1] and not found.file.startswith(places):
        return f"{found}: it belongs to {', '.join(places)}"
    top = AT_THE_TOP.get(package)
    if found.at_top and package in IN_FUNCTIONS_ONLY and not (top and found.file.startswith(top)):
        return f"{found} at the top; import it inside the function that needs it"
    return None


FILES = sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi")])


def test_imports_run_downwards_only() -> None:
    found = [i for path in FILES for i in imports_of(path)]
    assert len(found) > 50
    assert [text for i in found if (text := complaint(i))] == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("functional/x.py", "from lightning_priv.nn import ResNet"),
        ("functional/x.py", "from ..nn.resnet import ResNet"),
        ("functional/x.py", "from .. import nn"),
        ("functional/x.py", "import lightning"),
        ("functional/x.py", "def f():\n    from lightning.pytorch import Trainer"),
        ("nn/lorentz/x.pyi", "from ...models import Classifier"),
        ("models/x.py", "from lightning_priv.callbacks import Dashboard"),
        ("callbacks/x.py", "from lightning_priv.data import Digits"),
        ("callbacks/x.py", "from lightning_priv.workflows import anything"),
        ("data/x.py", "import transformers"),
        ("data/text.py", "import transformers"),
        ("callbacks/x.py", "import wandb"),
        ("nn/x.py", "from opacus.grad_sample import GradSampleModule"),
        ("accountants/x.py", "from opacus import PrivacyEngine"),
        ("cli.py", "import pytorch_lightning"),
        ("attic/x.py", "import os"),
    ],
)
def test_a_wrong_import_is_found(file: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line)
    assert [complaint(i) for i in imports_of(path, tmp_path)] != [None]


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("models/x.py", "from lightning_priv.data.base import Samples"),
        ("models/x.py", "from ..nn import ResNet"),
        ("strategies/x.py", "from lightning_priv.data.sampling import mix"),
        ("nn/diffusion.py", "import diffusers"),
        ("data/text.py", "def f():\n    import transformers"),
        ("accountants/x.py", "def f():\n    from opacus.accountants import PRVAccountant"),
        ("callbacks/x.py", "from .media import log_media\nfrom ..errors import PrivacyError"),
    ],
)
def test_a_right_import_is_left_alone(file: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line)
    assert {complaint(i) for i in imports_of(path, tmp_path)} == {None}


@pytest.mark.parametrize("stub", sorted(PACKAGE.rglob("__init__.pyi")), ids=str)
def test_public_names_exist(stub: Path) -> None:
    for found in imports_of(stub):
        module = PACKAGE.parent.joinpath(*found.module.split("."))
        for name in found.names:
            if (module / name).is_dir() or (module / f"{name}.py").is_file():
                continue
            source = module / "__init__.pyi" if module.is_dir() else module.with_suffix(".py")
            assert name in _names(source), f"{stub}: {found.module}.{name}"


def _names(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            names.update(t.id for t in node.targets if isinstance(t, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import lightning_priv", ("torch", "lightning", "wandb", "diffusers", "jsonargparse")),
        ("import lightning_priv.cli", ("torch", "lightning", "wandb", "jsonargparse")),
        ("import lightning_priv.accountants", ("torch", "opacus", "lightning")),
        ("import lightning_priv.plugins as p; p.callbacks()", ("torch", "lightning")),
        (
            "import lightning_priv.functional as room; [getattr(room, n) for n in room.__all__]",
            ("lightning", "wandb", "diffusers", "opacus", "matplotlib", "geoopt"),
        ),
    ],
)
def test_import_loads_nothing_heavy(code: str, absent: tuple[str, ...]) -> None:
    report = f"{code}\nimport sys\nprint([m for m in {absent!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
