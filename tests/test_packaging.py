"""What pyproject.toml and constraints.txt promise, against what stands in the repository."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
INSIDE = {"kernels": "onnxvis.kernels", "converters": "onnxvis.converters"}


def package_folders() -> dict[str, Path]:
    """Dotted names as installed -> folders, for every folder that holds Python files."""
    found: dict[str, Path] = {}
    for top in ("onnxvis", *INSIDE):
        for folder in {path.parent for path in (ROOT / top).rglob("*.py")}:
            parts = folder.relative_to(ROOT).parts
            found[".".join((INSIDE.get(parts[0], parts[0]), *parts[1:]))] = folder
    return found


def requirements() -> list[Requirement]:
    project = PROJECT["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    own = [Requirement(line) for line in (*project["dependencies"], *extras)]
    return [r for r in own if r.name != project["name"]]


def pins() -> dict[str, str]:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def test_every_package_is_listed() -> None:
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == set(package_folders())


def test_every_package_has_an_init_file() -> None:
    assert [name for name, folder in package_folders().items() if not (folder / "__init__.py").is_file()] == []


def test_every_data_file_is_packaged() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    for name, folder in package_folders().items():
        packaged = {path for pattern in patterns.get(name, []) for path in folder.glob(pattern)}
        data = {p for p in folder.iterdir() if p.is_file() and p.suffix not in (".py", ".pyc")}
        assert data <= packaged, name


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_the_pinned_version_is_one_that_is_accepted(requirement: Requirement) -> None:
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])
