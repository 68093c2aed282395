"""Take fused activations out of onnxruntime's FusedConv and FusedGemm.

    y = com.microsoft.FusedConv<activation=Relu>(x, w, b, z)   ->   c = Conv(x, w, b)
                                                                    s = Add(c, z)
                                                                    y = Relu(s)

onnxruntime writes them into files saved after its EXTENDED optimizations. The tensors before the activation
are twins: the deployed graph does not have them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from onnxvis.graph.canonical.rewrite import Patch, Rewrite, input_of, nodes_of

__all__ = ["REWRITE"]

_PARAMETERS: dict[str, tuple[str, ...]] = {
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
    "Softplus": (),
    "HardSwish": (),
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Elu": ("alpha",),
}
_FUSED = {"FusedConv": "Conv", "FusedGemm": "Gemm"}
_OWN = ("activation", "activation_params", "activation_alpha", "activation_beta", "activation_gamma")


def _parameters(node: ir.Node) -> list[float]:
    if "activation_params" in node.attributes:
        return [float(p) for p in node.attributes.get_floats("activation_params", ())]
    names = [name for name in _OWN[2:] if name in node.attributes]
    return [float(node.attributes[name].as_float()) for name in names]


def _activate(patch: Patch, kind: str, value: ir.Value, given: list[float]) -> ir.Value:
    if kind == "Clip":
        low, high = (patch.constant(n, np.asarray(p, np.float32)) for n, p in zip(("min", "max"), given, strict=True))
        return patch.op("Clip", value, low, high)
    attributes: dict[str, Any] = dict(zip(_PARAMETERS[kind], given, strict=False))
    return patch.op(kind, value, **attributes)


def _apply(model: ir.Model) -> int:
    count = 0
    for node in nodes_of(model, *_FUSED, domain="com.microsoft"):
        kind = node.attributes.get_string("activation", "")
        given = _parameters(node)
        if kind not in ("", "Clip", *_PARAMETERS) or (kind == "Clip" and len(given) != 2):
            continue
        patch, plain = Patch(model, node), _FUSED[node.op_type]
        attributes = {name: a.value for name, a in node.attributes.items() if name not in _OWN}
        inputs = list(node.inputs[:3])
        while inputs and inputs[-1] is None:
            inputs.pop()
        value = patch.op(plain, *inputs, **attributes)
        summand = input_of(node, 3)
        if summand is not None:
            value = patch.op("Add", value, summand)
        patch.replace(_activate(patch, kind, value, given) if kind else value)
        count += 1
    return count


REWRITE = Rewrite("fused-activation", "onnxruntime's FusedConv and FusedGemm taken apart", _apply, "modern")
