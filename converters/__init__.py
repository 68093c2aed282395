"""ONNX to torch: a differentiable module whose tensors keep their ONNX names.

``convert(model)`` makes a :class:`TorchGraph`. Run it from any fed tensor to any fetched one, ask torch for
gradients between them, and choose how rectifiers pass gradients back with a :class:`ReluRule`.
"""

from __future__ import annotations

from onnxvis.converters.conversion import convert
from onnxvis.converters.module import Activation, TorchGraph
from onnxvis.converters.registry import ActivationKind
from onnxvis.converters.relu import ReluRule

__all__ = ["Activation", "ActivationKind", "ReluRule", "TorchGraph", "convert"]
