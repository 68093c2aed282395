"""Named preprocessings. A preset is used only when it is named: nothing falls back to one."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType
from typing import Any

from onnxvis.errors import PreprocessingError, did_you_mean
from onnxvis.preprocessing.spec import Preprocessing

__all__ = ["DESCRIPTIONS", "PRESETS", "preset"]

_IMAGENET: dict[str, Any] = {
    "scale": 1 / 255,
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}
_CROPPED: dict[str, Any] = {"resize": "shortest", "crop": True, "crop_fraction": 0.875, "size": 224}

_TABLE: dict[str, tuple[str, Preprocessing]] = {
    "imagenet": (
        "torchvision's ImageNet classifiers: shortest side 256 for 224, bilinear, center crop, mean and std "
        "(torchvision.transforms._presets.ImageClassification)",
        Preprocessing(**_CROPPED, **_IMAGENET),
    ),
    "imagenet-bicubic": (
        "as imagenet with bicubic resizing, timm's usual default (timm.data.constants)",
        Preprocessing(**_CROPPED, **_IMAGENET, interpolation="bicubic"),
    ),
    "inception": (
        "x / 127.5 - 1, center crop of 0.875: Inception and MobileNet of TensorFlow "
        "(tf-slim inception_preprocessing, Keras mode 'tf')",
        Preprocessing(**{**_CROPPED, "size": 299}, scale=1 / 127.5, mean=(1.0,)),
    ),
    "efficientnet-lite": (
        "(x - 127) / 128, size / 0.875 bicubic, center crop (EfficientNet-Lite of tensorflow/tpu)",
        Preprocessing(**_CROPPED, interpolation="bicubic", mean=(127.0,), std=(128.0,)),
    ),
    "caffe-bgr": (
        "BGR minus [104.006, 116.669, 122.679], not scaled: Caffe's ImageNet models (ilsvrc_2012_mean.npy)",
        Preprocessing(**_CROPPED, channel_order="bgr", mean=(104.006, 116.669, 122.679)),
    ),
    "unit": (
        "RGB / 255, stretched to the input size (torchvision ToTensor alone)",
        Preprocessing(scale=1 / 255),
    ),
    "none": (
        "RGB 0..255 as it is, stretched to the input size: the model normalizes itself",
        Preprocessing(),
    ),
    "mnist": (
        "grayscale / 255, stretched, light digits on black (the range of the MNIST files; no mean or std)",
        Preprocessing(channel_order="gray", scale=1 / 255, size=28),
    ),
    "yolo": (
        "letterbox: longest side to the input size, centered on gray 114, / 255 (Ultralytics LetterBox)",
        Preprocessing(resize="longest", pad_value=114.0, scale=1 / 255, size=640),
    ),
    "clip": (
        "shortest side to the input size, bicubic, center crop, CLIP's mean and std (openai/CLIP clip.py)",
        Preprocessing(
            resize="shortest",
            crop=True,
            size=224,
            interpolation="bicubic",
            scale=1 / 255,
            mean=(0.48145466, 0.4578275, 0.40821073),
            std=(0.26862954, 0.26130258, 0.27577711),
        ),
    ),
}

PRESETS: MappingProxyType[str, Preprocessing] = MappingProxyType(
    {name: dataclasses.replace(spec, source=f"preset {name!r}") for name, (_, spec) in _TABLE.items()}
)
"""Name -> preprocessing."""

DESCRIPTIONS: MappingProxyType[str, str] = MappingProxyType({name: text for name, (text, _) in _TABLE.items()})
"""Name -> one line: what it does and where its figures come from."""


def preset(name: str) -> Preprocessing:
    """The preset of that name.

    Raises:
        PreprocessingError: there is none; the message lists all and suggests the nearest.
    """
    if not isinstance(name, str) or name not in PRESETS:
        hint = did_you_mean(name, PRESETS) if isinstance(name, str) else ""
        raise PreprocessingError(f"there is no preset {name!r}.{hint} The presets are {', '.join(PRESETS)}.")
    return PRESETS[name]
