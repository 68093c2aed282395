"""Pad in all its modes, with negative amounts (cropping) and with chosen axes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from onnxvis.converters.operators.indexing import slice_axis
from onnxvis.converters.registry import Node, Operator, converter, operator

__all__: list[str] = []

_MODES = ("constant", "reflect", "edge", "wrap")


def _mode(node: Node) -> str:
    mode = str(node.attr("mode", "constant"))
    if mode not in _MODES:
        raise node.refuse(f"mode {mode!r} is unknown")
    return mode


@converter("Pad")
def _pad_attributes(node: Node) -> Operator:
    amounts = node.attr("pads", node.attr("paddings"))
    mode, value = _mode(node), node.attr("value", 0.0)
    return operator(node, lambda x: _pad(x, amounts, None, mode, value))


@converter("Pad", since=11)
def _pad_inputs(node: Node) -> Operator:
    mode, known = _mode(node), node.constant(2)
    fixed = 0.0 if known is None or known.numel() == 0 else known.reshape(()).item()

    def run(x: Tensor, amounts: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
        fill = fixed if known is not None or value is None else value.reshape(()).item()
        return _pad(x, amounts.tolist(), None if axes is None else axes.tolist(), mode, fill)

    return operator(node, run, host=(1, 2, 3))


def _pad(x: Tensor, amounts: Sequence[int], axes: Sequence[int] | None, mode: str, value: float) -> Tensor:
    along = list(range(x.dim())) if axes is None else [axis % x.dim() for axis in axes]
    before, after = amounts[: len(along)], amounts[len(along) :]
    if mode == "constant":
        flat = [0, 0] * x.dim()
        for axis, low, high in zip(along, before, after, strict=True):
            place = 2 * (x.dim() - 1 - axis)
            flat[place : place + 2] = [low, high]
        return functional.pad(x, flat, value=value) if any(flat) else x
    for axis, low, high in zip(along, before, after, strict=True):
        x = slice_axis(x, axis, max(-low, 0), x.shape[axis] - max(-high, 0), 1)
        if low > 0 or high > 0:
            x = x.index_select(axis, _source(x.shape[axis], max(low, 0), max(high, 0), mode).to(x.device))
    return x


def _source(size: int, low: int, high: int, mode: str) -> Tensor:
    """Where each element of the padded axis comes from."""
    place = torch.arange(-low, size + high)
    if mode == "edge":
        return place.clamp(0, size - 1)
    if mode == "wrap":
        return place % size
    period = max(2 * (size - 1), 1)
    folded = place % period
    return torch.minimum(folded, period - folded) if size > 1 else torch.zeros_like(place)
