"""Preprocessing: how a picture becomes a model's input, and the exact way back."""

from onnxvis.preprocessing.geometry import Box, Geometry, Point
from onnxvis.preprocessing.prepared import Prepared, prepare
from onnxvis.preprocessing.presets import DESCRIPTIONS, PRESETS, preset
from onnxvis.preprocessing.sources import METADATA_KEY, find, read_spec, resolve
from onnxvis.preprocessing.spec import Preprocessing

__all__ = [
    "DESCRIPTIONS",
    "METADATA_KEY",
    "PRESETS",
    "Box",
    "Geometry",
    "Point",
    "Prepared",
    "Preprocessing",
    "find",
    "prepare",
    "preset",
    "read_spec",
    "resolve",
]
