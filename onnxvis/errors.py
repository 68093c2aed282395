"""Every error onnxvis raises on purpose.

One small hierarchy: a caller catches :class:`OnnxvisError`; the command line prints its message
and exits with code 2. A message says what was wrong, where (file, node, tensor) and what to do next.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any

__all__ = [
    "ConversionError",
    "DependencyError",
    "LayerError",
    "ModelError",
    "OnnxvisError",
    "OutputError",
    "ParityError",
    "PictureError",
    "PreprocessingError",
    "ResultExistsError",
    "TargetError",
    "UnsupportedOperatorError",
    "UsageError",
    "did_you_mean",
    "require",
]


class OnnxvisError(Exception):
    """Base of every error of onnxvis."""


class ModelError(OnnxvisError):
    """The ONNX file cannot be read, is malformed, or cannot be run."""


class UnsupportedOperatorError(ModelError):
    """An operator that onnxruntime, the canonical dialect or the converters do not know."""


class ConversionError(ModelError):
    """The canonical graph cannot be turned into a torch module."""


class ParityError(OnnxvisError):
    """The converted model does not agree with the deployed graph, so its gradient is not to be trusted."""


class PictureError(OnnxvisError):
    """A picture cannot be read or does not fit the model."""


class PreprocessingError(OnnxvisError):
    """A preprocessing specification is missing, unreadable or contradicts the model's input."""


class TargetError(OnnxvisError):
    """A target (class, label, contrast, position) does not exist in this model."""


class LayerError(OnnxvisError):
    """A layer does not exist, cannot be exposed, or does not suit the method."""


class UsageError(OnnxvisError):
    """An option or argument is not valid."""


class OutputError(OnnxvisError):
    """A result cannot be written."""


class ResultExistsError(OutputError):
    """The folder already holds another result, which is not overwritten."""


class DependencyError(OnnxvisError):
    """An optional package that is needed for this is not installed."""


def did_you_mean(word: str, choices: Iterable[str], limit: int = 5) -> str:
    """A sentence that names the nearest choices, or the empty string when nothing is near.

    Args:
        word: what the user wrote.
        choices: the valid words.
        limit: how many to name at most.
    """
    pool = list(dict.fromkeys(choices))
    folded = {c.casefold(): c for c in reversed(pool)}
    near = difflib.get_close_matches(word.casefold(), list(folded), n=limit, cutoff=0.5)
    near += [c for c in folded if word and word.casefold() in c and c not in near]
    names = [repr(folded[n]) for n in near[:limit]]
    return f" Did you mean {' or '.join(names)}?" if names else ""


def require(module: str, extra: str, purpose: str) -> Any:
    """An optional package, imported.

    Args:
        module: its import name.
        extra: the extra of onnxvis that brings it.
        purpose: what needs it, to begin the message with.

    Raises:
        DependencyError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != module.split(".", maxsplit=1)[0]:
            raise
        raise DependencyError(
            f'{purpose} needs {error.name}, which is not installed: pip install "onnxvis[{extra}]".'
        ) from error
