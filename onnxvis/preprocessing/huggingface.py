"""Hugging Face ``preprocessor_config.json``, read as the image processors of ``transformers`` act on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxvis.errors import PreprocessingError
from onnxvis.preprocessing.spec import Preprocessing

__all__ = ["from_hugging_face", "is_hugging_face"]

# PIL.Image.Resampling, whose numbers the files hold.
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}

# Files that give `size` as a bare number: square for these processors, the shortest edge for those.
_SQUARE = ("ViT", "DeiT", "Beit", "Segformer", "Siglip", "MobileViT")
_SHORTEST = ("CLIP", "ChineseCLIP", "ConvNext", "Levit", "Poolformer", "MobileNetV1", "MobileNetV2", "Bit")

_UNDERSTOOD = frozenset(
    {
        *("do_resize", "size", "resample", "do_center_crop", "crop_size", "crop_pct"),
        *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "do_flip_channel_order"),
    }
)
# Keys that say who wrote the file or how arrays are handed over: none changes a pixel of an RGB picture.
_HARMLESS = frozenset(
    {
        *("image_processor_type", "feature_extractor_type", "processor_class", "auto_map"),
        *("_valid_processor_keys", "data_format", "input_data_format", "return_tensors", "device"),
        *("disable_grouping", "default_to_square", "do_convert_rgb", "model_input_names"),
        *("transformers_version", "do_reduce_labels", "reduce_labels", "_commit_hash", "_name_or_path"),
    }
)


def is_hugging_face(data: Mapping[str, Any]) -> bool:
    """Whether a JSON object is such a file rather than one of our own."""
    marks = (
        "image_processor_type",
        "feature_extractor_type",
        "image_mean",
        "do_normalize",
        "do_resize",
        "do_rescale",
    )
    return any(mark in data for mark in marks)


def from_hugging_face(data: Mapping[str, Any], where: str) -> Preprocessing:
    """Translate the file's content.

    Args:
        data: the JSON object.
        where: the file, for messages and for ``source``.

    Raises:
        PreprocessingError: a key that changes pixels and is not understood, or a value of the wrong form.
    """
    for key, value in data.items():
        if key not in _UNDERSTOOD | _HARMLESS and value not in (None, False):
            raise PreprocessingError(
                f"{where}: {key} = {value!r} may change pixels and is not understood. Write the "
                "preprocessing into a <model>.preprocessing.toml file beside the model instead."
            )
    assumed: list[str] = []
    fields: dict[str, Any] = {
        "crop_rounding": "floor",
        **_sizes(data, where),
        **_arithmetic(data, where, assumed),
    }
    if data.get("do_flip_channel_order"):
        fields["channel_order"] = "bgr"
    source = f"Hugging Face {where}" + (f" ({'; '.join(assumed)})" if assumed else "")
    try:
        return Preprocessing(**fields, source=source)
    except (PreprocessingError, TypeError) as error:
        raise PreprocessingError(f"{where}: {error}") from None


def _arithmetic(data: Mapping[str, Any], where: str, assumed: list[str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if "do_rescale" not in data:
        assumed.append("do_rescale is not given: taken as true, as older files mean it")
    if data.get("do_rescale", True):
        fields["scale"] = data.get("rescale_factor", 1 / 255)
    if data.get("do_normalize", "image_mean" in data):
        for name, key in (("mean", "image_mean"), ("std", "image_std")):
            if data.get(key) is None:
                raise PreprocessingError(f"{where}: do_normalize is on but {key} is missing: add it.")
            fields[name] = data[key]
    return fields


def _sizes(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    crop = bool(data.get("do_center_crop", False))
    fields: dict[str, Any] = {"crop": crop}
    if crop:
        crop_size = data.get("crop_size", data.get("size"))
        fields["crop_size"] = _height_width(crop_size, "crop_size", where)
    if not data.get("do_resize", "size" in data):
        return {**fields, "resize": "none"}
    resample = data.get("resample", 2)
    if resample not in _RESAMPLE:
        raise PreprocessingError(f"{where}: resample = {resample!r} is not one of {_RESAMPLE}.")
    fields["interpolation"] = _RESAMPLE[resample]
    size = data.get("size")
    if isinstance(size, int):
        size = _legacy_size(size, data, where)
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        edge = size["shortest_edge"]
        if data.get("crop_pct") is not None:
            return {**fields, **_convnext(edge, data["crop_pct"], where)}
        return {**fields, "resize": "shortest", "resize_to": edge}
    if isinstance(size, Mapping) and set(size) == {"height", "width"}:
        return {**fields, "resize": "stretch", "resize_to": _height_width(size, "size", where)}
    raise PreprocessingError(
        f"{where}: size = {size!r} is not understood; it must be a number, {{shortest_edge}} or "
        "{height, width}. Write the preprocessing into a <model>.preprocessing.toml file instead."
    )


def _legacy_size(size: int, data: Mapping[str, Any], where: str) -> dict[str, int]:
    kind = str(data.get("image_processor_type") or data.get("feature_extractor_type") or "")
    if kind.startswith(_SHORTEST) or "crop_pct" in data:
        return {"shortest_edge": size}
    if kind.startswith(_SQUARE):
        return {"height": size, "width": size}
    raise PreprocessingError(
        f"{where}: size = {size} means the shortest edge to some processors and a square to others, and "
        f'{kind or "this file"} does not say which: write {{"shortest_edge": {size}}} or '
        f'{{"height": {size}, "width": {size}}}.'
    )


def _convnext(edge: Any, fraction: Any, where: str) -> dict[str, Any]:
    """ConvNext: below 384 resize to edge / crop_pct and crop the center, from 384 on stretch (its docs)."""
    if not isinstance(edge, int) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
        raise PreprocessingError(f"{where}: shortest_edge = {edge!r} with crop_pct = {fraction!r} is not understood.")
    if edge >= 384:
        return {"resize": "stretch", "resize_to": edge}
    return {"resize": "shortest", "resize_to": int(edge / fraction), "crop": True, "crop_size": edge}


def _height_width(size: Any, key: str, where: str) -> Any:
    if isinstance(size, int):
        return size
    if isinstance(size, Mapping) and set(size) == {"height", "width"}:
        return (size["height"], size["width"])
    raise PreprocessingError(f"{where}: {key} = {size!r} is not understood; it must be a number or {{height, width}}.")
