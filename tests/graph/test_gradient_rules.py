"""Every rule of the gradient table against central finite differences in float64, in onnxruntime.

Each case runs twice: with all sizes declared, and with none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.onnx_nodes import Array, run_onnxruntime, single
from support.slopes import differences, fixed_shapes, onnx_gradients

from onnxvis.errors import ConversionError
from onnxvis.graph.gradient import RULES

RNG = np.random.default_rng(5)


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


def _f(*values: float) -> Array:
    return np.array(values, np.float32)


def _conv(x: Array, w: Array, **attributes: Any) -> tuple[str, dict[str, Array | None], dict[str, Any]]:
    return ("Conv", {"x": x, "w": w, "b": _r(w.shape[0])}, {"only": ("x", "b"), **attributes})


Case = tuple[str, dict[str, Array | None], dict[str, Any]]
_PLAIN = {"x": _apart(3, 4)}
_UNARY: list[Case] = [
    (name, {"x": 0.6 * _apart(3, 4)}, {})
    for name in ("Neg", "Abs", "Exp", "Sin", "Cos", "Tan", "Atan", "Sinh", "Cosh", "Asinh", "Erf", "Identity")
]
_UNARY += [(name, {"x": _positive(3, 4)}, {}) for name in ("Log", "Sqrt", "Reciprocal")]
_UNARY += [(name, {"x": (0.2 * _r(3, 4)).clip(-0.8, 0.8)}, {}) for name in ("Asin", "Acos", "Atanh")]
_UNARY += [("Acosh", {"x": _positive(3, 4) + 1}, {})]
_UNARY += [
    (name, {"x": _apart(4, 6)}, {})
    for name in ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "HardSwish", "Selu", "Dropout")
]
_ACTIVATIONS: list[Case] = [
    ("Clip", {"x": _apart(5, 5), "low": np.float32(-0.5), "high": np.float32(0.53)}, {"only": ("x",)}),
    ("Clip", {"x": _apart(5, 5), "low": np.float32(-0.5)}, {"only": ("x",)}),
    ("LeakyRelu", _PLAIN, {"alpha": 0.3}),
    ("PRelu", {"x": _apart(2, 3, 4), "slope": _r(3, 1)}, {}),
    ("PRelu", {"x": _apart(2, 3, 4), "slope": _r(1)}, {}),
    ("Elu", _PLAIN, {"alpha": 1.5}),
    ("Selu", _PLAIN, {"alpha": 1.2, "gamma": 0.8}),
    ("Celu", _PLAIN, {"alpha": 2.0}),
    ("ThresholdedRelu", {"x": _apart(4, 6)}, {"alpha": 0.6}),
    ("HardSigmoid", {"x": _apart(5, 5)}, {"alpha": 0.9, "beta": 0.4}),
    ("Gelu", {"x": _r(3, 4)}, {"opset": 20}),
    ("Gelu", {"x": _r(3, 4)}, {"approximate": "tanh", "opset": 20}),
    ("Mish", {"x": _r(3, 4)}, {"opset": 18}),
    ("Shrink", {"x": _apart(3, 4)}, {"bias": 0.0, "lambd": 0.4}),
]
_BROADCAST: list[Case] = [
    (name, {"a": _apart(2, 3, 4), "b": _positive(*shape)}, {})
    for name in ("Add", "Sub", "Mul", "Div")
    for shape in ((2, 3, 4), (3, 1), (1, 1, 4), (1,))
]
_BROADCAST += [
    ("Mul", {"a": _r(3, 1), "b": _r(2, 1, 4)}, {}),
    ("Pow", {"a": _positive(2, 3), "b": _r(3)}, {}),
    ("Pow", {"a": _apart(2, 3), "b": _f(2.0)}, {"only": ("a",)}),
    ("Pow", {"a": _positive(2, 3), "b": _f(0.5)}, {"only": ("a",)}),
    ("Pow", {"a": _apart(2, 3), "b": _i(3)}, {"only": ("a",)}),
    ("Pow", {"a": _apart(2, 3), "b": _f(0.0)}, {"only": ("a",)}),
    ("Max", {"a": _apart(2, 6), "b": _apart(2, 6) + np.float32(0.03), "c": _f(0.21)}, {}),
    ("Min", {"a": _apart(2, 6), "b": _apart(6) + np.float32(0.03)}, {}),
    ("Sum", {"a": _r(2, 3), "b": _r(3), "c": _r(2, 1)}, {}),
    ("Mean", {"a": _r(2, 3), "b": _r(3), "c": _r(2, 1)}, {}),
    ("Where", {"c": np.array([True, False, True]), "a": _r(2, 3), "b": _r(3)}, {}),
    ("Mod", {"a": 3 * _positive(2, 3), "b": _f(1.7)}, {"fmod": 1, "only": ("a",)}),
    ("Expand", {"x": _r(3, 1), "s": _i(2, 1, 4)}, {}),
    ("Expand", {"x": _r(4), "s": _i(2, 4)}, {}),
]
_CONVOLUTIONS: list[Case] = [
    _conv(_r(2, 4, 6, 5), _r(6, 2, 3, 2), group=2, strides=[2, 1], pads=[1, 0, 0, 1]),
    _conv(_r(1, 8, 6, 5), _r(5, 8, 3, 2), pads=[1, 0, 2, 1]),
    _conv(_r(1, 8, 7, 7), _r(9, 8, 3, 3), pads=[2, 2, 2, 2], dilations=[2, 2]),
    _conv(_r(2, 8, 4, 4), _r(3, 8, 1, 1)),
    _conv(_r(1, 8, 4, 4), _r(3, 8, 1, 1), pads=[1, 1, 1, 1]),
    _conv(_r(1, 3, 5, 5), _r(4, 3, 3, 3), pads=[1, 1, 1, 1]),
    _conv(_r(1, 4, 6, 6), _r(4, 1, 3, 3), group=4, pads=[1, 1, 1, 1]),
    _conv(_r(1, 4, 7, 6), _r(8, 1, 3, 3), group=4, strides=[2, 2], pads=[1, 1, 1, 1]),
    _conv(_r(1, 2, 8, 6), _r(3, 2, 3, 3), strides=[3, 2], pads=[0, 1, 1, 0]),
    _conv(_r(1, 2, 9, 9), _r(3, 2, 2, 2), strides=[4, 4]),
    _conv(_r(1, 2, 6, 7), _r(3, 2, 3, 2), auto_pad="SAME_LOWER"),
    _conv(_r(1, 2, 6, 7), _r(3, 2, 3, 2), auto_pad="VALID", strides=[2, 2]),
    _conv(_r(1, 2, 7), _r(3, 2, 3), auto_pad="SAME_UPPER", strides=[2], static=True),
    _conv(_r(1, 1, 4, 4, 4), _r(2, 1, 2, 2, 2), dilations=[2, 1, 1]),
    (
        "ConvTranspose",
        {"x": _r(1, 2, 3, 4), "w": _r(2, 3, 3, 2), "b": _r(3)},
        {"strides": [2, 2], "pads": [1, 0, 0, 1], "only": ("x", "b")},
    ),
    (
        "ConvTranspose",
        {"x": _r(1, 4, 3, 4), "w": _r(4, 1, 3, 3)},
        {"strides": [2, 3], "output_padding": [1, 2], "group": 2, "only": ("x",)},
    ),
    (
        "ConvTranspose",
        {"x": _r(1, 2, 3, 3), "w": _r(2, 3, 3, 3)},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER", "only": ("x",), "static": True},
    ),
    (
        "ConvTranspose",
        {"x": _r(1, 2, 3, 3), "w": _r(2, 3, 3, 3)},
        {"strides": [2, 2], "output_shape": [6, 5], "only": ("x",), "static": True},
    ),
]
_POOLS: list[Case] = [
    (
        "MaxPool",
        {"x": _apart(2, 2, 5, 6)},
        {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1], "ceil_mode": 1},
    ),
    ("MaxPool", {"x": _apart(1, 2, 7, 6)}, {"kernel_shape": [3, 3], "strides": [1, 2], "dilations": [2, 1]}),
    ("MaxPool", {"x": _apart(1, 2, 6, 6)}, {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ("MaxPool", {"x": _apart(1, 2, 6)}, {"kernel_shape": [2]}),
    (
        "AveragePool",
        {"x": _r(2, 2, 5, 6)},
        {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 0, 1], "ceil_mode": 1},
    ),
    (
        "AveragePool",
        {"x": _r(1, 2, 6, 6)},
        {"kernel_shape": [3, 3], "strides": [2, 1], "pads": [1, 1, 1, 1], "count_include_pad": 1},
    ),
    ("AveragePool", {"x": _r(1, 2, 6, 7)}, {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    ("AveragePool", {"x": _r(1, 2, 6)}, {"kernel_shape": [3]}),
    ("AveragePool", {"x": _r(1, 1, 4, 3, 5)}, {"kernel_shape": [2, 2, 3], "strides": [2, 1, 2]}),
    ("GlobalAveragePool", {"x": _r(2, 3, 4, 2)}, {}),
    ("GlobalMaxPool", {"x": _apart(2, 3, 4, 2)}, {}),
]
_REDUCTIONS: list[Case] = [
    (name, {"x": _apart(2, 3, 4)}, {**axes})
    for name in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp")
    for axes in ({"axes": [1, -1], "keepdims": 0}, {"axes": [1]}, {})
]
_REDUCTIONS += [
    ("ReduceLogSum", {"x": _positive(2, 3, 4)}, {"axes": [2]}),
    ("ReduceSum", {"x": _r(2, 3, 4), "a": _i(0, 2)}, {"keepdims": 0}),
    ("ReduceSum", {"x": _r(2, 3, 4)}, {}),
    ("ReduceSum", {"x": _r(2, 3), "a": _i()}, {"noop_with_empty_axes": 1}),
    ("ReduceMean", {"x": _r(2, 3, 4), "axes": _i(-1, 1)}, {"opset": 18, "keepdims": 0}),
    ("Softmax", {"x": _r(2, 3, 2)}, {"axis": 1}),
    ("Softmax", {"x": _r(2, 3)}, {}),
    ("LogSoftmax", {"x": _r(2, 3, 2)}, {"axis": 1}),
    ("CumSum", {"x": _r(2, 4), "axis": np.int64(1)}, {"exclusive": 1, "reverse": 1}),
    ("CumSum", {"x": _r(2, 4), "axis": np.int64(0)}, {}),
    ("TopK", {"x": _apart(3, 5), "k": _i(2)}, {"outputs": ("y", "i")}),
    ("TopK", {"x": _apart(4, 3), "k": _i(2)}, {"outputs": ("y", "i"), "axis": 0, "largest": 0}),
]
_LINEAR: list[Case] = [
    ("MatMul", {"a": _r(2, 3, 4), "b": _r(4, 2)}, {}),
    ("MatMul", {"a": _r(2, 1, 3, 4), "b": _r(5, 4, 2)}, {}),
    ("MatMul", {"a": _r(3, 4), "b": _r(4, 2)}, {}),
    *[
        (
            "Gemm",
            {"a": _r(*((3, 2) if ta else (2, 3))), "b": _r(*((4, 3) if tb else (3, 4))), "c": _r(*c)},
            {"transA": ta, "transB": tb, "alpha": 0.5, "beta": 2.0},
        )
        for ta in (0, 1)
        for tb in (0, 1)
        for c in ((4,), (2, 1))
    ],
    ("Einsum", {"a": _r(2, 3), "b": _r(3, 4)}, {"equation": "ij,jk->ki"}),
    ("Einsum", {"a": _r(2, 3, 4), "b": _r(2, 5, 4)}, {"equation": "bic,bjc->bij"}),
]
_NORMALIZATIONS: list[Case] = [
    (
        "BatchNormalization",
        {"x": _r(2, 3, 4), "s": _r(3), "b": _r(3), "m": _r(3), "v": _positive(3)},
        {"only": ("x",), "epsilon": 0.1},
    ),
    ("InstanceNormalization", {"x": _r(2, 3, 4), "s": _r(3), "b": _r(3)}, {"only": ("x",), "epsilon": 0.1}),
    ("LayerNormalization", {"x": _r(2, 3, 4), "s": _r(3, 4), "b": _r(3, 4)}, {"axis": 1, "only": ("x",)}),
    ("LayerNormalization", {"x": _r(2, 3, 4), "s": _r(4)}, {"only": ("x",), "epsilon": 0.1}),
    ("LRN", {"x": _r(1, 5, 2, 2)}, {"size": 5, "alpha": 0.5, "bias": 1.5, "static": True}),
    ("LRN", {"x": _r(1, 5, 2, 2)}, {"size": 3, "alpha": 2.0, "beta": 0.5, "static": True}),
    ("LpNormalization", {"x": _r(3, 4)}, {"axis": 1}),
    ("LpNormalization", {"x": _apart(3, 4)}, {"axis": 0, "p": 1}),
    ("MeanVarianceNormalization", {"x": _r(2, 2, 3, 2)}, {}),
]
_MOVEMENTS: list[Case] = [
    ("Reshape", {"x": _r(2, 3, 4), "s": _i(0, -1)}, {}),
    ("Flatten", {"x": _r(2, 3, 4)}, {"axis": 2}),
    ("Squeeze", {"x": _r(2, 1, 4), "a": _i(1)}, {}),
    ("Unsqueeze", {"x": _r(2, 4), "a": _i(0, -1)}, {}),
    ("Transpose", {"x": _r(2, 3, 4)}, {"perm": [2, 0, 1]}),
    ("Transpose", {"x": _r(2, 3, 4)}, {}),
    ("Split", {"x": _r(2, 5), "s": _i(2, 3)}, {"axis": 1, "outputs": ("y", "z")}),
    ("Split", {"x": _r(4, 5), "s": _i(1, 1, 2)}, {"outputs": ("z", "y", "w")}),
    ("Concat", {"a": _r(2, 2), "b": _r(2, 3)}, {"axis": 1}),
    ("Concat", {"a": _r(2, 2), "b": _r(1, 2), "c": _r(3, 2)}, {"axis": -2}),
    ("Tile", {"x": _r(2, 2), "r": _i(2, 3)}, {}),
    ("DepthToSpace", {"x": _r(1, 8, 2, 3)}, {"blocksize": 2, "mode": "CRD"}),
    ("DepthToSpace", {"x": _r(1, 8, 2, 3)}, {"blocksize": 2, "mode": "DCR"}),
    ("SpaceToDepth", {"x": _r(1, 2, 4, 2)}, {"blocksize": 2}),
    ("Slice", {"x": _r(5, 6), "s": _i(4, 1), "e": _i(-6, 6), "a": _i(0, 1), "t": _i(-2, 2)}, {}),
    ("Slice", {"x": _r(5, 6), "s": _i(1, -4), "e": _i(4, 2**62)}, {}),
    ("Slice", {"x": _r(5, 6), "s": _i(2), "e": _i(-1), "a": _i(-1)}, {}),
    ("Gather", {"x": _r(4, 3), "i": _i(0, -1, 0)}, {}),
    ("Gather", {"x": _r(2, 4, 3), "i": np.int64(2)}, {"axis": 1}),
    ("GatherElements", {"x": _r(3, 2), "i": _i(0, -1).reshape(1, 2)}, {}),
    ("GatherND", {"x": _r(3, 2, 2), "i": _i(0, 1, 2, 0).reshape(2, 2)}, {}),
    ("ScatterND", {"x": _r(4, 2), "i": _i(1, 3).reshape(2, 1), "u": _r(2, 2)}, {}),
    ("ScatterElements", {"x": _r(3, 3), "i": _i(0, 2).reshape(1, 2), "u": _r(1, 2)}, {}),
    ("ScatterND", {"x": _r(4, 2), "i": _i(1, 1).reshape(2, 1), "u": _r(2, 2)}, {"reduction": "add"}),
    ("Trilu", {"x": _r(3, 4), "k": np.int64(1)}, {"upper": 0}),
    ("Pad", {"x": _r(3, 4), "p": _i(1, -1, 2, 2)}, {"mode": "constant"}),
    ("Pad", {"x": _r(4, 5), "p": _i(2, 1, 0, 3)}, {"mode": "reflect"}),
    ("Pad", {"x": _r(3, 4), "p": _i(1, 1, 2, 2)}, {"mode": "edge"}),
    ("Pad", {"x": _r(3, 4), "p": _i(1, 1, 2, 2)}, {"mode": "wrap", "opset": 19}),
    ("Pad", {"x": _r(3, 4), "p": _i(1, 2), "v": np.float32(0), "a": _i(-1)}, {"opset": 18, "only": ("x",)}),
]
_FOUR = (1, 2, 3, 4)
_RESIZES: list[Case] = [
    ("Resize", {"x": _r(*_FOUR), "r": None, "s": _f(1, 1, h, w)}, {"only": ("x",), **attributes})
    for h, w, attributes in (
        (2, 1.5, {"mode": "linear"}),
        (2, 2, {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
        (2, 3, {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
        (0.7, 2.4, {"mode": "nearest"}),
        (2, 1, {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}),
        (2, 2, {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1}),
        (0.67, 2, {"mode": "cubic", "antialias": 1, "opset": 18}),
    )
]
_RESIZES += [
    ("Resize", {"x": _r(*_FOUR), "r": None, "e": None, "s": _i(1, 2, 5, 4)}, {"mode": "linear", "only": ("x",)}),
    ("Resize", {"x": _r(2, 3, 4), "r": None, "s": _f(1, 1, 2)}, {"mode": "nearest", "only": ("x",)}),
]
_CASES = [
    *(_UNARY + _ACTIVATIONS + _BROADCAST + _CONVOLUTIONS + _POOLS + _REDUCTIONS),
    *(_LINEAR + _NORMALIZATIONS + _MOVEMENTS + _RESIZES),
]
# Their slopes have no finite difference; they are checked by hand, and on whole networks against torch.
_BY_HAND = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
# Written with elementary operators in the dialect, or with no kernel in onnxruntime at an operator set of the cases.
_NOT_HERE = {"Swish", "Cast", "CastLike", "Compress", "ReverseSequence"}


@pytest.mark.parametrize("free", [False, True], ids=["fixed", "free"])
@pytest.mark.parametrize("case", _CASES, ids=[f"{case[0]}-{i}" for i, case in enumerate(_CASES)])
def test_rule_is_the_slope(case: Case, free: bool) -> None:
    op_type, inputs, attributes = case
    options = dict(attributes)
    only, static = options.pop("only", None), options.pop("static", False)
    given = {name: value for name, value in inputs.items() if value is not None}
    wrt = [name for name, value in given.items() if value.dtype == np.float32 and (only is None or name in only)]
    constants = tuple(name for name in given if name not in wrt)
    feeds = {name: given[name] for name in wrt}
    model = single(op_type, inputs, constants=constants, **options)
    model = model if free else fixed_shapes(model, feeds)
    output = "y"
    (value,) = run_onnxruntime(model, feeds, [output])
    cotangent = np.random.default_rng(1).standard_normal(value.shape).astype(np.float32)
    if free and static:
        with pytest.raises(ConversionError, match=r"is free in this graph|not known before it runs"):
            onnx_gradients(model, feeds, output, wrt, cotangent)
        return
    found = onnx_gradients(model, feeds, output, wrt, cotangent)
    for name, ours, theirs in zip(wrt, found, differences(model, feeds, output, wrt, cotangent), strict=True):
        assert ours.shape == theirs.shape, name
        assert ours.dtype == np.float32
        scale = max(float(np.abs(theirs).max()), 1e-3)
        assert float(np.abs(ours - theirs).max()) / scale < 2e-5, name


def test_every_rule_has_a_case() -> None:
    assert set(RULES) - {case[0] for case in _CASES} == _BY_HAND | _NOT_HERE
