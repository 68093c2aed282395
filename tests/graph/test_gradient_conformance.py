"""The gradient table on the ONNX standard's own float32 cases, against torch autograd in float64."""

from __future__ import annotations

import fnmatch
import warnings
from collections import defaultdict
from typing import Any

import numpy as np
import onnx
import pytest
from support.onnx_nodes import run_onnxruntime
from support.slopes import autograd, onnx_gradients, with_constants

from onnxvis.errors import ConversionError, ModelError, UnsupportedOperatorError
from onnxvis.graph.canonical import canonicalize
from onnxvis.graph.gradient import RULES

# Everything but these operators is differentiated by its first input alone.
MANY = {"Add", "Sub", "Mul", "Div", "Sum", "Mean", "Max", "Min", "MatMul", "Gemm", "Concat", "Where", "Einsum", "PRelu"}
REFUSED = (
    "one of its factors is a vector",
    "storage_order=1 is not supported",
    "cropping while resizing",
    "its form with axes or with a kept aspect ratio",
    "its reduction",
)
OTHER = {
    "test_l2normalization_axis_0": "a vector of length 0, whose direction has no derivative",
    "test_reshape_*allowzero*": "a tensor without values",
}


def listed(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in OTHER)


@pytest.fixture(scope="module")
def cases() -> dict[str, list[Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        collected = collect_testcases(None)
    found: dict[str, list[Any]] = defaultdict(list)
    for case in collected:
        if "_expanded" not in case.name and len(case.model.graph.node) == 1:
            found[case.model.graph.node[0].op_type].append(case)
    return found


def array(value: Any) -> np.ndarray[Any, Any]:
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def run(case: Any, operator: str) -> str:
    """What became of a case: "same", or why it cannot be compared here."""
    given = {v.name: array(a) for v, a in zip(case.model.graph.input, case.data_sets[0][0], strict=False)}
    floats = [name for name, value in given.items() if value.dtype == np.float32]
    output = case.model.graph.output[0].name
    wrt = floats if operator in MANY else floats[:1]
    if not wrt or (wrt[0] != case.model.graph.input[0].name and operator != "Where"):
        return "not float32"
    rest = {name: value for name, value in given.items() if name not in wrt}
    feeds = {name: given[name] for name in wrt}
    try:
        model = canonicalize(with_constants(case.model, rest)).model
        (made,) = run_onnxruntime(model, feeds, [output])
        if made.dtype != np.float32:
            return "not float32"
        cotangent = np.random.default_rng(0).standard_normal(made.shape).astype(np.float32)
        theirs = autograd(model, feeds, output, wrt, cotangent)
    except (ModelError, UnsupportedOperatorError, RuntimeError) as error:
        return f"no reference: {str(error)[:60]}"
    except Exception as error:
        if type(error).__module__.startswith("onnxruntime"):
            return "no kernel"
        raise
    try:
        ours = onnx_gradients(model, feeds, output, wrt, cotangent)
    except ConversionError as error:
        if not any(reason in str(error) for reason in REFUSED):
            raise
        return "refused"
    for name, mine, other in zip(wrt, ours, theirs, strict=True):
        assert mine.shape == other.shape, (case.name, name)
        scale = max(float(np.abs(other[np.isfinite(other)]).max(initial=0.0)), 1e-3)
        np.testing.assert_allclose(mine / scale, other / scale, rtol=0, atol=2e-5, err_msg=f"{case.name}: {name}")
    return "same"


@pytest.mark.slow
def test_all_standard_cases(cases: dict[str, list[Any]]) -> None:
    results = [run(case, op) for op in sorted(RULES) for case in cases[op] if not listed(case.name)]
    assert results.count("same") > 400
    assert results.count("refused") < 40


@pytest.mark.parametrize("operator", ["Conv", "MaxPool", "AveragePool", "Gemm", "Softmax", "ReduceMean", "Concat"])
def test_the_standard_cases_of_a_plain_network(operator: str, cases: dict[str, list[Any]]) -> None:
    results = [run(case, operator) for case in cases[operator] if case.model.ByteSize() < 5000]
    assert results.count("same") >= 4
