"""The pages must not promise what is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

import onnxvis
from onnxvis.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_local_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = [p.relative_to(ROOT / "docs").as_posix() for p in PAGES if p.parent != ROOT]
    assert [p for p in pages if p != "index.md" and f"({p})" not in index] == []


def test_the_readme_names_every_method_and_no_other() -> None:
    table = README[README.index("| family") :].split("\n\n")[0]
    assert sorted(re.findall(r"`([^`]+)`", table)) == sorted(onnxvis.method_names())


def test_the_readme_uses_commands_that_exist() -> None:
    commands = set(get_command(app).list_commands(None))  # type: ignore[attr-defined, arg-type]
    assert set(re.findall(r"^onnxvis (\w+)", README, re.MULTILINE)) == commands - {"demo"}


def test_the_readme_names_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = set(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split())
    assert set(re.findall(r"^make (\w+)", README, re.MULTILINE)) <= phony
