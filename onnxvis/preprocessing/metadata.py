"""Preprocessing that exporters write into the ONNX file's own metadata."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

from onnxvis.errors import PreprocessingError
from onnxvis.preprocessing.spec import Preprocessing

__all__ = ["METADATA_KEY", "from_metadata"]

METADATA_KEY = "onnxvis.preprocessing"
"""``metadata_props`` key whose value is a preprocessing as JSON."""

_FORMAT, _RANGE = "image.bitmappixelformat", "image.nominalpixelrange"


def from_metadata(metadata: Mapping[str, str]) -> Preprocessing | None:
    """The preprocessing that a model's ``metadata_props`` state, or None.

    In this order: our own key; Ultralytics exports (letterbox and / 255, or resize, crop and / 255 for
    ``task`` classify); the standard image metadata of ONNX (``Image.BitmapPixelFormat``,
    ``Image.NominalPixelRange``, ``Image.ColorSpaceGamma``; docs/MetadataProps.md of ONNX).

    Raises:
        PreprocessingError: one of them is there but cannot be used.
    """
    if METADATA_KEY in metadata:
        return _own(metadata[METADATA_KEY])
    if metadata.get("author") == "Ultralytics" or metadata.get("description", "").startswith("Ultralytics"):
        return _ultralytics(metadata)
    folded = {key.lower(): value for key, value in metadata.items()}  # ONNX: case does not count here
    if _FORMAT in folded or _RANGE in folded:
        return _onnx_image(folded)
    return None


def _own(text: str) -> Preprocessing:
    where = f"ONNX metadata key {METADATA_KEY}"
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PreprocessingError(f"{where} is not JSON ({error}): write it anew.") from None
    if not isinstance(data, dict):
        raise PreprocessingError(f"{where} is not a JSON object: write it anew.")
    return Preprocessing.from_dict(data, where)


def _ultralytics(metadata: Mapping[str, str]) -> Preprocessing:
    where = "ONNX metadata of an Ultralytics export"
    task = metadata.get("task", "detect")
    size: Any = None
    if "imgsz" in metadata:
        try:
            size = ast.literal_eval(metadata["imgsz"])
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise PreprocessingError(f"{where}: imgsz = {metadata['imgsz'][:80]!r} is not a size.") from None
    try:
        if task == "classify":
            source = f"{where} (task classify: shortest side, center crop, / 255)"
            return Preprocessing(
                resize="shortest", crop=True, crop_fraction=1.0, size=size, scale=1 / 255, source=source
            )
        source = f"{where} (task {task}: letterbox on 114, / 255)"
        return Preprocessing(resize="longest", pad_value=114.0, size=size, scale=1 / 255, source=source)
    except PreprocessingError as error:
        raise PreprocessingError(f"{where}: imgsz: {error}") from None


_ADVICE = "name a preset, or write a <model>.preprocessing.toml file."
_PIXEL_FORMATS = {"gray8": "gray", "rgb8": "rgb", "bgr8": "bgr"}
_RANGES: dict[str, dict[str, Any]] = {
    "nominalrange_0_255": {},
    "normalized_0_1": {"scale": 1 / 255},
    "normalized_1_1": {"scale": 1 / 127.5, "mean": (1.0,)},
}


def _onnx_image(stated: Mapping[str, str]) -> Preprocessing:
    pixel_format = stated.get(_FORMAT, "Rgb8")
    nominal = stated.get(_RANGE, "NominalRange_0_255")
    gamma = stated.get("image.colorspacegamma", "SRGB")
    if pixel_format.lower() not in _PIXEL_FORMATS:
        raise PreprocessingError(
            f"ONNX metadata Image.BitmapPixelFormat = {pixel_format!r} is not supported: {_ADVICE}"
        )
    if nominal.lower() not in _RANGES or gamma.lower() != "srgb":
        raise PreprocessingError(
            f"ONNX metadata Image.NominalPixelRange = {nominal!r} with Image.ColorSpaceGamma = {gamma!r} "
            f"is not supported: {_ADVICE}"
        )
    told = f"ONNX image metadata ({pixel_format}, {nominal})"
    return Preprocessing(
        channel_order=_PIXEL_FORMATS[pixel_format.lower()],
        **_RANGES[nominal.lower()],
        source=f"{told}; it says nothing of the size: stretched to the input size",
    )
