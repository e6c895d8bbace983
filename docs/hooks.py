"""Makes the reference pages: one for each room of the package, and one for the configs.

The names of a room are read from its stub (``__init__.pyi``) or, where there is none, from its
``__all__``; nothing is imported, so the site is built without torch.
"""

import ast
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lightning_priv"
ROOMS = (
    "accountants", "acquisition", "callbacks", "data", "functional", "metrics", "models", "nn",
    "optim", "reports", "strategies", "workflows",
)  # fmt: skip
# sub-packages with public names of their own, shown on the page of their room
INNER = ("functional", "nn", "workflows", "data", "reports")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from the code."""
    for room in ROOMS:
        files.append(_page(config, f"reference/{room}.md", room_page(room)))
    files.append(_page(config, "reference/configs.md", configs_page()))
    return files


def _page(config: MkDocsConfig, path: str, text: str) -> File:
    return File.generated(config, path, content=text)


def room_page(room: str) -> str:
    """Markdown of one room: its docstring, then every public name."""
    lines = [f"# lightning_priv.{room}", "", _docstring(PACKAGE / room), ""]
    seen: set[str] = set()
    for folder in [PACKAGE / room, *_inner(room)]:
        module = ".".join(("lightning_priv", *folder.relative_to(PACKAGE).parts))
        names = [name for name in public_names(folder) if name[1] not in seen]
        seen.update(name for _, name in names)
        if folder != PACKAGE / room and names:
            lines += [f"## {module}", "", _docstring(folder), ""]
        level = 2 if folder == PACKAGE / room else 3
        for source, name in names:
            target = f"{module}.{source}.{name}" if source else f"{module}.{name}"
            lines += [f"::: {target}", "    options:", f"      heading_level: {level}", ""]
    return "\n".join(lines)


def _inner(room: str) -> list[Path]:
    if room not in INNER:
        return []
    folders = sorted(p.parent for p in (PACKAGE / room).glob("*/__init__.py"))
    return [folder for folder in folders if folder.name not in ("per_sample", "stacked")]


def _docstring(folder: Path) -> str:
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text("utf-8")))
    return text or ""


def public_names(folder: Path) -> list[tuple[str, str]]:
    """Pairs (module below the folder, name) that the package exports."""
    stub = folder / "__init__.pyi"
    source = stub if stub.exists() else folder / "__init__.py"
    tree = ast.parse(source.read_text("utf-8"))
    listed = None if stub.exists() else _listed(tree)
    package = ".".join(("lightning_priv", *folder.relative_to(PACKAGE).parts)) + "."
    found = []
    for node in tree.body:
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue  # ``from . import room`` names a module: it has a section of its own
        module = node.module.removeprefix(package)
        if node.level == 0 and not node.module.startswith(package):
            continue
        for alias in node.names:
            name = alias.asname or alias.name
            if listed is None or name in listed:
                found.append((module, name))
    return sorted(found, key=lambda pair: pair[1].lower())


def _listed(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def configs_page() -> str:
    """Markdown table of all configs with the paper and the target of their headers."""
    lines = [
        "# Configs",
        "",
        "Every file runs with `python -m lightning_priv SUBCOMMAND --config FILE`; of several",
        "`--config` the later one wins. What a file needs, and where it differs from its paper,",
        "stands in its header.",
        "",
    ]
    for title, folder in (
        ("Offline, below a minute on two cores", "demo"),
        ("From the papers", "."),
        ("Fragments to combine with others", "base"),
    ):
        lines += [f"## {title}", "", "| file | what it is | target |", "|---|---|---|"]
        for path in sorted((ROOT / "configs" / folder).glob("*.yaml")):
            header = _header(path)
            name = path.relative_to(ROOT).as_posix()
            lines.append(f"| `{name}` | {header['Paper']} | {header['Target']} |")
        lines.append("")
    return "\n".join(lines)


def _header(path: Path) -> dict[str, str]:
    """The header's fields, each on one line; a header without fields is all ``Paper``."""
    fields: dict[str, list[str]] = {"Paper": [], "Target": []}
    at = "Paper"
    for line in path.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            break
        text = line.lstrip("# ").strip()
        key, _, rest = text.partition(":")
        if key in ("Paper", "Target", "Needs", "Differs", "Data", "Run", "Time"):
            at, text = key, rest.strip()
            fields.setdefault(at, [])
        fields[at].append(text)
    return {key: " ".join(text).replace("|", "\\|") for key, text in fields.items()}
