"""Who may import whom: the table of docs/architecture.md, held against every import in the package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {"kernels": ROOT / "kernels", "converters": ROOT / "converters"} | {
    folder.name: folder for folder in (ROOT / "onnxvis").iterdir() if (folder / "__init__.py").is_file()
}
NOUNS = {path.stem for path in (ROOT / "onnxvis").glob("*.py")} - {"__init__", "__main__"}
MAY_IMPORT = {
    "graph": {"errors"},
    "kernels": {"errors", "graph"},
    "converters": {"errors", "graph"},
    "runtime": {"errors", "graph", "kernels", "converters"},
    "methods": {
        *("errors", "graph", "kernels", "runtime", "preprocessing"),
        *("localization", "prediction", "progress", "target"),
    },
    "behaviour": NOUNS | {"graph", "kernels", "converters", "runtime", "methods", "preprocessing", "render"},
    "cluster": NOUNS | {"behaviour", "audit", "graph", "kernels", "runtime", "methods", "preprocessing", "render"},
    "audit": NOUNS | {"graph", "kernels", "runtime", "methods", "preprocessing", "render"},
    "preprocessing": {"errors", "kernels", "picture"},
    "render": {"errors", "kernels"},
}


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """First name below ``onnxvis`` of every import that runs; those for type checkers alone do not count."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.split(".")[0] == "onnxvis":
                yield [*name.split("."), ""][1], node.lineno
        yield from imports(node)


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_a_room_imports_only_what_it_may(room: str) -> None:
    allowed = MAY_IMPORT[room] | {room}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports onnxvis.{name}"
        for path in sorted(ROOMS[room].rglob("*.py"))
        for name, line in imports(ast.parse(path.read_text(encoding="utf-8")))
        if name not in allowed
    ]
    assert wrong == []


def test_nothing_uses_the_command_line() -> None:
    paths = [path for path in (ROOT / "onnxvis").glob("*.py") if path.name != "__main__.py"]
    paths += [p for room, folder in ROOMS.items() if room != "cli" for p in folder.rglob("*.py")]
    users = [
        str(path.relative_to(ROOT))
        for path in paths
        if "cli" in {name for name, _ in imports(ast.parse(path.read_text(encoding="utf-8")))}
    ]
    assert len(paths) > 100
    assert users == []


def test_every_room_has_its_line_in_the_table() -> None:
    assert set(ROOMS) - {"cli"} == set(MAY_IMPORT)


def test_an_import_inside_a_function_counts() -> None:
    source = "def f():\n    from onnxvis.model import load\nif TYPE_CHECKING:\n    import onnxvis.cli"
    assert list(imports(ast.parse(source))) == [("model", 2)]
