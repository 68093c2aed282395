"""See why an exported ONNX convolutional network decided what it did, and what it has learned.

    import onnxvis

    model = onnxvis.load("model.onnx", preprocessing="imagenet", labels="labels.txt")
    e = onnxvis.explain(model, "cat.jpg", method="grad-cam", target="tabby")
    e.attribution      # raw signed float32 map in the model's input grid
    e.overlay()        # PIL image over the original picture
    e.save("out/")

Everything is imported when it is first used, so that ``import onnxvis`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from onnxvis._version import __version__
from onnxvis.errors import (
    ConversionError,
    DependencyError,
    LayerError,
    ModelError,
    OnnxvisError,
    OutputError,
    ParityError,
    PictureError,
    PreprocessingError,
    TargetError,
    UnsupportedOperatorError,
    UsageError,
)

if TYPE_CHECKING:
    from onnxvis.explaining import explain as explain
    from onnxvis.explanation import Explanation as Explanation
    from onnxvis.methods import method_names as method_names
    from onnxvis.model import Model as Model
    from onnxvis.model import load as load
    from onnxvis.prediction import Prediction as Prediction
    from onnxvis.preprocessing import Preprocessing as Preprocessing

_LAZY = {
    "Explanation": ("onnxvis.explanation", "Explanation"),
    "Model": ("onnxvis.model", "Model"),
    "Prediction": ("onnxvis.prediction", "Prediction"),
    "Preprocessing": ("onnxvis.preprocessing", "Preprocessing"),
    "explain": ("onnxvis.explaining", "explain"),
    "load": ("onnxvis.model", "load"),
    "method_names": ("onnxvis.methods", "method_names"),
}

__all__ = [
    "ConversionError",
    "DependencyError",
    "Explanation",
    "LayerError",
    "Model",
    "ModelError",
    "OnnxvisError",
    "OutputError",
    "ParityError",
    "PictureError",
    "Prediction",
    "Preprocessing",
    "PreprocessingError",
    "TargetError",
    "UnsupportedOperatorError",
    "UsageError",
    "__version__",
    "explain",
    "load",
    "method_names",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name in _LAZY:
        module, attribute = _LAZY[name]
        value = getattr(importlib.import_module(module), attribute)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'onnxvis' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
