"""Write RMSNormalization with elementary operators.

y = RMSNormalization(x, scale)  ->   y = x / Sqrt(ReduceMean(x * x) + epsilon) * scale
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import Patch, Rewrite, dtype_of, nodes_of, shape_of

__all__ = ["REWRITE"]


def _root_mean_square(model: ir.Model, node: ir.Node) -> bool:
    x, dims, axis = node.inputs[0], shape_of(node.inputs[0]), node.attributes.get_int("axis", -1)
    if axis != -1 and dims is None:
        return False
    axes = [-1] if dims is None else list(range(axis % len(dims), len(dims)))
    patch, kind = Patch(model, node), (dtype_of(x) or ir.DataType.FLOAT).numpy()
    mean = patch.op("ReduceMean", patch.op("Mul", x, x, hint="squared"), axes=axes, keepdims=1)
    epsilon = patch.constant("epsilon", np.asarray(node.attributes.get_float("epsilon", 1e-5), kind))
    root = patch.op("Sqrt", patch.op("Add", mean, epsilon))
    patch.replace(patch.op("Mul", patch.op("Div", x, root), node.inputs[1], hint="scaled"))
    return True


def _apply(model: ir.Model) -> int:
    return sum(_root_mean_square(model, node) for node in nodes_of(model, "RMSNormalization"))


REWRITE = Rewrite("rms-norm", "RMSNormalization written with elementary operators", _apply, "form")
