"""Receptive fields through branches, layouts and resampling, without running the graph."""

from onnxvis.graph.receptive.field import ReceptiveField, TensorField
from onnxvis.graph.receptive.walk import guess_layout, receptive_fields

__all__ = ["ReceptiveField", "TensorField", "guess_layout", "receptive_fields"]
