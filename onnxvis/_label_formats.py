"""The written forms of class names. Whatever a name contains is data: it is never run or escaped here."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from onnxvis.errors import UsageError

__all__ = ["names_from_data", "names_from_literal", "names_from_text"]

_MOST_CLASSES = 1_000_000
_NUMBERED = re.compile(r"^\s*(\d{1,9})(?:\s*[:=,\t]\s*|\s+)(\S.*)$", re.DOTALL)
_SYNSET = re.compile(r"^\s*n\d{8}\s+(\S.*)$", re.DOTALL)


def names_from_text(text: str, where: str) -> tuple[str, ...]:
    r"""One name a line.

    Numbers are taken as indices only when every line has one and no two are equal; WordNet ids are dropped
    only when every line has one and a name after it. An empty line inside the file is a class without a name.
    Only ``\n`` and ``\r\n`` end a line, so a name may hold any other control character.

    Raises:
        UsageError: there is no name, or the numbers are far beyond the number of lines.
    """
    lines = [line.strip(" \t\r") for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    filled = [line for line in lines if line]
    if not filled:
        raise UsageError(f"{where} holds no labels: write one name a line.")
    numbered = [_NUMBERED.match(line) for line in filled]
    indices = [int(m[1]) for m in numbered if m]
    if len(indices) == len(filled) == len(set(indices)):
        return _without_ids(_by_index({int(m[1]): m[2] for m in numbered if m}, where))
    return _without_ids(tuple(lines))


def _without_ids(names: tuple[str, ...]) -> tuple[str, ...]:
    """Drop a WordNet id before the name when every name has one."""
    found = [_SYNSET.match(name) for name in names]
    if not all(match or not name for match, name in zip(found, names, strict=True)):
        return names
    return tuple(match[1] if match else "" for match in found)


def names_from_data(data: Any, where: str) -> tuple[str, ...]:
    """Names from parsed JSON or a Python value: a list, index -> name, name -> index, or ``id2label``.

    Raises:
        UsageError: it is none of these.
    """
    if isinstance(data, dict) and isinstance(data.get("id2label"), dict):
        return names_from_data(data["id2label"], where)
    if isinstance(data, list | tuple):
        if not data:
            raise UsageError(f"{where} holds no labels.")
        return tuple(_one_name(item, f"entry {i}", where) for i, item in enumerate(data))
    if not isinstance(data, dict) or not data:
        raise UsageError(f"{where} is not a set of labels: it must be a list of names, or an object of index -> name.")
    if all(_is_index(key) for key in data):
        return _by_index({int(k): _one_name(v, f"class {k}", where) for k, v in data.items()}, where)
    if all(_is_index(value) for value in data.values()):
        turned = {int(index): str(name) for name, index in data.items()}
        if len(turned) == len(data):
            return _by_index(turned, where)
        raise UsageError(f"{where} gives one index to several names: each class needs its own.")
    bad = next(key for key in data if not _is_index(key))
    raise UsageError(f"{where}: the key {str(bad)[:60]!r} is not a class index, and its value is none either.")


def names_from_literal(text: str, where: str) -> tuple[str, ...]:
    """Names from a JSON text or a Python literal such as ``{0: 'person'}`` (never evaluated as code).

    Raises:
        UsageError: it is neither.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        try:
            data = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise UsageError(f"{where} holds no readable labels ({text[:60]!r}): give a labels file instead.") from None
    return names_from_data(data, where)


def _is_index(value: Any) -> bool:
    if isinstance(value, str):
        return value.isascii() and value.isdigit()
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _one_name(value: Any, which: str, where: str) -> str:
    """A name, or the last of an [id, name] pair."""
    if isinstance(value, list | tuple) and value:
        value = value[-1]
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise UsageError(f"{where}: {which} is not a name but {str(value)[:60]!r}.")


def _by_index(names: dict[int, str], where: str) -> tuple[str, ...]:
    count = max(names) + 1
    if count > _MOST_CLASSES or count > 10 * len(names) + 1000:
        raise UsageError(
            f"{where} numbers its {len(names)} labels up to {count - 1}: these are not class indices. "
            "Number them from 0, or leave the numbers out."
        )
    return tuple(names.get(i, "") for i in range(count))
