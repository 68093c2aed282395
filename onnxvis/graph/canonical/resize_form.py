"""Bring Resize of opset 11 and of 18 and later to opset 17.

y = Resize<axes=[2,3]>(x, , [2,2])                      ->   y = Resize(x, , [1,1,2,2])
y = Resize<antialias=0, policy=stretch>(x, , s)         ->   y = Resize(x, , s)
y = Resize<tf_half_pixel_for_nn, floor>(x, , s)         ->   y = Resize<half_pixel, round_prefer_ceil>(x, , s)
y = Resize<antialias=1>(x, , s)                         ->   unchanged: opset 17 has nothing like it
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import Patch, Rewrite, constant_of, input_of, nodes_of, shape_of

__all__ = ["REWRITE"]

_MODE = "coordinate_transformation_mode"


def _spread_axes(model: ir.Model, node: ir.Node) -> bool:
    axes, dims = node.attributes.get_ints("axes", None), shape_of(node.inputs[0])
    if axes is None or dims is None or node.attributes.get_string(_MODE, "half_pixel") == "tf_crop_and_resize":
        return False
    places = [axis % len(dims) for axis in axes]
    for index, rest, kind in ((2, [1.0] * len(dims), np.float32), (3, list(dims), np.int64)):
        given = input_of(node, index)
        if given is None or shape_of(given) == (0,):
            continue
        array = constant_of(given)
        if array is None:
            return False
        full: list[object] = list(rest)
        for place, element in zip(places, array.reshape(-1).tolist(), strict=True):
            full[place] = element
        if any(not isinstance(element, int | float) for element in full):
            return False
        node.replace_input_with(index, Patch(model, node).constant("resize", np.asarray(full, kind)))
    node.attributes.pop("axes")
    return True


def _settle(model: ir.Model, node: ir.Node) -> bool:
    attributes, changed = node.attributes, False
    if "antialias" in attributes and not attributes.get_int("antialias"):
        attributes.pop("antialias")
        changed = True
    if attributes.get_string("keep_aspect_ratio_policy", "") == "stretch":
        attributes.pop("keep_aspect_ratio_policy")
        changed = True
    if attributes.get_string(_MODE, "") == "tf_half_pixel_for_nn":
        # floor((x + 0.5) / s) is round_prefer_ceil((x + 0.5) / s - 0.5)
        if (
            attributes.get_string("mode", "nearest") != "nearest"
            or attributes.get_string("nearest_mode", "") != "floor"
        ):
            return changed
        attributes[_MODE] = ir.AttrString(_MODE, "half_pixel")
        attributes["nearest_mode"] = ir.AttrString("nearest_mode", "round_prefer_ceil")
        changed = True
    if "axes" in attributes and "keep_aspect_ratio_policy" not in attributes:
        changed = _spread_axes(model, node) or changed
    return changed


def _apply(model: ir.Model) -> int:
    return sum(_settle(model, node) for node in nodes_of(model, "Resize"))


REWRITE = Rewrite("resize-form", "Resize brought to opset 17: all axes, no defaults of later versions", _apply, "form")
