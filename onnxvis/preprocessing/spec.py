"""The preprocessing of a model as one typed value that can be compared, stored and changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxvis.errors import PreprocessingError, did_you_mean
from onnxvis.preprocessing.validation import WORDS, check, numbers, size_pair

if TYPE_CHECKING:
    from onnxvis.picture import Picture
    from onnxvis.preprocessing.prepared import Prepared

__all__ = ["Preprocessing"]


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the model's input: ``(pixel * scale - mean) / std`` after resizing and cropping.

    Sizes are one number for both axes or (height, width). ``source`` says where the value came from and does
    not count in comparisons.

    Attributes:
        resize: "stretch" to the input size; "shortest" side, aspect ratio kept; "longest" side, aspect ratio
            kept, the rest padded (letterbox); "none".
        resize_to: size that ``resize`` aims at; None derives it from the model's input size.
        crop: cut the center of the resized picture to the input size.
        crop_size: size of the crop; None means the model's input size. A model of another size is refused.
        crop_fraction: with ``resize_to`` None, resize so that the crop is this part of the side (0.875:
            a 224-pixel input is cropped from 256), rounded down.
        crop_rounding: odd margins: "even" rounds the crop's corner half to even (torchvision), "floor" down
            (Hugging Face).
        size: input size where the model's own is dynamic; not used where it is fixed.
        interpolation: nearest, bilinear, bicubic, lanczos, box or hamming, antialiased as Pillow does.
        pad_value: what padding holds, on the 0..255 scale, before ``scale``.
        pad_position: "center" or "top-left": where the picture sits in the padding of "longest".
        scale: factor on pixels of 0..255.
        mean: subtracted after ``scale``; one value, or one for each channel in the tensor's channel order.
        std: divisor after ``mean``; one value, or one for each channel in the tensor's channel order.
        channel_order: "rgb", "bgr" or "gray".
        layout: "NCHW" or "NHWC"; None reads it off the model's input shape.
        source: one sentence: where this came from.

    Raises:
        PreprocessingError: a field holds a word or number that is not allowed (the field is named).
    """

    resize: str = "stretch"
    resize_to: int | tuple[int, int] | None = None
    crop: bool = False
    crop_size: int | tuple[int, int] | None = None
    crop_fraction: float | None = None
    crop_rounding: str = "even"
    size: int | tuple[int, int] | None = None
    interpolation: str = "bilinear"
    pad_value: float = 0.0
    pad_position: str = "center"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channel_order: str = "rgb"
    layout: str | None = None
    source: str = field(default="given in Python", compare=False)

    def __post_init__(self) -> None:
        for name in ("resize_to", "crop_size", "size"):
            object.__setattr__(self, name, size_pair(name, getattr(self, name)))
        for name in ("mean", "std"):
            object.__setattr__(self, name, numbers(name, getattr(self, name)))
        for name in WORDS:
            value = getattr(self, name)
            if isinstance(value, str):
                folded = value.upper() if name == "layout" else value.lower()
                object.__setattr__(self, name, folded)
        check(self)
        for name in ("scale", "pad_value"):
            object.__setattr__(self, name, float(getattr(self, name)))

    def to_dict(self) -> dict[str, Any]:
        """Every field that is not None as plain JSON values; :meth:`from_dict` is the inverse."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items() if v is not None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str | None = None) -> Preprocessing:
        """Build from plain values: field names, and optionally ``preset`` as the starting point.

        Args:
            data: field name -> value.
            source: where ``data`` came from; else its own ``source`` entry, or "given as a dict".

        Raises:
            PreprocessingError: an unknown field (the nearest is suggested) or a value that is not allowed.
        """
        values = dict(data)
        stored = values.pop("source", None)
        origin = source or (stored if isinstance(stored, str) else "given as a dict")
        named = values.pop("preset", None)
        _refuse_unknown(values, _field_names(), origin)
        try:
            if named is None:
                return cls(**values, source=origin)
            from onnxvis.preprocessing.presets import preset

            return dataclasses.replace(preset(named), **values, source=f"{origin}, starting from preset {named!r}")
        except PreprocessingError as error:
            raise PreprocessingError(f"{origin}: {error}") from None

    def to_toml(self) -> str:
        """The text of a ``<model>.preprocessing.toml`` file that reads back as an equal value."""
        lines = [f"# {_one_line(self.source)}"]
        lines += [f"{key} = {_toml(value)}" for key, value in self.to_dict().items() if key != "source"]
        return "\n".join(lines) + "\n"

    def override(self, **flags: Any) -> Preprocessing:
        """A copy with some fields changed; a flag that is None changes nothing; ``source`` tells which.

        A flag replaces what it contradicts: ``resize_to`` a ``crop_fraction`` and the other way round,
        ``crop=False`` and ``resize="longest"`` everything about the crop.

        Raises:
            PreprocessingError: an unknown field or a value that is not allowed.
        """
        changed = {key: value for key, value in flags.items() if value is not None}
        if not changed:
            return self
        origin = f"{self.source}, changed by flags: {', '.join(sorted(changed))}"
        kept = {k: v for k, v in self.to_dict().items() if k not in {"source", *_superseded(changed)}}
        _refuse_unknown(changed, _field_names(), origin)
        return Preprocessing.from_dict({**kept, **changed}, origin)

    def summary(self) -> str:
        """One line for a person: sizes, filter, channels and arithmetic."""
        aim = "the input size" if self.resize_to is None else _size_text(self.resize_to)
        if self.resize_to is None and self.crop_fraction is not None:
            aim = f"the input size / {self.crop_fraction:g}"
        words = {
            "stretch": f"stretch to {aim}",
            "shortest": f"shortest side to {aim}",
            "longest": f"longest side to {aim}, padded with {self.pad_value:g} ({self.pad_position})",
            "none": "no resize",
        }
        parts = [words[self.resize]]
        if self.resize != "none":
            parts[0] += f" ({self.interpolation})"
        if self.crop:
            parts.append("center crop" + (f" {_size_text(self.crop_size)}" if self.crop_size else ""))
        parts.append(self.channel_order.upper() if self.channel_order != "gray" else "gray")
        return "; ".join([*parts, self._arithmetic()])

    def _arithmetic(self) -> str:
        divisor = round(1 / self.scale, 6)
        steps = []
        if self.scale != 1:
            steps.append(f"/ {divisor:g}" if abs(divisor) > 1 else f"x {self.scale:g}")
        if any(self.mean):
            steps.append(f"minus {_list_text(self.mean)}")
        if any(value != 1 for value in self.std):
            steps.append(f"divided by {_list_text(self.std)}")
        return ", ".join(steps) or "0..255 as it is"

    def prepare(
        self, picture: Picture, input_shape: Sequence[int | str | None], dtype: np.dtype[Any] | type | str
    ) -> Prepared:
        """Turn a picture into the model's input tensor; see :func:`onnxvis.preprocessing.prepare`."""
        from onnxvis.preprocessing.prepared import prepare

        return prepare(self, picture, input_shape, dtype)

    def display(self, tensor: NDArray[Any], layout: str | None = None) -> NDArray[np.uint8]:
        """Undo the arithmetic: an input tensor as a viewable ``(H, W, 3) uint8`` picture.

        The exact inverse of scale, mean, std and channel order; rounding and clipping to 0..255 come last.

        Args:
            tensor: ``(1, C, H, W)``, ``(1, H, W, C)`` or either without the batch axis.
            layout: "NCHW" or "NHWC" when ``self.layout`` is None; without either it is read off the shape.

        Raises:
            PreprocessingError: the tensor is no picture, or its layout cannot be told.
        """
        from onnxvis.preprocessing.channels import display

        return display(self, tensor, layout)


