"""Gradients of every operator family against central finite differences, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.onnx_nodes import Array, single

from onnxvis.converters import convert

RNG = np.random.default_rng(3)


def _r(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def _apart(*shape: int) -> Array:
    """Values at least 0.05 from each other and from 0: no maximum changes hands in a small step."""
    values = (np.arange(int(np.prod(shape))) - np.prod(shape) / 2 + 0.5) * 0.11
    return RNG.permutation(values).reshape(shape).astype(np.float32)


def _i(*values: int) -> Array:
    return np.array(values, np.int64)


def _positive(*shape: int) -> Array:
    return (np.abs(_r(*shape)) + 0.5).astype(np.float32)


Case = tuple[str, dict[str, Array | None], dict[str, Any]]
_CASES: list[Case] = [
    (
        "Conv",
        {"x": _r(1, 4, 6, 5), "w": _r(6, 2, 3, 2), "b": _r(6)},
        {"group": 2, "strides": [2, 1], "pads": [1, 0, 0, 1]},
    ),
    ("Conv", {"x": _r(1, 2, 7), "w": _r(3, 2, 3)}, {"auto_pad": "SAME_UPPER", "strides": [2]}),
    ("Conv", {"x": _r(1, 1, 4, 4, 4), "w": _r(2, 1, 2, 2, 2)}, {"dilations": [2, 1, 1]}),
    (
        "ConvTranspose",
        {"x": _r(1, 2, 3, 4), "w": _r(2, 3, 3, 2), "b": _r(3)},
        {"strides": [2, 2], "pads": [1, 0, 0, 1]},
    ),
    ("DeformConv", {"x": _r(1, 2, 5, 5), "w": _r(2, 2, 2, 2), "o": 0.3 * _r(1, 8, 4, 4)}, {"opset": 19}),
    (
        "Gemm",
        {"a": _r(3, 2), "b": _r(4, 3), "c": _r(4)},
        {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0},
    ),
    ("MatMul", {"a": _r(2, 3, 4), "b": _r(4, 2)}, {}),
    ("Einsum", {"a": _r(2, 3), "b": _r(3, 4)}, {"equation": "ij,jk->ki"}),
    (
        "MaxPool",
        {"x": _apart(1, 2, 5, 6)},
        {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1], "ceil_mode": 1},
    ),
    (
        "AveragePool",
        {"x": _r(1, 2, 5, 6)},
        {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 0, 1], "ceil_mode": 1},
    ),
    ("LpPool", {"x": _apart(1, 2, 5)}, {"kernel_shape": [2], "p": 3, "opset": 18}),
    ("GlobalAveragePool", {"x": _r(2, 3, 4, 2)}, {}),
    ("GlobalMaxPool", {"x": _apart(2, 3, 4, 2)}, {}),
    ("GlobalLpPool", {"x": _r(2, 3, 4, 2)}, {"p": 2}),
    ("BatchNormalization", {"x": _r(2, 3, 4), "s": _r(3), "b": _r(3), "m": _r(3), "v": _positive(3)}, {}),
    ("InstanceNormalization", {"x": _r(2, 3, 4), "s": _r(3), "b": _r(3)}, {}),
    ("GroupNormalization", {"x": _r(2, 4, 3), "s": _r(4), "b": _r(4)}, {"num_groups": 2, "opset": 21}),
    ("LayerNormalization", {"x": _r(2, 3, 4), "s": _r(3, 4), "b": _r(3, 4)}, {"axis": 1}),
    ("LRN", {"x": _r(1, 5, 2, 2)}, {"size": 4, "alpha": 0.5}),
    ("LpNormalization", {"x": _r(3, 4)}, {"axis": 1}),
    ("MeanVarianceNormalization", {"x": _r(2, 2, 3, 2)}, {}),
    ("Relu", {"x": _apart(3, 4)}, {}),
    ("Clip", {"x": _apart(5, 5), "low": np.float32(-0.5), "high": np.float32(0.53)}, {}),
    ("LeakyRelu", {"x": _apart(3, 4)}, {"alpha": 0.3}),
    ("PRelu", {"x": _apart(2, 3, 4), "slope": _r(3, 1)}, {}),
    ("Elu", {"x": _apart(3, 4)}, {"alpha": 1.5}),
    ("Selu", {"x": _apart(3, 4)}, {}),
    ("Celu", {"x": _apart(3, 4)}, {"alpha": 2.0}),
    ("ThresholdedRelu", {"x": _apart(4, 6)}, {"alpha": 0.6}),
    ("HardSigmoid", {"x": _apart(5, 5)}, {"alpha": 0.9}),
    ("HardSwish", {"x": _apart(8, 8)}, {}),
    ("Sigmoid", {"x": _r(3, 4)}, {}),
    ("Tanh", {"x": _r(3, 4)}, {}),
    ("Softplus", {"x": 10 * _r(3, 4)}, {}),
    ("Softsign", {"x": _r(3, 4)}, {}),
    ("Gelu", {"x": _r(3, 4)}, {"approximate": "tanh", "opset": 20}),
    ("Mish", {"x": _r(3, 4)}, {"opset": 18}),
    ("Softmax", {"x": _r(2, 3, 2)}, {"axis": 1, "opset": 11}),
    ("LogSoftmax", {"x": _r(2, 3, 2)}, {"axis": 1}),
    ("Div", {"a": _r(2, 3), "b": _positive(1, 3)}, {}),
    ("Pow", {"a": _positive(2, 3), "b": _r(3)}, {}),
    ("Max", {"a": _apart(2, 6), "b": _apart(2, 6) + np.float32(0.03)}, {}),
    ("Where", {"c": np.array([True, False, True]), "a": _r(2, 3), "b": _r(3)}, {}),
    ("Erf", {"x": _r(3, 4)}, {}),
    ("ReduceMean", {"x": _r(2, 3, 4), "axes": _i(-1, 1)}, {"opset": 18, "keepdims": 0}),
    ("ReduceMax", {"x": _apart(2, 3, 4)}, {"axes": [1], "opset": 13}),
    ("ReduceL2", {"x": _r(2, 3, 4)}, {"axes": [0, 2]}),
    ("ReduceLogSumExp", {"x": _r(2, 3)}, {}),
    ("ReduceProd", {"x": _positive(2, 3)}, {}),
    ("CumSum", {"x": _r(2, 4), "axis": np.int64(1)}, {"exclusive": 1, "reverse": 1}),
    ("Reshape", {"x": _r(2, 3, 4), "s": _i(0, -1)}, {}),
    ("Transpose", {"x": _r(2, 3, 4)}, {"perm": [2, 0, 1]}),
    ("Split", {"x": _r(2, 5), "s": _i(2, 3)}, {"axis": 1, "outputs": ("y", "z")}),
    ("Concat", {"a": _r(2, 2), "b": _r(2, 3)}, {"axis": 1}),
    ("Expand", {"x": _r(3, 1), "s": _i(2, 1, 4)}, {}),
    ("Tile", {"x": _r(2, 2), "r": _i(2, 3)}, {}),
    ("DepthToSpace", {"x": _r(1, 8, 2, 3)}, {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", {"x": _r(1, 2, 4, 2)}, {"blocksize": 2}),
    ("Slice", {"x": _r(5, 6), "s": _i(4, 1), "e": _i(-6, 6), "a": _i(0, 1), "t": _i(-2, 2)}, {}),
    ("Gather", {"x": _r(4, 3), "i": _i(0, -1, 0)}, {}),
    ("GatherElements", {"x": _r(3, 2), "i": _i(0, -1).reshape(1, 2)}, {}),
    ("GatherND", {"x": _r(3, 2, 2), "i": _i(0, 1, 2, 0).reshape(2, 2)}, {}),
    (
        "ScatterND",
        {"x": _r(4, 2), "i": _i(1, 3).reshape(2, 1), "u": _r(2, 2)},
        {"reduction": "add", "opset": 16},
    ),
    ("ScatterElements", {"x": _r(3, 3), "i": _i(0, 2).reshape(1, 2), "u": _r(1, 2)}, {}),
    ("TopK", {"x": _apart(3, 5), "k": _i(2)}, {"outputs": ("y", "i")}),
    ("Pad", {"x": _r(3, 4), "p": _i(1, -1, 2, 2)}, {"mode": "constant"}),
    ("Pad", {"x": _r(4, 5), "p": _i(2, 1, 0, 3)}, {"mode": "reflect"}),
    ("Pad", {"x": _r(3, 4), "p": _i(1, 1, 2, 2)}, {"mode": "edge"}),
    ("Pad", {"x": _r(3, 4), "p": _i(1, 1, 2, 2)}, {"mode": "wrap", "opset": 19}),
    (
        "Resize",
        {"x": _r(1, 1, 3, 4), "r": None, "s": np.array([1, 1, 2, 1.5], np.float32)},
        {"mode": "linear"},
    ),
    (
        "Resize",
        {"x": _r(1, 1, 5, 4), "r": None, "s": np.array([1, 1, 0.6, 2], np.float32)},
        {"mode": "cubic", "antialias": 1, "opset": 18},
    ),
    (
        "Resize",
        {"x": _r(1, 1, 3, 4), "r": None, "s": np.array([1, 1, 2, 2], np.float32)},
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    ("GridSample", {"x": _r(1, 2, 4, 4), "g": 0.3 * _r(1, 2, 3, 2)}, {"mode": "bilinear", "opset": 16}),
    (
        "RoiAlign",
        {"x": _r(1, 2, 6, 6), "b": np.array([[0.3, 0.4, 4.6, 5.1]], np.float32), "n": _i(0)},
        {"output_height": 2, "output_width": 2, "opset": 16, "only": ("x",)},
    ),
    (
        "LSTM",
        {"x": _r(3, 2, 2), "w": _r(2, 12, 2), "r": _r(2, 12, 3), "b": _r(2, 24)},
        {"hidden_size": 3, "direction": "bidirectional", "outputs": ("y", "h", "c")},
    ),
    (
        "GRU",
        {"x": _r(3, 2, 2), "w": _r(1, 9, 2), "r": _r(1, 9, 3), "b": _r(1, 18)},
        {"hidden_size": 3, "outputs": ("y", "h")},
    ),
    (
        "FusedConv",
        {"x": _r(1, 2, 4, 4), "w": _r(3, 2, 3, 3), "b": _r(3), "z": _r(1, 3, 2, 2)},
        {"activation": "LeakyRelu", "activation_params": [0.1], "domain": "com.microsoft"},
    ),
    ("FusedMatMul", {"a": _r(3, 2), "b": _r(3, 4)}, {"transA": 1, "alpha": 0.5, "domain": "com.microsoft"}),
    ("QuickGelu", {"x": _r(3, 4)}, {"domain": "com.microsoft"}),
]


@pytest.mark.parametrize("case", _CASES, ids=[f"{case[0]}-{i}" for i, case in enumerate(_CASES)])
def test_gradient_is_the_slope(case: Case) -> None:
    op_type, inputs, attributes = case
    attributes = dict(attributes)
    only = attributes.pop("only", None)
    floats = [
        name
        for name, value in inputs.items()
        if value is not None and value.dtype == np.float32 and (only is None or name in only)
    ]
    if op_type in ("Resize", "Clip"):
        floats = ["x"]
    constants = tuple(name for name, value in inputs.items() if value is not None and name not in floats)
    graph = convert(single(op_type, inputs, constants=constants, **attributes)).to_dtype(torch.float64)
    values = [torch.from_numpy(np.asarray(inputs[name])).double().requires_grad_() for name in floats]

    def run(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        made = graph(dict(zip(floats, given, strict=True)))
        return tuple(value for value in made.values() if value.is_floating_point())

    assert all(value.dtype == torch.float64 for value in run(*values))
    assert torch.autograd.gradcheck(run, values, eps=1e-5, atol=1e-6, rtol=1e-5)


def test_batch_norm_backward_in_every_layout() -> None:
    """torch's own eval-mode batch norm scrambles this gradient on the CPU without a word."""
    channels, epsilon = 4, 0.0
    inputs = {
        "x": _r(1, channels, 1, 5),
        "s": np.ones(channels, np.float32),
        "b": np.zeros(channels, np.float32),
        "m": np.zeros(channels, np.float32),
        "v": np.ones(channels, np.float32),
    }
    model = single("BatchNormalization", inputs, constants=("s", "b", "m", "v"), epsilon=epsilon)
    x = torch.from_numpy(inputs["x"]).requires_grad_()
    incoming = torch.randn(1, 5, channels, 1).permute(0, 2, 3, 1)
    (gradient,) = torch.autograd.grad(convert(model)({"x": x})["y"], x, incoming)
    torch.testing.assert_close(gradient, incoming, rtol=0, atol=0)


def test_lp_pool_of_nothing_has_gradient_zero() -> None:
    x = torch.zeros(1, 1, 4, requires_grad=True)
    y = convert(single("LpPool", {"x": x.detach().numpy()}, kernel_shape=[2], opset=18))({"x": x})["y"]
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, torch.zeros_like(x))
