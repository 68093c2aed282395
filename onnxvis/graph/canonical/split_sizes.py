"""Bring Split to opset 17: sizes as an input, neither as an attribute nor by ``num_outputs``.

    a, b = Split<num_outputs=2>(x)    ->   a, b = Split(x, [n0, n1])
    a, b = Split<split=[3, 5]>(x)     ->   a, b = Split(x, [3, 5])

The sizes follow the standard: equal chunks, the last one smaller if it does not divide. Without a known
extent the chunks must be equal, so ``num_outputs`` can go only where the extent is known or a multiple.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import Patch, Rewrite, input_of, nodes_of, shape_of

__all__ = ["REWRITE"]


def _equal_chunks(node: ir.Node) -> list[int] | None:
    dims, parts = shape_of(node.inputs[0]), len(node.outputs)
    extent = None if dims is None else dims[node.attributes.get_int("axis", 0)]
    if not isinstance(extent, int):
        return None
    chunk = -(-extent // parts)
    return [chunk] * (parts - 1) + [extent - chunk * (parts - 1)]


def _apply(model: ir.Model) -> int:
    count = 0
    for node in nodes_of(model, "Split"):
        sizes = node.attributes.get_ints("split", None)
        if sizes is None and "num_outputs" in node.attributes and input_of(node, 1) is None:
            sizes = _equal_chunks(node)
            if sizes is None:
                continue
        elif sizes is None and "num_outputs" not in node.attributes:
            continue
        if sizes is not None:
            node.resize_inputs(2)
            node.replace_input_with(1, Patch(model, node).constant("sizes", np.asarray(sizes, np.int64)))
        node.attributes.pop("split", None)
        node.attributes.pop("num_outputs", None)
        count += 1
    return count


REWRITE = Rewrite("split-sizes", "Split brought to opset 17: sizes as an input", _apply, "form")
