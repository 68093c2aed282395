"""Bring Upsample and the first Resize to the Resize of opset 17.

    y = Upsample<scales=[1,1,2,2]>(x)                 ->   y = Resize<asymmetric, floor>(x, , [1,1,2,2])
    y = Upsample(x, scales)  y = Resize-10(x, scales) ->   y = Resize<asymmetric, ...>(x, , scales)

The first Resize rounds up where it shrinks and down where it enlarges, as onnxruntime does; with one
rounding mode for all axes it can be written only where the axes agree.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import Patch, Rewrite, constant_of, input_of, nodes_of, opset_of

__all__ = ["REWRITE"]

_TODAYS_RESIZE = 11
_MODES = {"nearest": "nearest", "linear": "linear", "bilinear": "linear", "cubic": "cubic"}


def _scales(model: ir.Model, node: ir.Node) -> ir.Value | None:
    given = node.attributes.get_floats("scales", None)
    if given is not None:
        return Patch(model, node).constant("scales", np.asarray(given, np.float32))
    if "height_scale" in node.attributes:  # Upsample of opset 1
        factors = [1.0, 1.0, *(node.attributes.get_float(f"{side}_scale") for side in ("height", "width"))]
        return Patch(model, node).constant("scales", np.asarray(factors, np.float32))
    return input_of(node, 1)


def _rounding(node: ir.Node, mode: str) -> str | None:
    if mode != "nearest":
        return "floor"
    factors = node.attributes.get_floats("scales", None)
    known = constant_of(input_of(node, 1)) if factors is None else np.asarray(factors)
    if node.op_type == "Upsample":
        return "floor"
    if known is None:
        return None
    if (known >= 1).all():
        return "floor"
    return "ceil" if (known <= 1).all() else None


def _apply(model: ir.Model) -> int:
    if opset_of(model) >= _TODAYS_RESIZE:
        return 0
    count = 0
    for node in nodes_of(model, "Upsample", "Resize"):
        if _is_todays(node):
            continue
        mode = _MODES.get(node.attributes.get_string("mode", "nearest"))
        rounding = None if mode is None else _rounding(node, mode)
        scales = _scales(model, node)
        if scales is None or mode is None or rounding is None:
            continue
        patch = Patch(model, node)
        attributes = {"mode": mode, "coordinate_transformation_mode": "asymmetric"}
        if mode == "nearest":
            attributes["nearest_mode"] = rounding
        patch.replace(patch.op("Resize", node.inputs[0], None, scales, **attributes))
        count += 1
    return count


def _is_todays(node: ir.Node) -> bool:
    return node.op_type == "Resize" and "coordinate_transformation_mode" in node.attributes


REWRITE = Rewrite("upsample", "Upsample and the first Resize written as the Resize of opset 17", _apply, "form")
