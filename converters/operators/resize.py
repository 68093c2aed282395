"""Resize and Upsample through one interpolation matrix per axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from onnxvis.converters.interpolation import COORDINATES, MODES, NEAREST, AxisResize, axis_matrix, outside
from onnxvis.converters.registry import Node, Operator, converter, operator

__all__ = ["resize"]


@dataclass(frozen=True)
class _Request:
    """What a node asks for, apart from sizes."""

    template: AxisResize
    axes: tuple[int, ...] | None = None
    policy: str = "stretch"
    extrapolation: float = 0.0


def resize(x: Tensor, axes: dict[int, AxisResize], extrapolation: float = 0.0) -> Tensor:
    """Resize the given axes of x.

    A nearest axis is a selection; any other is a product with its ``(made, size)`` matrix.
    """
    beyond: Tensor | None = None
    for axis, how in axes.items():
        if how.coordinates == "tf_crop_and_resize":
            shape = [1] * x.dim()
            shape[axis] = -1
            line = torch.from_numpy(outside(how)).to(x.device).reshape(shape)
            beyond = line if beyond is None else beyond | line
        if how.trivial:
            continue
        matrix = torch.from_numpy(axis_matrix(how))
        if how.mode == "nearest":
            x = x.index_select(axis, matrix.argmax(dim=1).to(x.device))
        else:
            x = torch.tensordot(x, matrix.to(x), dims=([axis], [1])).movedim(-1, axis)
    return x if beyond is None else torch.where(beyond, extrapolation, x)


def _apply(
    x: Tensor,
    request: _Request,
    scales: Sequence[float] | None,
    sizes: Sequence[int] | None,
    crop: Sequence[float] | None,
) -> Tensor:
    along = list(range(x.dim())) if request.axes is None else [axis % x.dim() for axis in request.axes]
    have = [x.shape[axis] for axis in along]
    if sizes is not None:
        ratios = [size / n for size, n in zip(sizes, have, strict=True)]
        if request.policy != "stretch":
            ratio = min(ratios) if request.policy == "not_larger" else max(ratios)
            ratios = [ratio] * len(along)
            sizes = [math.floor(ratio * n + 0.5) for n in have]
        made = list(sizes)
    elif scales is not None:
        ratios = list(scales)
        made = [math.floor(n * ratio) for n, ratio in zip(have, ratios, strict=True)]
    else:
        raise ValueError("neither scales nor sizes are given")
    if made == have:  # onnxruntime copies then, whatever the scales say
        return x
    starts, ends = (crop[: len(along)], crop[len(along) :]) if crop else ([0.0] * len(along), [1.0] * len(along))
    plans = {
        axis: replace(request.template, size=n, made=m, scale=ratio, start=start, end=end)
        for axis, n, m, ratio, start, end in zip(along, have, made, ratios, starts, ends, strict=True)
    }
    return resize(x, plans, request.extrapolation)


def _given(value: Tensor | None) -> list[float] | None:
    """An empty tensor stands for an input that is left out."""
    return None if value is None or value.numel() == 0 else [float(v) for v in value.tolist()]


@converter("Upsample")
def _upsample_attributes(node: Node) -> Operator:
    request, scales = _asymmetric(node), node.attr("scales")
    if scales is None:
        scales = [1.0, 1.0, node.attr("height_scale"), node.attr("width_scale")]
    return operator(node, lambda x: _apply(x, request, scales, None, None))


@converter("Upsample", since=9)
@converter("Resize", since=10)
def _scaled(node: Node) -> Operator:
    request = _asymmetric(node)
    return operator(node, lambda x, scales: _apply(x, request, _given(scales), None, None), host=(1,))


def _asymmetric(node: Node) -> _Request:
    mode = {"bilinear": "linear"}.get(node.attr("mode", "nearest"), node.attr("mode", "nearest"))
    if mode not in ("nearest", "linear"):
        raise node.refuse(f"mode {mode!r} is unknown")
    return _Request(AxisResize(0, 0, 1.0, mode, "asymmetric", "floor"))


@converter("Resize", since=11)
def _resize(node: Node) -> Operator:
    mode = node.attr("mode", "nearest")
    coordinates = node.attr("coordinate_transformation_mode", "half_pixel")
    nearest = node.attr("nearest_mode", "round_prefer_floor")
    for value, allowed in ((mode, MODES), (coordinates, COORDINATES), (nearest, NEAREST)):
        if value not in allowed:
            raise node.refuse(f"{value!r} is none of {', '.join(allowed)}")
    template = AxisResize(
        0,
        0,
        1.0,
        mode,
        coordinates,
        nearest,
        node.attr("cubic_coeff_a", -0.75),
        bool(node.attr("exclude_outside", 0)),
        bool(node.attr("antialias", 0)),
    )
    axes = node.attr("axes")
    request = _Request(
        template,
        None if axes is None else tuple(axes),
        node.attr("keep_aspect_ratio_policy", "stretch"),
        node.attr("extrapolation_value", 0.0),
    )
    crops = coordinates == "tf_crop_and_resize"

    def run(x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
        wanted = _given(sizes)
        whole = None if wanted is None else [int(size) for size in wanted]
        return _apply(x, request, _given(scales), whole, _given(roi) if crops else None)

    return operator(node, run, host=(1, 2, 3))
