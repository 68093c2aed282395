"""Where a preprocessing can come from: a name, a file, a dict, the model's own metadata. Never a guess."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from onnxvis.errors import PreprocessingError, did_you_mean
from onnxvis.preprocessing.huggingface import from_hugging_face, is_hugging_face
from onnxvis.preprocessing.metadata import METADATA_KEY, from_metadata
from onnxvis.preprocessing.presets import PRESETS, preset
from onnxvis.preprocessing.spec import Preprocessing

__all__ = ["METADATA_KEY", "PreprocessingSource", "find", "read_spec", "resolve"]

PreprocessingSource: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any] | Preprocessing | None"

_LARGEST_FILE = 10 * 1024**2


def read_spec(path: str | os.PathLike[str], source: str | None = None) -> Preprocessing:
    """Read a TOML or JSON file in our format, or a Hugging Face ``preprocessor_config.json``.

    Args:
        path: the file; ``.toml`` is TOML, anything else JSON.
        source: what to say of its origin instead of "file <path>".

    Raises:
        PreprocessingError: the file is missing, malformed, or states something that is not understood.
    """
    file = Path(path)
    where = str(file)
    data = _parse(file)
    if not isinstance(data, dict):
        raise PreprocessingError(f"{where} does not hold a table of fields: see the presets for an example.")
    if is_hugging_face(data):
        return from_hugging_face(data, where)
    return Preprocessing.from_dict(data, source or f"file {where}")


def _parse(file: Path) -> Any:
    try:
        if file.stat().st_size > _LARGEST_FILE:
            raise PreprocessingError(f"{file} is too large for a preprocessing ({file.stat().st_size:,} bytes).")
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise PreprocessingError(f"{file} is not UTF-8 text: save it as UTF-8.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PreprocessingError(f"{file} cannot be read ({reason}): check the path.") from None
    kind = "TOML" if file.suffix.lower() == ".toml" else "JSON"
    try:
        return tomllib.loads(text) if kind == "TOML" else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PreprocessingError(f"{file} is not valid {kind} ({error}): correct it.") from None


def find(model_path: str | os.PathLike[str] | None, metadata: Mapping[str, str]) -> Preprocessing | None:
    """Look for a preprocessing that somebody stated for this model; None when nobody did.

    In this order:

    1. ``<stem>.preprocessing.toml``, then ``<stem>.preprocessing.json`` beside the model;
    2. the model's metadata: our key, Ultralytics, ONNX image metadata (:func:`metadata.from_metadata`);
    3. ``preprocessor_config.json`` beside the model, or one folder up when that folder is called ``onnx``.

    Raises:
        PreprocessingError: what was found first cannot be used (it is not skipped).
    """
    path = Path(model_path) if model_path is not None else None
    if path is not None:
        for suffix in (".toml", ".json"):
            beside = path.with_name(f"{path.stem}.preprocessing{suffix}")
            if beside.is_file():
                return read_spec(beside, f"file {beside.name} beside the model")
    stated = from_metadata(metadata)
    if stated is not None or path is None:
        return stated
    folders = [path.parent, path.parent.parent] if path.parent.name == "onnx" else [path.parent]
    for folder in folders:
        config = folder / "preprocessor_config.json"
        if config.is_file():
            return read_spec(config)
    return None


def resolve(
    value: PreprocessingSource, model_path: str | os.PathLike[str] | None, metadata: Mapping[str, str]
) -> Preprocessing | None:
    """A preprocessing from whatever a user gave.

    Args:
        value: None (:func:`find` looks for one), a preset's name, the path of a spec file, a dict of fields,
            or a Preprocessing. A word that is a preset's name means the preset, never a file.
        model_path: where the model lies, if it is a file.
        metadata: the model's ``metadata_props``.

    Returns:
        The preprocessing, or None when ``value`` is None and nothing states one.

    Raises:
        PreprocessingError: there is no such preset or file, or it cannot be used.
    """
    if value is None:
        return find(model_path, metadata)
    if isinstance(value, Preprocessing):
        return value
    if isinstance(value, Mapping):
        return from_hugging_face(value, "dict") if is_hugging_face(value) else Preprocessing.from_dict(value)
    if isinstance(value, str) and value in PRESETS:
        return preset(value)
    if isinstance(value, str | os.PathLike):
        path = Path(value)
        if path.suffix.lower() in {".toml", ".json"} or path.is_file():
            return read_spec(path)
        raise PreprocessingError(
            f"{os.fspath(value)!r} is neither a preset nor a file.{did_you_mean(os.fspath(value), PRESETS)} "
            f"The presets are {', '.join(PRESETS)}; a file ends in .toml or .json."
        )
    raise PreprocessingError(
        f"a {type(value).__name__} is not a preprocessing: give a preset's name, a file or a dict."
    )
