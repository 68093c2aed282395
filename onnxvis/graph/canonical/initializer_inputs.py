"""Remove initializers from the graph's inputs.

    inputs: x, w     initializers: w     ->     inputs: x     initializers: w

Up to IR version 3 every initializer had to be an input as well; the only real inputs are those
without a value. A later file may do the same to give an input a default: here it takes that value.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import Rewrite

__all__ = ["REWRITE"]

_FIRST_IR_WITHOUT = 4


def _apply(model: ir.Model) -> int:
    graph = model.graph
    doubled = [value for value in graph.inputs if value.name in graph.initializers]
    if doubled and len(doubled) == len(graph.inputs):
        return 0  # nothing could be fed any more: the values are defaults
    for value in doubled:
        graph.inputs.remove(value)
    raised = (model.ir_version or 0) < _FIRST_IR_WITHOUT
    if raised:
        model.ir_version = _FIRST_IR_WITHOUT
    return len(doubled)


REWRITE = Rewrite("initializer-inputs", "initializers removed from the graph's inputs (IR version 3 habit)", _apply)
