"""Which backend computes gradients: torch, or ONNX operators in onnxruntime."""

from __future__ import annotations

import importlib.util

import onnx

from onnxvis.errors import ConversionError, DependencyError, ModelError, UsageError
from onnxvis.graph.canonical.refusals import refusal
from onnxvis.runtime.gradients import GradientBackend
from onnxvis.runtime.providers import Provider

__all__ = ["CHOICES", "check_choice", "gradient_backend"]

CHOICES = ("auto", "torch", "onnx")


def check_choice(choice: str) -> str:
    """The choice itself.

    Raises:
        UsageError: it is none.
    """
    if choice not in CHOICES:
        raise UsageError(f"gradients are computed by {', '.join(CHOICES)}, not by {choice!r}.")
    return choice


def gradient_backend(choice: str, graph: onnx.ModelProto, provider: Provider, float64: bool) -> GradientBackend:
    """The backend for a canonical graph.

    Args:
        choice: ``"torch"``, ``"onnx"``, or ``"auto"``: torch where it can be imported and knows every operator, else
            ONNX operators, with the reason in the backend's name.
        graph: in the canonical dialect, weights in memory.
        provider: where the deployed graph runs.
        float64: compute in double precision.

    Raises:
        ConversionError: the graph cannot be differentiated by what was chosen.
        DependencyError: torch was asked for and is not installed.
    """
    installed = all(importlib.util.find_spec(name) is not None for name in ("torch", "onnx2torch"))
    if choice == "onnx":
        return _onnx(graph, provider, float64, "")
    if choice == "torch" and not installed:
        raise DependencyError(
            "gradients='torch' needs torch: pip install \"onnxvis[torch]\". Or use gradients='onnx', which needs none."
        )
    if not installed:
        return _onnx(graph, provider, float64, "torch is not installed")
    try:
        return _torch(graph, provider, float64)
    except ModelError as error:
        if choice == "torch" or float64 or not _all_known(graph):
            raise
        return _onnx(graph, provider, float64, f"torch refused: {str(error)[:160]}")


def _torch(graph: onnx.ModelProto, provider: Provider, float64: bool) -> GradientBackend:
    from onnxvis.runtime.torch_gradients import TorchGradients

    device = "cuda" if provider.short in ("cuda", "tensorrt") else "cpu"
    try:
        return TorchGradients(graph, device, float64)
    except ModelError as error:
        reason = refusal(graph)
        if reason is None:
            raise
        raise ConversionError(f"no gradients on this file: {reason}") from error


def _onnx(graph: onnx.ModelProto, provider: Provider, float64: bool, reason: str) -> GradientBackend:
    from onnxvis.runtime.onnx_gradients import OnnxGradients

    return OnnxGradients(graph, provider, float64, reason)


def _all_known(graph: onnx.ModelProto) -> bool:
    from onnxvis.graph.gradient import missing_rules

    try:
        return refusal(graph) is None and not missing_rules(graph)
    except ModelError:
        return False
