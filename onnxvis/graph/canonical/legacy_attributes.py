"""Write out or drop attributes whose meaning or default changed before opset 17.

y = Relu<consumed_inputs>(x)               ->   y = Relu(x)
y = BatchNormalization<spatial=1>(x, ...)  ->   y = BatchNormalization(x, ...)
y = RoiAlign(x, rois, i)   (before 16)     ->   y = RoiAlign<mode=output_half_pixel>(x, rois, i)
y = Scatter(x, i, u)                       ->   y = ScatterElements(x, i, u)
"""

from __future__ import annotations

import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import Rewrite, is_default_domain, opset_of

__all__ = ["REWRITE"]

_ROI_ALIGN_CHANGED = 16
_MODE = "coordinate_transformation_mode"


def _modernize(node: ir.Node, version: int) -> bool:
    attributes = node.attributes
    if "consumed_inputs" in attributes:
        attributes.pop("consumed_inputs")
        return True
    if node.op_type == "BatchNormalization" and attributes.get_int("spatial", 0) == 1:
        attributes.pop("spatial")
        return True
    if node.op_type == "RoiAlign" and version < _ROI_ALIGN_CHANGED and _MODE not in attributes:
        attributes[_MODE] = ir.AttrString(_MODE, "output_half_pixel")
        return True
    if node.op_type == "Scatter":
        node.op_type = "ScatterElements"
        return True
    return False


def _apply(model: ir.Model) -> int:
    version = opset_of(model)
    return sum(_modernize(node, version) for node in model.graph.all_nodes() if is_default_domain(node))


REWRITE = Rewrite("legacy-attributes", "attributes of old operator sets written in today's terms", _apply, "form")
