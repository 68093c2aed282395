"""Rectifiers whose backward pass follows a rule.

Springenberg, Dosovitskiy, Brox & Riedmiller, "Striving for Simplicity: The All Convolutional Net"
(ICLR 2015 workshop, arXiv:1412.6806), figure 1: with input x, output f = max(x, 0) and incoming gradient R,

    backprop:   R * [x > 0]
    deconvnet:  R * [R > 0]              (Zeiler & Fergus 2014)
    guided:     R * [x > 0] * [R > 0]
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["ReluRule", "rectify"]


class ReluRule(StrEnum):
    """How a rectifier passes a gradient back."""

    BACKPROP = "backprop"
    DECONVNET = "deconvnet"
    GUIDED = "guided"


def rectify(x: Tensor, low: float = 0.0, high: float = math.inf, rule: ReluRule | None = None) -> Tensor:
    """Clamp to ``[low, high]`` with the backward pass of the rule.

    With a finite upper bound (ReLU6) "backprop" and "guided" pass nothing where the unit is saturated, at
    either bound. "deconvnet" looks at the incoming gradient alone, as it does for a plain rectifier, so it
    passes positive gradients through saturated units too. Where x equals a bound exactly the derivative is 0,
    as in torch's relu and relu6.
    """
    if rule is None or rule is ReluRule.BACKPROP:
        if low == 0.0 and high == math.inf:
            return functional.relu(x)
        return functional.hardtanh(x, low, high) if low < high else torch.clamp(x, low, high)
    function = _Guided if rule is ReluRule.GUIDED else _Deconvnet
    out: Tensor = function.apply(x, low, high)  # type: ignore[no-untyped-call]
    return out


class _Guided(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward((x > low) & (x < high))
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (linear,) = ctx.saved_tensors
        return gradients[0].clamp(min=0) * linear, None, None


class _Deconvnet(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0].clamp(min=0), None, None
