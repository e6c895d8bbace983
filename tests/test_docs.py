"""The pages of the documentation name what exists; ``make docs`` checks their links."""

import ast
import importlib
import re
from pathlib import Path

import pytest
from command_line import ROOT

PAGES = sorted((ROOT / "docs").rglob("*.md"))


def test_there_are_pages() -> None:
    assert len(PAGES) >= 10


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"(?:configs|examples|benchmarks|tests)/[\w./-]+\.(?:yaml|py|md)", text))
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_python_blocks_import_what_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                assert [a.name for a in node.names if not hasattr(module, a.name)] == []


def test_block_of_a_new_layer_runs() -> None:
    text = (ROOT / "docs/extend.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.S)
    code = block + (
        "\npoints = torch.full((2, 3), 0.5)\n"
        "radius = Radius(LorentzManifold(k=2.0))(points)\n"
        "from lightning_priv.functional import lorentz_distance, to_point\n"
        "x, origin = to_point(points, k=2.0), to_point(torch.zeros(2, 3), k=2.0)\n"
        "torch.testing.assert_close(radius, lorentz_distance(x, origin, k=2.0))\n"
    )
    exec(compile(code, "docs/extend.md", "exec"), {})
