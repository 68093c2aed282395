"""The seam between a method and whoever computes its gradient.

A method asks for "the gradient of this function of the logits with respect to these tensors, under
this ReLU rule". Everything it can ask is a vector-Jacobian product: the function is given by its
cotangent, d score / d logits, so that a class, a contrast and a position differ only in an array.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

__all__ = ["GradientBackend", "Gradients", "rule_notes"]


@dataclass(frozen=True, eq=False)
class Gradients:
    """What one forward and some backward passes gave.

    Attributes:
        output: the differentiated tensor as this backend computes it, ``(N, ...)``.
        values: the tensors of ``wrt`` as this backend computes them.
        grads: one mapping per cotangent: tensor name -> gradient, of the tensor's shape.
        notes: how activations were treated, and other statements for the result.
    """

    output: np.ndarray
    values: Mapping[str, np.ndarray]
    grads: Sequence[Mapping[str, np.ndarray]]
    notes: tuple[str, ...] = ()


class GradientBackend(Protocol):
    """Computes vector-Jacobian products of the canonical graph."""

    name: str

    def vjp(
        self,
        feeds: Mapping[str, np.ndarray],
        output: str,
        cotangents: Sequence[np.ndarray],
        wrt: Sequence[str],
        rule: str = "backprop",
    ) -> Gradients:
        """Gradients of ``sum(cotangent * output)`` for each cotangent.

        Args:
            feeds: graph inputs, or intermediate tensors at which the graph is cut.
            output: the tensor to differentiate, usually the logits.
            cotangents: each of the output's shape.
            wrt: tensors to differentiate with respect to: fed ones or intermediate ones.
            rule: what a ReLU does on the way back: ``backprop``, ``deconvnet`` or ``guided``
                (Springenberg et al. 2014, figure 1).

        Raises:
            ConversionError: the graph has an operator that cannot be differentiated here.
        """
        ...


def rule_notes(rule: str, ruled: Counter[str], plain: Counter[str]) -> tuple[str, ...]:
    """What a ReLU rule did to the activations it met, in words.

    Args:
        rule: "backprop", "deconvnet" or "guided".
        ruled: operators that followed the rule, counted.
        plain: operators that kept their ordinary derivative, counted.
    """
    if rule == "backprop":
        return ()
    kept = f"the ordinary derivative is kept by {_counted(plain)}, which are no rectifiers" if plain else ""
    if not ruled:
        what = f"the {rule} rule found no rectifier on the way, so this is the ordinary gradient"
        return (what, kept) if kept else (what,)
    note = f"the {rule} rule acts at {ruled.total()} of {ruled.total() + plain.total()} activations: {_counted(ruled)}"
    return (f"{note}; {kept}" if kept else note,)


def _counted(operators: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(operators.items()))
