"""Let a convolution pad for itself.

    p = Pad<constant>(x, [0,0,t,l, 0,0,b,r], 0)
    y = Conv<pads=[0,0,0,0]>(p, w)                 ->   y = Conv<pads=[t,l,b,r]>(x, w)

Only where the convolution is the sole reader of ``p``. TensorFlow's SAME padding arrives in this form.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import Rewrite, constant_of, input_of, nodes_of

__all__ = ["REWRITE"]


def _spatial_widths(pad: ir.Node) -> list[int] | None:
    """Begin and end widths of the spatial axes, if nothing else is padded and the fill is zero."""
    widths, fill = constant_of(input_of(pad, 1)), constant_of(input_of(pad, 2))
    if widths is None or widths.size % 2 or pad.attributes.get_string("mode", "constant") != "constant":
        return None
    if input_of(pad, 3) is not None or (input_of(pad, 2) is not None and fill is None):
        return None
    rank, flat = widths.size // 2, [int(w) for w in widths.reshape(-1)]
    others = flat[:2] + flat[rank : rank + 2]
    if rank < 3 or any(others) or min(flat) < 0 or (fill is not None and fill.any()):
        return None
    return flat[2:rank] + flat[rank + 2 :]


def _apply(model: ir.Model) -> int:
    count = 0
    for node in nodes_of(model, "Conv"):
        source = node.inputs[0]
        pad = source.producer() if source is not None else None
        if source is None or pad is None or pad.op_type != "Pad" or pad.domain != node.domain:
            continue
        sole = len(source.uses()) == 1 and not source.is_graph_output() and pad.graph is node.graph
        widths = _spatial_widths(pad) if sole else None
        automatic = node.attributes.get_string("auto_pad", "NOTSET")
        if widths is None or automatic not in ("NOTSET", "VALID"):
            continue
        own = node.attributes.get_ints("pads", ()) if automatic == "NOTSET" else ()
        total = [a + b for a, b in zip(widths, own or [0] * len(widths), strict=True)]
        node.attributes.pop("auto_pad", None)
        node.attributes["pads"] = ir.AttrInt64s("pads", total)
        node.replace_input_with(0, pad.inputs[0])
        assert pad.graph is not None
        pad.graph.remove(pad, safe=True)
        count += 1
    return count


REWRITE = Rewrite("pad-into-conv", "zero padding before a convolution merged into the convolution", _apply, "modern")
