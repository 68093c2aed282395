"""Half precision, 8-bit integers and the files that onnxruntime saves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.formats import (
    FLOAT,
    LIGHT,
    OrtError,
    Quantization,
    array_of,
    check,
    constants_of,
    convnet,
    feeds_of,
    half,
    light,
    model_of,
    operators,
    quantized,
    run,
    saved_by_onnxruntime,
)

from onnxvis.graph.canonical import Canonical, canonicalize
from onnxvis.graph.canonical.refusals import refusal

MICROSOFT = "com.microsoft"
RNG = np.random.default_rng(3)


def domains(result: Canonical) -> set[str]:
    return {node.domain for node in result.model.graph.node}


@pytest.mark.parametrize("keep_io_types", [True, False])
def test_half_precision_is_raised(keep_io_types: bool):
    plain = convnet(opset=17)
    model = half(plain, keep_io_types=keep_io_types)
    result = check(model, rtol=1e-2, atol=3e-3)
    assert all(array.dtype == np.float32 for array in constants_of(result).values())
    assert "Cast" not in operators(result)
    assert result.model.graph.input[0].type.tensor_type.elem_type == FLOAT
    assert result.model.graph.output[0].type.tensor_type.elem_type == FLOAT
    # Raised, the network is the float32 one with rounded weights: much nearer to it than to the half one.
    feeds = feeds_of(plain)
    np.testing.assert_allclose(run(result.model, feeds)[0], run(plain, feeds)[0], atol=2e-3)


def test_bfloat16_is_raised():
    weight = numpy_helper.from_array(array_of(3, 4), "w")
    raw = (numpy_helper.to_array(weight).view(np.uint32) >> 16).astype(np.uint16)
    bfloat = TensorProto(name="w", data_type=TensorProto.BFLOAT16, dims=[3, 4], raw_data=raw.tobytes())
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.BFLOAT16),
        helper.make_node("MatMul", ["h", "w"], ["m"]),
        helper.make_node("Cast", ["m"], ["y"], to=FLOAT),
    ]
    model = model_of(nodes, {"x": (FLOAT, [2, 3])}, ["y"], opset=17)
    model.graph.initializer.append(bfloat)
    result = canonicalize(model)
    exact = array_of(2, 3) @ (raw.astype(np.uint32) << 16).view(np.float32).reshape(3, 4)
    np.testing.assert_allclose(run(result.model, {"x": array_of(2, 3)})[0], exact, rtol=1e-5)


def test_double_stays():
    nodes = [helper.make_node("Mul", ["x", "k"], ["y"])]
    model = model_of(nodes, {"x": (TensorProto.DOUBLE, [2])}, ["y:DOUBLE"], {"k": np.float64([1 / 3, 2])})
    feeds = {"x": np.float64([1, 2])}
    result = check(model, feeds, rtol=1e-15, atol=1e-15)
    assert constants_of(result)["k"].dtype == np.float64


def test_casts_that_change_nothing_go():
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=FLOAT),
        helper.make_node("CastLike", ["a", "x"], ["b"]),
        helper.make_node("Cast", ["b"], ["c"], to=TensorProto.INT32),
        helper.make_node("Cast", ["c"], ["y"], to=FLOAT),
    ]
    assert operators(check(model_of(nodes, {"x": (FLOAT, [4])}, ["y"]))) == ["Cast", "Cast"]


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("form", ["qdq", "qoperator", "dynamic"])
def test_quantized_models_agree_to_the_quantum(form: Quantization, per_channel: bool):
    model = quantized(convnet(), form, per_channel=per_channel)
    # One quantum of the logits; requantization may round the other way where a sum lies halfway.
    result = check(model, rtol=0, atol=1e-5 if form == "dynamic" else 1.2e-2)
    assert domains(result) == {""}
    assert result.opset == 17
    assert refusal(result.model) is None
    weights = [n.input[1] for n in result.model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    assert all(constants_of(result)[name].dtype == np.float32 for name in weights)
    assert not [op for op in operators(result) if op.startswith("QLinear") or op.endswith("Integer")]


def test_quantized_tensors_keep_their_names_and_float_ones_are_twins():
    model = quantized(convnet(), "qoperator")
    result = canonicalize(model)
    names = {name for node in result.model.graph.node for name in node.output}
    kept = [n.output[0] for n in model.graph.node if n.op_type.startswith("QLinear")]
    assert kept
    assert set(kept) <= names
    assert result.twins == names - {name for node in model.graph.node for name in node.output}
    assert any(twin.endswith("_float") for twin in result.twins)


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_quantized_models_that_onnxruntime_optimized(form: Quantization):
    result = check(saved_by_onnxruntime(quantized(convnet(), form), "EXTENDED"), rtol=0, atol=1.2e-2)
    assert domains(result) == {""}


def scalar(value: float, kind: Any = np.float32) -> np.ndarray:
    return np.asarray(value, kind)


QUANTIZED: list[tuple[str, list[str], dict[str, Any]]] = [
    ("QLinearAdd", ["x", "sx", "zx", "k", "sk", "zk", "sy", "zy"], {}),
    ("QLinearMul", ["x", "sx", "zx", "k", "sk", "zk", "sy", "zy"], {}),
    ("QLinearSigmoid", ["x", "sx", "zx", "sy", "zy"], {}),
    ("QLinearLeakyRelu", ["x", "sx", "zx", "sy", "zy"], {"alpha": 0.2}),
    ("QLinearSoftmax", ["x", "sx", "zx", "sy", "zy"], {"axis": 1, "opset": 13}),
    ("QLinearSoftmax", ["x", "sx", "zx", "sy", "zy"], {"axis": 1, "opset": 11}),
    ("QLinearGlobalAveragePool", ["x", "sx", "zx", "sy", "zy"], {"channels_last": 0}),
    ("QLinearAveragePool", ["x", "sx", "zx", "sy", "zy"], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("QLinearConcat", ["sy", "zy", "x", "sx", "zx", "k", "sk", "zk"], {"axis": 1}),
]


@pytest.mark.parametrize(("op", "inputs", "attributes"), QUANTIZED, ids=lambda v: v if isinstance(v, str) else "")
def test_each_quantized_operator(op: str, inputs: list[str], attributes: dict[str, Any]):
    node = helper.make_node(op, inputs, ["y"], domain=MICROSOFT, **attributes)
    values = {
        "sx": scalar(0.05),
        "sk": scalar(0.02),
        "sy": scalar(0.06),
        "k": RNG.integers(0, 255, (2, 3, 4, 4)),
    }
    values |= {"zx": scalar(120, np.uint8), "zk": scalar(130, np.uint8), "zy": scalar(3, np.uint8)}
    values["k"] = values["k"].astype(np.uint8)
    used = {name: array for name, array in values.items() if name in inputs}
    model = model_of([node], {"x": (TensorProto.UINT8, [2, 3, 4, 4])}, ["y:UINT8"], used, domains=[MICROSOFT])
    feeds = {"x": RNG.integers(0, 255, (2, 3, 4, 4)).astype(np.uint8)}
    result = canonicalize(model)
    assert domains(result) == {""}
    (before,), (after,) = run(model, feeds), run(result.model, feeds)
    assert before.dtype == after.dtype
    assert np.abs(before.astype(int) - after.astype(int)).max() <= 1
    # onnxruntime's softmax looks its exponentials up in a table.
    assert (before == after).mean() > (0.7 if op == "QLinearSoftmax" else 0.95)
    assert canonicalize(result.model).applied == ()


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("float_output", [True, False])
def test_quantized_gemm(per_channel: bool, float_output: bool):
    columns = 5 if per_channel else 1
    scale = RNG.uniform(0.01, 0.02, columns).astype(np.float32)
    values = {
        "sx": scalar(0.05),
        "zx": scalar(120, np.uint8),
        "w": RNG.integers(-127, 127, (5, 4)).astype(np.int8),
        "sw": scale if per_channel else scale[0],
        "zw": np.zeros(5, np.int8) if per_channel else scalar(0, np.int8),
        "c": RNG.integers(-500, 500, 5).astype(np.int32),
        "sy": scalar(0.1),
        "zy": scalar(128, np.uint8),
    }
    names = ["x", "sx", "zx", "w", "sw", "zw", "c"] + ([] if float_output else ["sy", "zy"])
    node = helper.make_node("QGemm", names, ["y"], domain=MICROSOFT, transB=1, alpha=0.5)
    output = "y" if float_output else "y:UINT8"
    used = {name: array for name, array in values.items() if name in names}
    model = model_of([node], {"x": (TensorProto.UINT8, [3, 4])}, [output], used, domains=[MICROSOFT])
    feeds = {"x": RNG.integers(0, 255, (3, 4)).astype(np.uint8)}
    (before,), (after,) = run(model, feeds), run(canonicalize(model).model, feeds)
    np.testing.assert_allclose(after.astype(float), before.astype(float), atol=1e-4 if float_output else 1)


@pytest.mark.parametrize("op", ["DynamicQuantizeMatMul", "MatMulIntegerToFloat"])
@pytest.mark.parametrize("bias", [True, False])
def test_float_products_of_integers(op: str, bias: bool):
    values = {
        "w": RNG.integers(0, 255, (4, 5)).astype(np.uint8),
        "sw": RNG.uniform(0.01, 0.02, 5).astype(np.float32),
        "zw": RNG.integers(100, 140, 5).astype(np.uint8),
        "sx": scalar(0.05),
        "zx": scalar(120, np.uint8),
        "c": array_of(5),
    }
    dynamic = op == "DynamicQuantizeMatMul"
    names = ["x", "w", "sw", "zw"] if dynamic else ["x", "w", "sx", "sw", "zx", "zw"]
    names += ["c"] if bias else []
    used = {name: array for name, array in values.items() if name in names}
    node = helper.make_node(op, names, ["y"], domain=MICROSOFT)
    model = model_of([node], {"x": (FLOAT if dynamic else TensorProto.UINT8, [3, 4])}, ["y"], used, domains=[MICROSOFT])
    x = array_of(3, 4) if dynamic else RNG.integers(0, 255, (3, 4)).astype(np.uint8)
    result = check(model, {"x": x})
    assert domains(result) == {""}


def test_an_integer_product_that_is_read_as_integers_stays():
    values = {"w": RNG.integers(0, 255, (4, 5)).astype(np.uint8)}
    model = model_of(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        {"x": (TensorProto.UINT8, [3, 4])},
        ["y:INT32"],
        values,
    )
    result = check(model, {"x": RNG.integers(0, 255, (3, 4)).astype(np.uint8)})
    assert operators(result) == ["MatMulInteger"]


@pytest.mark.parametrize("level", ["BASIC", "EXTENDED"])
@pytest.mark.parametrize("opset", [9, 13, 17, 21])
def test_files_that_onnxruntime_saved(level: Any, opset: int):
    result = check(saved_by_onnxruntime(convnet(opset), level))
    assert [entry.domain for entry in result.model.opset_import] == [""]
    assert domains(result) == {""}
    assert result.opset == 17
    assert refusal(result.model) is None


def test_a_file_with_the_blocked_layout_is_named_in_a_refusal():
    model = saved_by_onnxruntime(convnet(), "ALL")
    if not any(node.domain == "com.microsoft.nchwc" for node in model.graph.node):
        pytest.skip("this build of onnxruntime has no blocked layout on this machine")
    reason = refusal(check(model).model)
    assert reason is not None
    assert "ORT_ENABLE_EXTENDED" in reason
    assert "forward" in reason


ACTIVATIONS: list[tuple[str, list[float]]] = [
    ("Relu", []),
    ("Sigmoid", []),
    ("Tanh", []),
    ("LeakyRelu", [0.2]),
    ("Clip", [-0.5, 0.7]),
    ("HardSigmoid", [0.3, 0.4]),
]


@pytest.mark.parametrize(("activation", "parameters"), ACTIVATIONS, ids=lambda v: v if isinstance(v, str) else "")
@pytest.mark.parametrize("summand", [True, False])
def test_fused_convolutions(activation: str, parameters: list[float], summand: bool):
    values = {"w": array_of(4, 3, 3, 3), "b": array_of(4)} | ({"z": array_of(1, 4, 6, 6)} if summand else {})
    given = {"activation_params": parameters} if parameters else {}
    node = helper.make_node(
        *("FusedConv", ["x", *values], ["y"]),
        domain=MICROSOFT,
        activation=activation,
        pads=[1, 1, 1, 1],
        **given,
    )
    model = model_of([node], {"x": (FLOAT, [1, 3, 6, 6])}, ["y"], values, domains=[MICROSOFT])
    result = check(model)
    assert operators(result) == ["Conv", *(["Add"] if summand else []), activation]
    assert len(result.twins) == len(operators(result)) - 1


def test_fused_gemm():
    values = {"w": array_of(5, 4), "b": array_of(5)}
    given = {"activation": "LeakyRelu", "activation_alpha": 0.3, "transB": 1, "alpha": 0.5, "beta": 2.0}
    node = helper.make_node("FusedGemm", ["x", "w", "b"], ["y"], domain=MICROSOFT, **given)
    assert operators(check(model_of([node], {"x": (FLOAT, [2, 4])}, ["y"], values, domains=[MICROSOFT]))) == [
        "Gemm",
        "LeakyRelu",
    ]


@pytest.mark.parametrize(
    ("a", "b", "attributes"),
    [
        ([2, 3], [4, 3], {"transB": 1, "alpha": 0.5}),
        ([3, 2], [3, 4], {"transA": 1}),
        ([2, 3, 4], [2, 5, 4], {"transB": 1}),
        ([5, 2, 3, 4], [5, 2, 4, 6], {"alpha": -2.0}),
        ([3, 2, 4], [2, 4, 6], {"transBatchA": 1}),
        ([3, 4, 2], [2, 4, 6], {"transBatchA": 1, "transA": 1} | {"alpha": 1.5}),
    ],
)
def test_fused_matmul(a: list[int], b: list[int], attributes: dict[str, Any]):
    node = helper.make_node("FusedMatMul", ["x", "k"], ["y"], domain=MICROSOFT, **attributes)
    if attributes.get("transBatchA") and attributes.get("transA"):
        a = [4, 2, 3]
    model = model_of([node], {"x": (FLOAT, a), "k": (FLOAT, b)}, ["y"], domains=[MICROSOFT])
    try:
        run(model, {"x": array_of(*a), "k": array_of(*b)})
    except OrtError as error:
        pytest.skip(f"onnxruntime does not run this combination: {error}")
    result = check(model, {"x": array_of(*a), "k": array_of(*b)})
    assert domains(result) == {""}


@pytest.mark.parametrize("op", ["Gelu", "BiasGelu", "FastGelu", "QuickGelu"])
def test_gelus_of_onnxruntime(op: str):
    bias = op in ("BiasGelu", "FastGelu")
    values = {"b": array_of(3)} if bias else {}
    node = helper.make_node(op, ["x", *values], ["y"], domain=MICROSOFT)
    result = check(model_of([node], {"x": (FLOAT, [2, 3])}, ["y"], values, domains=[MICROSOFT]))
    assert domains(result) == {""}


@pytest.mark.parametrize("outputs", [["y"], ["y", "", "", "s"]])
def test_skip_layer_normalization(outputs: list[str]):
    values = {name: array_of(4) for name in ("gamma", "beta", "bias")}
    node = helper.make_node("SkipLayerNormalization", ["x", "k", *values], outputs, domain=MICROSOFT)
    model = model_of(
        [node],
        {"x": (FLOAT, [2, 3, 4]), "k": (FLOAT, [2, 3, 4])},
        [o for o in outputs if o],
        values,
        domains=[MICROSOFT],
    )
    assert domains(check(model, rtol=1e-4)) == {""}


def test_onnxruntimes_own_quantize_linear():
    values = {"s": scalar(0.1), "z": scalar(10, np.uint8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], domain=MICROSOFT),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], domain=MICROSOFT),
    ]
    result = check(model_of(nodes, {"x": (FLOAT, [5])}, ["y"], values, domains=[MICROSOFT]))
    assert domains(result) == {""}


REFUSED: list[tuple[str, Any, str]] = [
    (
        "training",
        helper.make_node("BatchNormalization", list("xabcd"), ["y", "m", "v"], training_mode=1),
        "evaluation mode",
    ),
    (
        "foreign",
        helper.make_node("Attention", ["x"], ["y"], domain=MICROSOFT, num_heads=1),
        "com.microsoft.Attention",
    ),
    ("unknown", helper.make_node("StatefulPartitionedCall", ["x"], ["y"]), "incomplete export"),
]


@pytest.mark.parametrize(("kind", "node", "words"), REFUSED, ids=lambda v: v if isinstance(v, str) else "")
def test_refusals_name_the_node_and_the_remedy(kind: str, node: Any, words: str):
    statistics = {name: np.float32([1, 2, 3]) for name in "abcd"} if kind == "training" else {}
    model = model_of([node], {"x": (FLOAT, [2, 3, 4])}, ["y"], statistics, domains=[MICROSOFT])
    reason = refusal(canonicalize(model).model)
    assert reason is not None
    assert words in reason
    assert "'y'" in reason


def test_old_operator_sets_and_control_flow_are_refused():
    assert "operator set 6" in str(
        refusal(model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": (FLOAT, [1])}, ["y"], opset=6))
    )
    body = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["t"])],
        "body",
        [],
        [helper.make_tensor_value_info("t", FLOAT, None)],
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    model = model_of([node], {"x": (FLOAT, [1]), "c": (TensorProto.BOOL, [])}, ["y"])
    assert "control flow" in str(refusal(model))
    assert refusal(convnet()) is None


@pytest.mark.parametrize("name", ["light_squeezenet", "light_shufflenet"])
def test_caffe2_graphs(name: str):
    result = check(light(name), rtol=1e-3)
    assert result.opset == 17
    assert len(result.model.graph.input) == 1
    assert not {"Constant", "ConstantOfShape", "BatchNormalization", "Sum", "Dropout"} & set(operators(result))


HUGE = ("light_bvlc_alexnet", "light_vgg19", "light_zfnet512")  # hundreds of megabytes of weights


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*LIGHT} - {*HUGE, "light_squeezenet", "light_shufflenet"}))
def test_more_caffe2_graphs(name: str):
    assert check(light(name), rtol=1e-3, atol=1e-4).opset == 17


@pytest.mark.slow
def test_large_weights_kept_as_fills_are_lifted():
    result = canonicalize(light("light_bvlc_alexnet", randomize=False))
    assert result.opset == 17
    assert "ConstantOfShape" not in operators(result)
