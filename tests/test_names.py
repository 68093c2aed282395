"""File names made of anything stay inside their folder, and different texts stay different."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxvis.names import slug


@given(st.text(max_size=300))
def test_a_slug_is_a_safe_file_name(text: str) -> None:
    name = slug(text)
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,60}", name)
    assert name not in (".", "..")
    assert not name.startswith((".", "-"))


@given(st.text(max_size=80), st.text(max_size=80))
def test_different_texts_give_different_names(a: str, b: str) -> None:
    words = [re.sub(r"[\s,]+", "-", text.strip()) for text in (a, b)]
    if words[0] != words[1]:
        assert slug(a) != slug(b)


@pytest.mark.parametrize("word", ["con", "NUL", "com1.txt", "../../etc/passwd", "a" * 10_000, "", "\u202e\x00", "日本"])
def test_reserved_and_hostile_words(word: str) -> None:
    name = slug(word)
    assert len(name) <= 60
    assert "/" not in name
    assert name.lower().split(".")[0] not in ("con", "nul", "com1")


def test_ordinary_words_stay_readable() -> None:
    assert slug("tiger cat") == "tiger-cat"
    assert slug("tabby, tabby cat") == "tabby-tabby-cat"
    assert slug("IMG_0001.JPG") == "IMG_0001.JPG"
