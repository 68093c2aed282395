"""Fused float operators of the com.microsoft domain, as onnxruntime writes them into optimized files."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from onnxvis.converters.operators.activation import clip_bounds
from onnxvis.converters.operators.convolution import conv_function
from onnxvis.converters.operators.linear import gemm
from onnxvis.converters.operators.normalization import layer_norm
from onnxvis.converters.registry import MICROSOFT, ActivationKind, Node, Operator, converter, operator
from onnxvis.converters.relu import ReluRule, rectify

__all__: list[str] = []

Activation = Callable[[Tensor, ReluRule | None], Tensor]


def _fused_activation(node: Node) -> tuple[Activation | None, ActivationKind | None]:
    """The activation inside a fused node, and how a ReLU rule treats it."""
    name = node.attr("activation", "")
    values = list(node.attr("activation_params", ()))
    alpha = node.attr("activation_alpha", values[0] if values else None)
    beta = node.attr("activation_beta", values[1] if len(values) > 1 else None)
    gamma = node.attr("activation_gamma", values[2] if len(values) > 2 else None)
    if name == "":
        return None, None
    if name == "Relu":
        return (lambda x, rule: rectify(x, rule=rule)), ActivationKind.RELU_LIKE
    if name == "Clip":
        low, high = clip_bounds(alpha, beta)
        if low >= 0.0 and high > low:
            return (lambda x, rule: rectify(x, low, high, rule)), ActivationKind.RELU_LIKE
        return (lambda x, rule: x.clamp(low, high)), ActivationKind.PLAIN
    plain: dict[str, Callable[[Tensor], Tensor]] = {
        "Elu": lambda x: functional.elu(x, 1.0 if alpha is None else alpha),
        "HardSigmoid": lambda x: functional.hardtanh(
            x * (0.2 if alpha is None else alpha) + (0.5 if beta is None else beta), 0.0, 1.0
        ),
        "LeakyRelu": lambda x: functional.leaky_relu(x, 0.01 if alpha is None else alpha),
        "Selu": lambda x: (
            (1.0507009873554805 if beta is None else beta)
            * functional.elu(x, 1.6732632423543772 if alpha is None else alpha)
        ),
        "Sigmoid": torch.sigmoid,
        "Tanh": torch.tanh,
    }
    if name not in plain or gamma is not None:
        raise node.refuse(f"fused activation {name!r} is not supported")
    return (lambda x, rule: plain[name](x)), ActivationKind.PLAIN


@converter("FusedConv", domain=MICROSOFT)
def _fused_conv(node: Node) -> Operator:
    convolve = conv_function(node)
    activation, kind = _fused_activation(node)

    def run(
        x: Tensor, w: Tensor, b: Tensor | None = None, z: Tensor | None = None, rule: ReluRule | None = None
    ) -> Tensor:
        out = convolve(x, w, b)
        out = out if z is None else out + z
        return out if activation is None else activation(out, rule)

    return operator(node, run, activation=kind)


@converter("FusedGemm", domain=MICROSOFT)
def _fused_gemm(node: Node) -> Operator:
    alpha, beta = node.attr("alpha", 1.0), node.attr("beta", 1.0)
    flip = bool(node.attr("transA", 0)), bool(node.attr("transB", 0))
    activation, kind = _fused_activation(node)

    def run(a: Tensor, b: Tensor, c: Tensor | None = None, rule: ReluRule | None = None) -> Tensor:
        out = gemm(a, b, c, alpha=alpha, beta=beta, flip=flip)
        return out if activation is None else activation(out, rule)

    return operator(node, run, activation=kind)


@converter("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
def _fused_matmul(node: Node) -> Operator:
    alpha = node.attr("alpha", 1.0)
    flips = bool(node.attr("transA", 0)), bool(node.attr("transB", 0))
    if node.attr("transBatchA", 0) or node.attr("transBatchB", 0):
        raise node.refuse("transposed batch axes are not supported")

    def run(a: Tensor, b: Tensor) -> Tensor:
        a = a.transpose(-1, -2) if flips[0] and a.dim() > 1 else a
        b = b.transpose(-1, -2) if flips[1] and b.dim() > 1 else b
        out: Tensor = torch.matmul(a, b) * alpha
        return out

    return operator(node, run)


@converter("Gelu", "BiasGelu", domain=MICROSOFT)
def _gelu(node: Node) -> Operator:
    def run(x: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.gelu(x if bias is None else x + bias)

    return operator(node, run, activation=ActivationKind.PLAIN)


@converter("FastGelu", domain=MICROSOFT)
def _fast_gelu(node: Node) -> Operator:
    def run(x: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.gelu(x if bias is None else x + bias, approximate="tanh")

    return operator(node, run, activation=ActivationKind.PLAIN)


@converter("QuickGelu", domain=MICROSOFT)
def _quick_gelu(node: Node) -> Operator:
    alpha = node.attr("alpha", 1.702)
    return operator(node, lambda x: x * torch.sigmoid(alpha * x), activation=ActivationKind.PLAIN)


@converter("SkipLayerNormalization", domain=MICROSOFT)
def _skip_layer_norm(node: Node) -> Operator:
    epsilon = node.attr("epsilon", 1e-12)
    if node.wants(1) or node.wants(2):
        raise node.refuse("its mean and variance outputs are not supported")

    def run(
        x: Tensor, skip: Tensor, scale: Tensor, shift: Tensor | None = None, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        total = x + skip if bias is None else x + skip + bias
        out, mean, inverse = layer_norm(total, scale, shift, -1, epsilon)
        return out, mean, inverse, total

    return operator(node, run)


@converter("Pad", domain=MICROSOFT)
def _pad(node: Node) -> Operator:
    from onnxvis.converters.registry import find_converter

    standard = find_converter("", "Pad", 18)
    assert standard is not None
    return standard(node)
