"""Give Resize factors instead of sizes where they are known.

    y = Resize(x: [batch, c, 7, 7], , , [batch, c, 14, 14])   ->   y = Resize(x, , [1, 1, 2, 2])

A size that contains the batch is computed at run time; the factor is a constant. Only where the factor
reproduces the size exactly.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import Patch, Rewrite, constant_of, input_of, nodes_of
from onnxvis.graph.canonical.shape_arithmetic import partial_values, symbols_of

__all__ = ["REWRITE"]

_MODE = "coordinate_transformation_mode"


def _factor(before: object, after: object) -> float | None:
    if before == after:
        return 1.0
    if not isinstance(before, int) or not isinstance(after, int) or before <= 0:
        return None
    factor = float(np.float32(after / before))
    return (
        factor if math.floor(before * factor) == after == math.floor(np.float32(before) * np.float32(factor)) else None
    )


def _apply(model: ir.Model) -> int:
    count, found = 0, None
    for node in nodes_of(model, "Resize"):
        sizes, before = input_of(node, 3), symbols_of(node.inputs[0])
        if sizes is None or before is None or constant_of(sizes) is not None or "axes" in node.attributes:
            continue
        if node.attributes.get_string(_MODE, "half_pixel") == "tf_crop_and_resize":
            continue
        if node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
            continue
        found = partial_values(model) if found is None else found
        after = found[sizes].tolist() if sizes in found else []
        factors = [_factor(a, b) for a, b in zip(before, after, strict=False)]
        if len(after) != len(before) or None in factors:
            continue
        scales = Patch(model, node).constant("scales", np.asarray(factors, np.float32))
        node.resize_inputs(3)
        node.replace_input_with(2, scales)
        count += 1
    return count


REWRITE = Rewrite(
    "resize-scales", "Resize given constant factors where its sizes contain the free batch", _apply, "modern"
)
