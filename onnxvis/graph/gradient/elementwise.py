"""Arithmetic, value by value. Inputs of different shapes are stretched; the driver sums the gradients back."""

from __future__ import annotations

import numpy as np

from onnxvis.graph.gradient.table import Call, Found, rule, rules_of
from onnxvis.graph.gradient.tensor import FLOATS, Tensor

__all__: list[str] = []

rules_of(
    {
        "Add": lambda n: (n.g, n.g),
        "Sub": lambda n: (n.g, -n.g),
        "Mul": lambda n: (n.g * n.input(1), n.g * n.x),
        "Div": lambda n: (n.g / n.input(1), -(n.g * n.y / n.input(1))),
        "Sum": lambda n: [n.g] * len(n.inputs),
        "Mean": lambda n: [n.g / len(n.inputs)] * len(n.inputs),
        "Where": lambda n: (None, n.x.keep(n.g), n.x.where(n.g.zeros(), n.g)),
        "Expand": lambda n: n.g,
    },
    broadcasts=True,
)
rules_of(
    {
        "Identity": lambda n: n.g,
        "Neg": lambda n: -n.g,
        "Abs": lambda n: n.g * n.x.op("Sign"),
        "Exp": lambda n: n.g * n.y,
        "Log": lambda n: n.g / n.x,
        "Sqrt": lambda n: n.g * 0.5 / n.y,
        "Reciprocal": lambda n: -(n.g * n.y * n.y),
        "Sin": lambda n: n.g * n.x.op("Cos"),
        "Cos": lambda n: -(n.g * n.x.op("Sin")),
        "Tan": lambda n: n.g * (1.0 + n.y * n.y),
        "Asin": lambda n: n.g / (1.0 - n.x * n.x).op("Sqrt"),
        "Acos": lambda n: -(n.g / (1.0 - n.x * n.x).op("Sqrt")),
        "Atan": lambda n: n.g / (1.0 + n.x * n.x),
        "Sinh": lambda n: n.g * n.x.op("Cosh"),
        "Cosh": lambda n: n.g * n.x.op("Sinh"),
        "Asinh": lambda n: n.g / (n.x * n.x + 1.0).op("Sqrt"),
        "Acosh": lambda n: n.g / (n.x * n.x - 1.0).op("Sqrt"),
        "Atanh": lambda n: n.g / (1.0 - n.x * n.x),
        "Erf": lambda n: n.g * (-(n.x * n.x)).op("Exp") * (2.0 / np.pi**0.5),
        "Cast": lambda n: n.g.cast(n.x.dtype) if n.x.dtype in FLOATS else n.g,
        "CastLike": lambda n: n.g.cast(n.x.dtype) if n.x.dtype in FLOATS else n.g,
    }
)


@rule("Pow", broadcasts=True)
def _pow(n: Call) -> Found:
    base, exponent = n.x, n.input(1).cast(n.x.dtype)
    value = n.constant(1)
    known = float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None
    if known == 2.0:
        return (n.g * (base * 2.0), None)
    if known == 0.5:
        return (n.g * 0.5 / n.y, None)
    if known is not None:
        return (n.g * (base.power(known - 1.0) * known), None) if known else (n.g.zeros(), None)
    none = exponent.equals(0.0)
    by_base = none.where((n.y.zeros()), n.g * exponent * base.power(exponent - 1.0))
    positive = base > 0.0
    by_exponent = positive.keep(n.g * n.y * positive.where(base, 1.0).op("Log"))
    return (by_base, by_exponent if n.input(1).dtype == base.dtype else None)


@rule("Max", "Min", broadcasts=True)
def _extreme(n: Call) -> Found:
    """Inputs that tie share the gradient."""
    given = [x for x in n.inputs if x is not None]
    if len(given) == 1:
        return n.g
    winners = [x.equals(n.y) for x in given]
    counts = [winner.cast(n.g.dtype) for winner in winners]
    total: Tensor = counts[0]
    for count in counts[1:]:
        total = total + count
    share = n.g / total
    return [winner.keep(share) for winner in winners]


@rule("Mod", broadcasts=True)
def _mod(n: Call) -> Found:
    """By the dividend alone: the remainder moves with it."""
    return (n.g, None)


@rule("Dropout")
def _dropout(n: Call) -> Found:
    training = n.constant(2)
    if n.has(2) and (training is None or bool(training)):
        raise n.refuse("it is in training mode")
    return n.g
