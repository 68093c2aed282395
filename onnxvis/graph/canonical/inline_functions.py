"""Inline local functions.

    y = my.domain.Block(x)   ->   c = Conv(x, w); y = Relu(c)

Tensors inside a function cannot be exposed or cut at; inlined they can.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from onnxvis.graph.canonical.rewrite import Rewrite

__all__ = ["REWRITE"]


def _apply(model: ir.Model) -> int:
    if not model.functions:
        return 0
    calls = sum(node.op_identifier() in model.functions for node in model.graph.all_nodes())
    InlinePass()(model)
    model.functions.clear()
    return max(calls, 1)


REWRITE = Rewrite("inline-functions", "local functions inlined, so that their tensors have addresses", _apply)
