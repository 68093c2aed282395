"""Write GroupNormalization with InstanceNormalization.

    y = GroupNormalization<num_groups=g>(x, scale, bias)   ->   r = Reshape(x, [0, g, -1])
                                                                i = InstanceNormalization(r, 1, 0)
                                                                n = Reshape(i, Shape(x))
                                                                y = Add(Mul(n, scale), bias)

Up to opset 20 scale and bias belong to the groups, since 21 to the channels.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import Patch, Rewrite, dtype_of, nodes_of, opset_of, shape_of

__all__ = ["REWRITE"]

_PER_CHANNEL = 21


def _apply(model: ir.Model) -> int:
    count = 0
    for node in nodes_of(model, "GroupNormalization"):
        x, scale, bias = node.inputs[:3]
        dims, groups = shape_of(x), node.attributes.get_int("num_groups", 1)
        if dims is None:
            continue
        patch, kind = Patch(model, node), (dtype_of(x) or ir.DataType.FLOAT).numpy()
        per_group = opset_of(model) < _PER_CHANNEL
        grouped = patch.op(
            "Reshape", x, patch.constant("groups", np.asarray([0, groups, -1], np.int64)), hint="grouped"
        )
        gain = scale if per_group else patch.constant("ones", np.ones(groups, kind))
        shift = bias if per_group else patch.constant("zeros", np.zeros(groups, kind))
        epsilon = node.attributes.get_float("epsilon", 1e-5)
        normal = patch.op("InstanceNormalization", grouped, gain, shift, epsilon=epsilon, hint="normalized")
        value = patch.op("Reshape", normal, patch.op("Shape", x), hint="ungrouped")
        if not per_group:
            shape = patch.constant("per_channel", np.asarray([-1] + [1] * (len(dims) - 2), np.int64))
            value = patch.op("Mul", value, patch.op("Reshape", scale, shape, hint="scale"), hint="scaled")
            value = patch.op("Add", value, patch.op("Reshape", bias, shape, hint="bias"), hint="shifted")
        patch.replace(value)
        count += 1
    return count


REWRITE = Rewrite("group-norm", "GroupNormalization written with InstanceNormalization", _apply, "modern")