def _field_names() -> list[str]:
    return [f.name for f in dataclasses.fields(Preprocessing) if f.name != "source"]


def _refuse_unknown(values: Mapping[str, Any], names: list[str], origin: str) -> None:
    for key in values:
        if key not in names:
            hint = did_you_mean(str(key), names)
            raise PreprocessingError(
                f"{origin}: there is no field {key!r} in a preprocessing.{hint} The fields are {', '.join(names)}."
            )


def _superseded(changed: Mapping[str, Any]) -> set[str]:
    """Fields that a changed one makes meaningless."""
    gone: set[str] = set()
    if "resize_to" in changed:
        gone.add("crop_fraction")
    if "crop_fraction" in changed or changed.get("resize") == "none":
        gone.add("resize_to")
    if changed.get("resize") == "none":
        gone.add("crop_fraction")
    if changed.get("crop") is False or changed.get("resize") == "longest":
        gone |= {"crop", "crop_size", "crop_fraction"}
    return gone


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'  # only checked words get here, none with a quote or a backslash
    return "[" + ", ".join(_toml(v) for v in value) + "]" if isinstance(value, list) else repr(value)


def _size_text(size: int | tuple[int, int]) -> str:
    return str(size) if isinstance(size, int) else f"{size[0]} x {size[1]} (height x width)"


def _list_text(values: tuple[float, ...]) -> str:
    text = ", ".join(f"{v:.6g}" for v in values)
    return f"[{text}]" if len(values) > 1 else text
