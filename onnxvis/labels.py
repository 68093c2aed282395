"""Class names: read from wherever a model's users keep them, and found again by what a person types."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from onnxvis._label_formats import names_from_data, names_from_literal, names_from_text
from onnxvis.errors import TargetError, UsageError, did_you_mean

__all__ = ["METADATA_KEY", "LabelSource", "Labels", "load_labels"]

METADATA_KEY = "onnxvis.labels"
"""``metadata_props`` key whose value is a JSON list or object of class names."""

_LARGEST_FILE = 50 * 1024**2
_SHOWN = 8


@dataclass(frozen=True)
class Labels:
    """The names of a model's classes.

    Attributes:
        names: one name a class, in the order of the outputs; the empty string where none is known.
        source: one sentence: where they came from.
    """

    names: tuple[str, ...] = ()
    source: str = "no labels"

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """The name of a class as it stands in the source, or ``"class 7"`` where there is none."""
        known = self.names[index] if 0 <= index < len(self.names) else ""
        return known or f"class {index}"

    def find(self, text: str) -> int:
        """The class that a person means by ``text``; letter case and runs of spaces do not count.

        An exact match of the whole name or of one comma-separated synonym ("tench" of "tench, Tinca tinca")
        comes first; else the only name with a synonym that begins so; else the only one that contains it.

        Raises:
            TargetError: no class or several classes match; the message names them with their indices.
        """
        wanted = _folded(text)
        if not wanted:
            raise TargetError("an empty text names no class: give a label or a class index.")
        if not self.names:
            raise TargetError(
                f"{_quoted(text)} cannot be looked up: this model comes without labels. Give a class index, "
                "or a labels file (one name a line)."
            )
        forms = [_forms(name) for name in self.names]
        for manner, matches in (
            ("is", [i for i, words in enumerate(forms) if wanted in words]),
            ("begins", [i for i, words in enumerate(forms) if any(w.startswith(wanted) for w in words)]),
            ("is part of", [i for i, words in enumerate(forms) if any(wanted in w for w in words)]),
        ):
            if len(matches) == 1:
                return matches[0]
            if matches:
                raise self._ambiguous(text, manner, matches)
        words = {word: name for name in self.names for word in _forms(name)}
        hint = did_you_mean(wanted[:200], [w for w in words if len(w) <= 200])
        raise TargetError(f"no class is called {_quoted(text)} ({len(self)} labels: {self.source}).{hint}")

    def _ambiguous(self, text: str, manner: str, matches: list[int]) -> TargetError:
        shown = ", ".join(f"{i} {_quoted(self.names[i])}" for i in matches[:_SHOWN])
        more = f" and {len(matches) - _SHOWN} more" if len(matches) > _SHOWN else ""
        return TargetError(
            f"{_quoted(text)} {manner} the name of {len(matches)} classes: {shown}{more}. "
            "Give the class index instead, or more of the name."
        )


LabelSource: TypeAlias = "str | os.PathLike[str] | Sequence[str] | Mapping[Any, Any] | Labels | None"


def load_labels(
    value: LabelSource = None,
    metadata: Mapping[str, str] | None = None,
    model_path: str | os.PathLike[str] | None = None,
) -> Labels:
    """Class names from a file, a sequence, a mapping, or what lies with the model.

    Files are text (one name a line, optionally numbered "0 name" or "0: name", or led by a WordNet id as in
    "n01440764 tench") or JSON: a list, an object of index -> name or [id, name], an object of name -> index,
    or a Hugging Face ``config.json`` with ``id2label``.

    With ``value`` None, in this order: ``<stem>.labels.txt`` and ``.json`` beside the model; the metadata
    keys ``onnxvis.labels`` and ``names`` (Ultralytics); ``labels.txt``, ``labels.json`` and ``config.json``
    (only its ``id2label``) beside the model. When nothing is there, the labels are empty.

    Args:
        value: path, sequence of names, mapping, Labels, or None.
        metadata: the model's ``metadata_props``.
        model_path: where the model lies, if it is a file.

    Raises:
        UsageError: the file is missing or malformed; what was found first is never skipped.
    """
    if isinstance(value, Labels):
        return value
    if value is None:
        return _look_around(metadata or {}, Path(model_path) if model_path is not None else None)
    if isinstance(value, str | os.PathLike):
        return _read(Path(value))
    if isinstance(value, Mapping | Sequence) and not isinstance(value, bytes | bytearray):
        data = dict(value) if isinstance(value, Mapping) else list(value)
        return Labels(names_from_data(data, "the labels"), "given in Python")
    raise UsageError(f"labels cannot be a {type(value).__name__}: give a file, a list of names, or a dict.")


def _look_around(metadata: Mapping[str, str], model: Path | None) -> Labels:
    if model is not None:
        for suffix in (".txt", ".json"):
            own = model.with_name(f"{model.stem}.labels{suffix}")
            if own.is_file():
                return _read(own)
    for key in (METADATA_KEY, "names"):
        if key in metadata:
            where = f"ONNX metadata key {key}"
            return Labels(names_from_literal(metadata[key], where), where)
    if model is None:
        return Labels()
    for shared in (model.with_name("labels.txt"), model.with_name("labels.json")):
        if shared.is_file():
            return _read(shared)
    config = model.with_name("config.json")
    if config.is_file():
        data = _json(config, _text(config))
        if isinstance(data, dict) and isinstance(data.get("id2label"), dict):
            return Labels(names_from_data(data, str(config)), f"id2label of {config}")
    return Labels()


def _read(path: Path) -> Labels:
    text = _text(path)
    if path.suffix.lower() == ".json":
        return Labels(names_from_data(_json(path, text), str(path)), f"file {path}")
    return Labels(names_from_text(text, str(path)), f"file {path}")


def _text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > _LARGEST_FILE:
            raise UsageError(f"{path} is too large for a labels file ({size:,} bytes): check the path.")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8 text (byte {error.object[error.start]:#04x} at position {error.start}): "
            "save it as UTF-8."
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"the labels file {path} cannot be read ({reason}): check the path.") from None


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid JSON ({error}): correct it, or use a text file.") from None


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


def _forms(name: str) -> list[str]:
    """The whole name and each comma-separated synonym, folded."""
    if not name:
        return []
    synonyms = [_folded(part) for part in name.split(",")] if "," in name else []
    return [_folded(name), *(s for s in synonyms if s)]


def _quoted(text: str) -> str:
    """For a message: escaped, and cut when it is very long."""
    shown = text if len(text) <= 60 else text[:57] + "..."
    return repr(shown)
