"""SCOUTER: why this class, and why not that one (Li et al., ICCV 2021).

``fit`` puts a slot-attention head on any ONNX classifier and trains it; the result is one ONNX file whose second
output are attention maps of every class. ``evaluate`` measures such a file on labelled pictures.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from onnxvis.behaviour.scouter.data import Samples, read_samples, samples_of
from onnxvis.behaviour.scouter.settings import HeadForm, HeadSettings, TrainingSettings

if TYPE_CHECKING:
    from onnxvis.behaviour.scouter.evaluation import Evaluation, evaluate
    from onnxvis.behaviour.scouter.fitting import Fitted, fit

__all__ = [
    "Evaluation",
    "Fitted",
    "HeadForm",
    "HeadSettings",
    "Samples",
    "TrainingSettings",
    "evaluate",
    "fit",
    "read_samples",
    "samples_of",
]

_LAZY = {"Fitted": "fitting", "fit": "fitting", "Evaluation": "evaluation", "evaluate": "evaluation"}


def __getattr__(name: str) -> Any:
    """What needs torch or sessions is imported when it is first used."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
