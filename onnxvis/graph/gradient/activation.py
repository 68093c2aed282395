"""Activations, and the alternative rules of rectifiers.

Springenberg et al. 2014 (arXiv:1412.6806), figure 1, with R the gradient that arrives at y = max(x, 0):

    backprop:   R * [y > 0]
    deconvnet:  R * [R > 0]              (Zeiler & Fergus 2014)
    guided:     R * [y > 0] * [R > 0]

Masks read the output, not the input: a convolution and its rectifier stay one kernel in onnxruntime.
"""

from __future__ import annotations

import math

import numpy as np

from onnxvis.graph.gradient.table import RULES, Call, Found, Function, alternative, rule, rules_of
from onnxvis.graph.gradient.tensor import Tensor

__all__ = ["ACTIVATIONS", "clip_bounds", "rectifier"]

_BOUNDLESS = 3.0e38
_SELU = (1.67326319217681884765625, 1.05070102214813232421875)
ACTIVATIONS = frozenset(
    {
        *("Relu", "Clip", "LeakyRelu", "ThresholdedRelu", "PRelu", "Elu", "Selu", "Celu", "Sigmoid", "Tanh"),
        *("HardSigmoid", "HardSwish", "Softplus", "Softsign", "Mish", "Swish", "Gelu", "Shrink"),
    }
)
"""Operators that count as activations when a ReLU rule states what it did."""


def _sigmoid(x: Tensor) -> Tensor:
    return x.op("Sigmoid")


rules_of(
    {
        "Relu": lambda n: (n.y > 0.0).keep(n.g),
        "LeakyRelu": lambda n: (n.x > 0.0).where(n.g, n.g * n.attr("alpha", 0.01)),
        "ThresholdedRelu": lambda n: (n.x > n.attr("alpha", 1.0)).keep(n.g),
        "Elu": lambda n: (n.x > 0.0).where(n.g, n.g * (n.y + n.attr("alpha", 1.0))),
        "Selu": lambda n: n.g * _selu(n),
        "Celu": lambda n: (n.x > 0.0).where(n.g, n.g * (n.y / n.attr("alpha", 1.0) + 1.0)),
        "Sigmoid": lambda n: n.g * n.y * (1.0 - n.y),
        "Tanh": lambda n: n.g * (1.0 - n.y * n.y),
        "HardSigmoid": lambda n: ((n.y > 0.0) & (n.y < 1.0)).keep(n.g * n.attr("alpha", 0.2)),
        "HardSwish": lambda n: (n.x > -3.0).keep((n.x < 3.0).where(n.g * (n.x / 3.0 + 0.5), n.g)),
        "Softplus": lambda n: n.g * _sigmoid(n.x),
        "Softsign": lambda n: n.g / (n.x.op("Abs") + 1.0).power(2.0),
        "Shrink": lambda n: (n.x.op("Abs") > n.attr("lambd", 0.5)).keep(n.g),
    }
)


def _selu(n: Call) -> Tensor:
    alpha, gamma = n.attr("alpha", _SELU[0]), n.attr("gamma", _SELU[1])
    return (n.x > 0.0).where(n.y.zeros() + gamma, n.y + alpha * gamma)


@rule("Mish")
def _mish(n: Call) -> Found:
    """With y = x t t = tanh(softplus(x)): y' = t + x (1 - t²) sigmoid(x)."""
    t = n.x.op("Softplus").op("Tanh")
    return n.g * (t + n.x * (1.0 - t * t) * _sigmoid(n.x))


@rule("Swish")
def _swish(n: Call) -> Found:
    alpha = float(n.attr("alpha", 1.0))
    s = _sigmoid(n.x * alpha)
    return n.g * (s + n.y * alpha * (1.0 - s))


@rule("Gelu")
def _gelu(n: Call) -> Found:
    """With y = x P(x), P the normal distribution, or its tanh approximation."""
    x = n.x
    if n.attr("approximate", "none") == "tanh":
        inner = math.sqrt(2.0 / math.pi)
        t = ((x + x * x * x * 0.044715) * inner).op("Tanh")
        return n.g * ((t + 1.0) * 0.5 + x * 0.5 * (1.0 - t * t) * ((x * x * (3 * 0.044715) + 1.0) * inner))
    part = ((x * math.sqrt(0.5)).op("Erf") + 1.0) * 0.5
    return n.g * (part + x * (x * x * -0.5).op("Exp") / math.sqrt(2.0 * math.pi))


@rule("PRelu", broadcasts=True)
def _prelu(n: Call) -> Found:
    negative = n.x < 0.0
    return (negative.where(n.g * n.input(1), n.g), negative.keep(n.g * n.x))


def clip_bounds(n: Call) -> tuple[float, float] | None:
    """The bounds of a Clip, infinite where there is none; ``None`` where they depend on the picture."""
    found = []
    for position, name, none in ((1, "min", -math.inf), (2, "max", math.inf)):
        if not n.has(position):
            value = float(n.attr(name, none))
        elif (array := n.constant(position)) is not None:
            value = float(np.asarray(array, np.float64).reshape(-1)[0])
        else:
            return None
        found.append(math.copysign(math.inf, value) if abs(value) >= _BOUNDLESS else value)
    return found[0], found[1]


@rule("Clip")
def _clip(n: Call) -> Found:
    bounds = clip_bounds(n)
    if bounds is None:
        if any(n.active[1:]):
            raise n.refuse("its bounds depend on the picture")
        inside = [n.y > n.input(1)] if n.has(1) else []
        inside += [n.y < n.input(2)] if n.has(2) else []
    else:
        inside = [n.y > bounds[0]] if math.isfinite(bounds[0]) else []
        inside += [n.y < bounds[1]] if math.isfinite(bounds[1]) else []
    if not inside:
        return n.g
    return (inside[0] if len(inside) == 1 else inside[0] & inside[1]).keep(n.g)


def rectifier(n: Call) -> bool:
    """Whether a node is a rectifier: 0 below a bound, a line of slope 1 above it, perhaps flat again (ReLU6)."""
    if n.node.op_type == "Clip":
        bounds = clip_bounds(n)
        return bounds is not None and 0.0 <= bounds[0] < bounds[1]
    if n.node.op_type == "LeakyRelu":
        return float(n.attr("alpha", 0.01)) == 0.0
    if n.node.op_type == "ThresholdedRelu":
        return float(n.attr("alpha", 1.0)) >= 0.0
    return n.node.op_type == "Relu"


def _deconvnet(n: Call) -> Found:
    return n.g.op("Relu") if rectifier(n) else RULES[n.node.op_type].function(n)


def _guided(n: Call) -> Found:
    found = RULES[n.node.op_type].function(n)
    assert isinstance(found, Tensor)
    return found.op("Relu") if rectifier(n) else found


_RECTIFIERS = ("Relu", "Clip", "LeakyRelu", "ThresholdedRelu")
_ROWS: dict[str, Function] = {"deconvnet": _deconvnet, "guided": _guided}
for _name, _function in _ROWS.items():
    alternative(_name, dict.fromkeys(_RECTIFIERS, _function))
