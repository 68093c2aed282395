"""Gradients as ONNX operators: one table, operator -> vector-Jacobian product, and what is built from it."""

from __future__ import annotations

from onnxvis.graph.gradient import (  # noqa: F401 - each module registers its rows
    activation,
    convolution,
    elementwise,
    linear,
    movement,
    normalization,
    pooling,
    quantization,
    reduction,
    separable,
)
from onnxvis.graph.gradient.table import RULES
from onnxvis.graph.gradient.vjp import backward, build_vjp, missing_rules, tape_for

__all__ = ["RULES", "backward", "build_vjp", "differentiable_operators", "missing_rules", "tape_for"]


def differentiable_operators() -> list[str]:
    """The operators that have a rule, by name."""
    return sorted(RULES)
