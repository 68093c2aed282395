"""The ONNX standard's own node tests, for every operator a convolutional network may have."""

from __future__ import annotations

import fnmatch
import warnings
from collections import defaultdict
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from onnxvis.converters import convert
from onnxvis.errors import ConversionError, UnsupportedOperatorError

_NAMES = """
Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization
BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu CenterCropPad Clip Col2Im
Compress Concat Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumProd CumSum DeformConv
DepthToSpace DequantizeLinear Det Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike
Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater
GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Hardmax Identity If InstanceNormalization
IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop LpNormalization
LpPool MatMul MatMulInteger Max MaxPool MaxUnpool Mean MeanVarianceNormalization Min Mish Mod Mul Neg
NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear
RMSNormalization RNN Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign Round Scatter
ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign
SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze
Upsample Where Xor
"""
OPERATORS = _NAMES.split()

REFUSED = {
    "test_batchnorm_*_training_mode*": "training mode",
    "test_bitshift_left_uint[136]*": "torch has no bit operations on these types",
    "test_bitwise_not_3d": "uint16, as above",
    "test_cast*_to_*INT[24]*": "types that torch does not have",
    "test_cast*_to_FLOAT[48]E*": "float types whose rounding is not imitated",
    "test_equal_string*": "text",
    "test_identity_opt": "optional values",
    "test_identity_sequence": "sequences of tensors",
    "test_if_opt": "optional values",
    "test_if_seq": "sequences of tensors",
    "test_loop13_seq": "sequences of tensors",
    "test_loop16_seq_none": "sequences of tensors",
    "test_quantizelinear_e[45]m*": "float types whose rounding is not imitated",
    "test_quantizelinear_float4e2m1": "float types whose rounding is not imitated",
    "test_quantizelinear_*int2": "types that torch does not have",
    "test_roialign_mode_max": "mode max takes the maximum of weighted corners, not of samples",
    "test_training_dropout*": "training mode",
}
DIFFERENT = {
    "test_resize_downsample_scales_cubic_align_corners": "we divide by the whole size, as onnxruntime does",
    "test_resize_downsample_scales_linear_align_corners": "we divide by the whole size, as onnxruntime does",
}
# Integer results that are emulated in floating point so that gradients pass.
EMULATED = {
    "ConvInteger",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
}
# The working type is float32: what a case computes in half precision agrees up to that type's rounding.
ROUNDING = {"float16": 2e-3, "bfloat16": 1.6e-2}


@pytest.fixture(scope="module")
def cases() -> dict[str, list[Any]]:
    """The standard's cases by operator; "expanded" ones belong to the operator they spell out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        collected = collect_testcases(None)
    owner: dict[str, str] = {}
    found: dict[str, list[Any]] = defaultdict(list)
    for case in collected:
        base = case.name.split("_expanded")[0]
        if base == case.name:
            owner[base] = case.model.graph.node[-1].op_type
        found[owner.get(base, "")].append(case)
    return found


def _array(value: Any) -> np.ndarray[Any, Any]:
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def _tensor(value: Any) -> torch.Tensor:
    array = _array(value)
    if array.dtype.kind in "OUS":
        raise UnsupportedOperatorError("text")
    if array.dtype.kind == "f" or "float" in str(array.dtype):
        return torch.from_numpy(array.astype(np.float32))
    if str(array.dtype) in ("uint16", "uint32", "uint64"):
        return torch.from_numpy(array.astype(np.int64)).to(torch.int32 if array.dtype == np.uint16 else torch.int64)
    if array.dtype.kind not in "biu":
        array = array.astype(np.int8)
    return torch.from_numpy(array.copy())


def _run(case: Any, operator: str) -> None:
    graph = convert(case.model)
    for inputs, outputs in case.data_sets:
        feeds = {value.name: _tensor(data) for value, data in zip(case.model.graph.input, inputs, strict=False)}
        made = graph(feeds)
        for value, data in zip(case.model.graph.output, outputs, strict=True):
            expected, got = _array(data), made[value.name].numpy()
            assert got.shape == expected.shape, (case.name, value.name)
            real = expected.dtype.kind == "f" or "float" in str(expected.dtype)
            assert real == (got.dtype.kind == "f") or operator in EMULATED, (case.name, value.name, got.dtype)
            np.testing.assert_allclose(
                got.astype(np.float64),
                expected.astype(np.float64),
                rtol=max(case.rtol, ROUNDING.get(str(expected.dtype), 0.0)),
                atol=max(case.atol, 5e-7),
                err_msg=f"{case.name}: {value.name}",
            )


def _listed(name: str, table: dict[str, str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in table)


@pytest.mark.parametrize("operator", OPERATORS)
def test_standard_cases(operator: str, cases: dict[str, list[Any]]) -> None:
    assert cases[operator], "the standard has no case for this operator"
    for case in cases[operator]:
        if _listed(case.name, REFUSED):
            with pytest.raises((ConversionError, UnsupportedOperatorError)):
                _run(case, operator)
        elif case.name in DIFFERENT:
            with pytest.raises(AssertionError):
                _run(case, operator)
        else:
            _run(case, operator)


def test_pass_rate(cases: dict[str, list[Any]]) -> None:
    names = [case.name for operator in OPERATORS for case in cases[operator]]
    # Number formats that no torch tensor can hold are not about convolutional networks.
    exotic = ["*INT[24]*", "*FLOAT[48]E*", "*e[0-9]m*", "*int2", "*float4*", "*_string*", "*_seq*", "*_opt*"]
    applicable = [name for name in names if not any(fnmatch.fnmatchcase(name, p) for p in exotic)]
    failed = [name for name in applicable if _listed(name, REFUSED) or name in DIFFERENT]
    assert len(applicable) > 900
    assert len(failed) <= 0.02 * len(applicable)
