"""Logits and heads: every pattern in use, and the linear ones confirmed by numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from support.fetch import packaged_file
from support.graphs import Builder
from support.shapes import feeds_of, measure_shapes, run_all
from support.zoo import export

from onnxvis.errors import LayerError, ModelError, UsageError
from onnxvis.graph.head import Head, Logits, class_weights, find_head, find_logits
from onnxvis.graph.index import GraphIndex

K = 5


def _read(model: onnx.ModelProto, size: int = 64, output: str | None = None) -> tuple[Logits, Head]:
    shapes = measure_shapes(model, size)
    logits = find_logits(model, output, shapes)
    return logits, find_head(model, logits, shapes)


def _confirm_cam(model: onnx.ModelProto, logits: Logits, head: Head, size: int = 64) -> None:
    """``weights @ mean(map) + bias`` is the logit, for a picture of noise."""
    values = run_all(model, feeds_of(model, size, seed=1))
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    shapes |= {n: tuple(v.shape) for n, v in values.items()}
    weights, bias = class_weights(GraphIndex(model, shapes), head)
    assert head.cam_layer is not None
    assert head.spatial_axes is not None
    mean = values[head.cam_layer].astype(np.float64).mean(axis=head.spatial_axes).reshape(-1)
    logit = values[logits.tensor].reshape(-1).astype(np.float64)
    np.testing.assert_allclose(weights @ mean + bias, logit, atol=2e-5 * np.abs(logit).max())


def _makes(model: onnx.ModelProto, tensor: str | None) -> str:
    return next(n.op_type for n in model.graph.node if tensor in n.output)


NETS = [
    ("resnet18", 64, "gap-linear", "Relu", True),
    ("densenet121", 64, "gap-linear", "Relu", True),
    ("mobilenet_v2", 64, "gap-linear", "Clip", True),
    ("mobilenet_v3_small", 64, "gap-mlp", "HardSwish", False),
    ("squeezenet1_1", 64, "class-maps-gap", "Relu", True),
    ("googlenet", 64, "gap-linear", "Concat", True),
    ("efficientnet_b0", 64, "gap-linear", "Mul", True),
    ("convnext_tiny", 64, "gap-norm-linear", "Add", False),
    ("shufflenet_v2_x1_0", 64, "gap-linear", "Relu", True),
    ("regnet_y_400mf", 64, "gap-linear", "Relu", True),
    ("mnasnet1_0", 64, "gap-linear", "Relu", True),
    ("inception_v3", 128, "gap-linear", "Concat", True),
]


@pytest.mark.parametrize("exporter", ["legacy", "dynamo"])
@pytest.mark.parametrize(("net", "size", "kind", "operator", "cam"), NETS)
def test_classifiers(net: str, size: int, kind: str, operator: str, cam: bool, exporter: Any) -> None:
    opset = 17 if exporter == "legacy" else 18
    model = onnx.load(str(export(net, exporter, opset, size)))
    logits, head = _read(model, size)
    assert (logits.tensor, logits.kind, logits.class_axis) == ("logits", "classifier", 1)
    assert (head.kind, head.cam_applies) == (kind, cam)
    # The dynamo exporter writes SiLU as Mul and Sigmoid, opset 18 has no operator of its own either.
    assert _makes(model, head.cam_layer) == operator
    assert (head.spatial_axes, head.channel_axis) == ((2, 3), 1)
    assert head.cam_shape is not None
    assert head.cam_shape[2] * head.cam_shape[3] > 1
    assert repr(head.cam_layer) in head.reason
    assert head.weight is not None
    if cam:
        _confirm_cam(model, logits, head, size)
    else:
        with pytest.raises(LayerError, match="Use Grad-CAM"):
            class_weights(GraphIndex(model), head)


@pytest.mark.parametrize(
    ("net", "exporter", "size", "side"),
    [
        pytest.param("vgg11_bn", "legacy", 224, 14, marks=pytest.mark.slow),
        pytest.param("vgg11_bn", "dynamo", 224, 14, marks=pytest.mark.slow),
        ("alexnet", "dynamo", 96, 5),
        ("alexnet", "legacy", 224, 13),
    ],
)
def test_flattened_heads_explain_the_last_activated_convolution(net: str, exporter: Any, size: int, side: int) -> None:
    """Also where an adaptive pool to 7×7 is written out in gathers (96 px)."""
    opset = 17 if exporter == "legacy" else 18
    model = onnx.load(str(export(net, exporter, opset, size, dynamic_batch=size == 96)))
    _, head = _read(model, size)
    assert (head.kind, head.cam_applies) == ("flatten-mlp", False)
    assert head.cam_shape is not None
    assert head.cam_shape[2:] == (side, side)
    assert _makes(model, head.cam_layer) == "Relu"
    assert head.chain[0] == "MaxPool"
    assert "3 linear layers" in head.reason


@pytest.mark.parametrize("exporter", ["legacy", "dynamo"])
def test_segmentation(exporter: Any) -> None:
    model = onnx.load(str(export("deeplabv3_mobilenet_v3_large", exporter, 17 if exporter == "legacy" else 18, 64)))
    logits, head = _read(model)
    assert (logits.kind, logits.class_axis, logits.spatial_axes) == ("dense", 1, (2, 3))
    assert head.kind == "dense"
    assert head.cam_shape == (1, 256, 4, 4)
    assert head.chain == ("Conv", "Resize")
    assert head.weight == "net.classifier.4.weight"


def test_two_final_convolutions_take_the_deeper(tmp_path: Path) -> None:
    """LR-ASPP adds a classifier on low-level features to one on high-level features."""
    import torch

    from onnxvis.converters.torchvision_shim import ensure_torchvision

    ensure_torchvision()
    import torchvision

    net = torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None)
    file = tmp_path / "lraspp.onnx"
    example = (torch.zeros(1, 3, 96, 96),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net.eval(), example, str(file), dynamo=False, opset_version=17, output_names=["out"])
    logits, head = _read(onnx.load(str(file)), 96)
    assert logits.kind == "dense"
    assert head.kind == "dense"
    assert head.weight == "classifier.high_classifier.weight"
    assert "deepest of the 2" in head.reason


def _stem(b: Builder, channels: int = 4, **attrs: Any) -> str:
    return str(b.node("Relu", b.conv(b.name, 3, channels, 3, signed=True, strides=[2, 2], **attrs)))


def _gemm(b: Builder, x: str, c_in: int = 4, c_out: int = K, **attrs: Any) -> str:
    shape = (c_out, c_in) if attrs.get("transB") else (c_in, c_out)
    bias = b.weight(c_out, signed=True)
    return str(b.node("Gemm", x, b.weight(*shape, signed=True), bias, **attrs))


def _gap_gemm(b: Builder) -> str:
    return _gemm(b, b.node("Flatten", b.node("GlobalAveragePool", _stem(b))), transB=1, alpha=0.5, beta=2.0)


def _reduce_gemm(b: Builder) -> str:
    return _gemm(b, b.node("ReduceMean", _stem(b), axes=[2, 3], keepdims=0))


def _two_reductions(b: Builder) -> str:
    first = b.node("ReduceMean", _stem(b), axes=[3], keepdims=0)
    return _gemm(b, b.node("ReduceMean", first, axes=[2], keepdims=0))


def _sum_pool(b: Builder) -> str:
    return _gemm(b, b.node("ReduceSum", _stem(b), b.constant([-1, -2]), keepdims=0))


def _tokens_mean(b: Builder) -> str:
    tokens = b.node("Reshape", _stem(b), b.constant([0, 4, -1]))
    return _gemm(b, b.node("ReduceMean", tokens, axes=[2], keepdims=0))


def _average_pool(b: Builder) -> str:
    pooled = b.node("AveragePool", _stem(b), kernel_shape=[7, 7])
    return _gemm(b, b.node("Dropout", b.node("Reshape", pooled, b.constant([0, 4]))), transB=1)


def _keras(b: Builder) -> str:
    turned = b.node("Transpose", b.name, perm=[0, 3, 1, 2])
    x = b.node("Relu", b.conv(turned, 3, 4, 3, signed=True, strides=[2, 2]))
    pooled = b.node("Squeeze", b.node("GlobalAveragePool", x), b.constant([2, 3]))
    return str(b.node("Add", b.node("MatMul", pooled, b.weight(4, K, signed=True)), b.weight(K, signed=True)))


def _keras_channels_last(b: Builder) -> str:
    turned = b.node("Transpose", b.name, perm=[0, 3, 1, 2])
    conv = b.node("Transpose", b.conv(turned, 3, 4, 3, signed=True, strides=[2, 2]), perm=[0, 2, 3, 1])
    pooled = b.node("ReduceMean", b.node("Relu", conv), axes=[1, 2], keepdims=0)
    return str(b.node("Add", b.node("MatMul", pooled, b.weight(4, K, signed=True)), b.weight(K, signed=True)))


def _paddle(b: Builder) -> str:
    """Weights in Constant nodes, as Paddle and Keras write them."""
    from onnx import numpy_helper

    weight = numpy_helper.from_array(b.rng.standard_normal((4, K)).astype(np.float32))
    constant = b.node("Constant", value=weight)
    pooled = b.node("Reshape", b.node("GlobalAveragePool", _stem(b)), b.constant([-1, 4]))
    return str(b.node("Add", b.node("MatMul", pooled, constant), b.weight(K, signed=True)))


def _dynamic_flatten(b: Builder) -> str:
    pooled = b.node("GlobalAveragePool", _stem(b))
    batch = b.node("Gather", b.node("Shape", pooled), b.constant([0]))
    return _gemm(b, b.node("Reshape", pooled, b.node("Concat", batch, b.constant([-1]), axis=0)))


LINEAR_HEADS: list[Callable[[Builder], str]] = [
    _gap_gemm,
    _reduce_gemm,
    _two_reductions,
    _sum_pool,
    _tokens_mean,
    _average_pool,
    _keras,
    _keras_channels_last,
    _paddle,
    _dynamic_flatten,
]


@pytest.mark.parametrize("build", LINEAR_HEADS)
@pytest.mark.parametrize("ending", ["", "Softmax", "written"])
def test_every_way_to_write_a_linear_head(build: Callable[[Builder], str], ending: str) -> None:
    b = Builder([1, 15, 15, 3] if "keras" in build.__name__ else [1, 3, 15, 15])
    scores = build(b)
    out = _softmax_written_out(b, scores) if ending == "written" else scores
    out = b.node("Identity", b.node("Softmax", scores, axis=1)) if ending == "Softmax" else out
    model = b.model(out)
    logits, head = _read(model)
    assert logits.tensor == scores
    assert logits.activation == ("softmax" if ending else None)
    assert (head.kind, head.cam_applies) == ("gap-linear", True)
    assert _makes(model, head.cam_layer) == "Relu"
    last = build is _keras_channels_last
    assert (head.spatial_axes, head.channel_axis) == (((1, 2), 3) if last else ((2, 3), 1))
    _confirm_cam(model, logits, head)


def _softmax_written_out(b: Builder, x: str, shifted: bool = True) -> str:
    if shifted:
        x = b.node("Sub", x, b.node("ReduceMax", x, axes=[1]))
    exp = b.node("Exp", x)
    return str(b.node("Div", exp, b.node("ReduceSum", exp, b.constant([1]))))


def test_convolutional_heads() -> None:
    b = Builder([1, 3, 15, 15])
    last = b.conv(b.node("GlobalAveragePool", _stem(b)), 4, K, 1, signed=True)
    model = b.model(last)
    logits, head = _read(model)
    assert (logits.class_axis, logits.kind) == (1, "classifier")
    assert head.kind == "gap-conv1x1"
    _confirm_cam(model, logits, head)

    b = Builder([1, 3, 15, 15])
    maps = b.node("Relu", b.conv(_stem(b), 4, K, 1, signed=True))
    model = b.model(b.node("Softmax", b.node("Flatten", b.node("GlobalAveragePool", maps)), axis=1))
    logits, head = _read(model)
    assert (head.kind, head.cam_layer, head.cam_applies) == ("class-maps-gap", maps, True)
    assert head.weight == model.graph.node[2].input[1]
    _confirm_cam(model, logits, head)

    b = Builder([1, 3, 15, 15])
    whole = b.conv(_stem(b), 4, 6, 7, signed=True)
    model = b.model(b.conv(b.node("Relu", whole), 6, K, 1, signed=True))
    _, head = _read(model)
    assert (head.kind, head.cam_shape) == ("flatten-mlp", (1, 4, 7, 7))


def test_heads_that_are_not_linear_in_the_mean() -> None:
    cases: dict[str, Callable[[Builder, str], str]] = {
        "gap-mlp": lambda b, x: _gemm(b, b.node("Relu", _gemm(b, _pooled(b, x), 4, 4))),
        "gap-norm-linear": lambda b, x: _gemm(b, _normalized(b, _pooled(b, x))),
        "gmp-linear": lambda b, x: _gemm(b, b.node("ReduceMax", x, axes=[2, 3], keepdims=0)),
    }
    for kind, build in cases.items():
        b = Builder([1, 3, 15, 15])
        x = _stem(b)
        _, head = _read(b.model(build(b, x)))
        assert (head.kind, head.cam_layer, head.cam_applies) == (kind, x, False)

    b = Builder([1, 3, 15, 15])
    x = _stem(b)
    pooled = b.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2])
    _, head = _read(b.model(_gemm(b, b.node("Flatten", pooled), 36)))
    assert (head.kind, head.cam_layer, head.chain) == ("flatten-linear", x, ("MaxPool", "Flatten", "Gemm"))


def _pooled(b: Builder, x: str) -> str:
    return str(b.node("Flatten", b.node("GlobalAveragePool", x)))


def _normalized(b: Builder, x: str) -> str:
    """Layer normalization as exporters before opset 17 write it."""
    centered = b.node("Sub", x, b.node("ReduceMean", x, axes=[-1]))
    square = b.node("Pow", centered, b.constant(np.float32(2)))
    variance = b.node("Add", b.node("ReduceMean", square, axes=[-1]), b.constant(np.float32(1e-5)))
    scaled = b.node("Div", centered, b.node("Sqrt", variance))
    return str(b.node("Add", b.node("Mul", scaled, b.weight(4)), b.weight(4)))


def test_a_map_of_one_position_sends_the_layer_further_back() -> None:
    model = onnx.load(str(export("resnet18", "legacy", 17, 32)))
    _, head = _read(model, 32)
    assert head.cam_shape == (1, 256, 2, 2)
    assert "/layer3/" in (head.cam_layer or "")
    assert not head.cam_applies
    assert "one position only" in head.reason


def test_a_transformer_has_no_head_of_this_kind() -> None:
    b = Builder([1, 3, 16, 16])
    patches = b.conv(b.name, 3, 4, 4, signed=True, strides=[4, 4])
    tokens = b.node("Transpose", b.node("Reshape", patches, b.constant([0, 4, -1])), perm=[0, 2, 1])
    scores = b.node("Softmax", b.node("MatMul", tokens, b.node("Transpose", tokens, perm=[0, 2, 1])), axis=-1)
    mixed = b.node("Add", tokens, b.node("MatMul", scores, tokens))
    _, head = _read(b.model(_gemm(b, b.node("Gather", mixed, b.constant(np.array(0)), axis=1))))
    assert (head.kind, head.cam_layer) == ("none", patches)
    assert "care" in head.reason


def test_log_softmax_and_sigmoid_endings() -> None:
    for ending, expected in (("LogSoftmax", "log-softmax"), ("Sigmoid", "sigmoid")):
        b = Builder([1, 3, 15, 15])
        scores = _gap_gemm(b)
        logits, _ = _read(b.model(b.node("Cast", b.node(ending, scores), to=1)))
        assert (logits.tensor, logits.activation, logits.skipped) == (scores, expected, ("Cast", ending))
    for build in (_log_of_softmax, _log_sum_exp, _shifted_log_sum_exp):
        b = Builder([1, 3, 15, 15])
        scores = _gap_gemm(b)
        logits, _ = _read(b.model(build(b, scores)))
        assert (logits.tensor, logits.activation) == (scores, "log-softmax")


def _log_of_softmax(b: Builder, x: str) -> str:
    return str(b.node("Log", _softmax_written_out(b, x, shifted=False)))


def _log_sum_exp(b: Builder, x: str) -> str:
    return str(b.node("Sub", x, b.node("ReduceLogSumExp", x, axes=[1])))


def _shifted_log_sum_exp(b: Builder, x: str) -> str:
    z = b.node("Sub", x, b.node("ReduceMax", x, axes=[1]))
    total = b.node("ReduceSum", b.node("Exp", z), b.constant([1]))
    return str(b.node("Sub", z, b.node("Log", total)))


def test_class_indices_lead_back_to_the_scores() -> None:
    b = Builder([1, 3, 15, 15])
    scores = b.conv(_stem(b), 4, K, 1)
    logits, head = _read(b.model(b.node("Cast", b.node("ArgMax", scores, axis=1), to=6)))
    assert (logits.tensor, logits.kind, logits.skipped) == (scores, "dense", ("Cast", "ArgMax"))
    assert head.kind == "dense"


def test_unit_axes_before_the_activation_do_not_hide_it() -> None:
    b = Builder([1, 3, 15, 15])
    scores = b.conv(b.node("GlobalAveragePool", _stem(b)), 4, K, 1, signed=True)
    flat = b.node("Squeeze", b.node("Softmax", scores, axis=1), b.constant([2, 3]))
    logits, head = _read(b.model(flat))
    assert (logits.tensor, logits.skipped, logits.class_axis) == (scores, ("Squeeze", "Softmax"), 1)
    assert head.kind == "gap-conv1x1"


def test_a_flattening_for_the_softmax_alone_is_passed() -> None:
    """The old softmax of opsets below 13, written for a newer one."""
    b = Builder([1, 3, 15, 15])
    scores = b.conv(b.node("GlobalAveragePool", _stem(b)), 4, K, 1, signed=True)
    chances = b.node("Softmax", b.node("Flatten", scores), axis=1)
    logits, _ = _read(b.model(b.node("Reshape", chances, b.constant([1, K, 1, 1]))))
    assert (logits.tensor, logits.skipped) == (scores, ("Reshape", "Softmax", "Flatten"))


def test_the_main_output_of_several() -> None:
    b = Builder([1, 3, 15, 15])
    x = _stem(b)
    aux = _gemm(b, _pooled(b, x))
    deep = b.node("Relu", b.conv(x, 4, 4, 3, signed=True))
    embedding = _gemm(b, _pooled(b, deep), 4, 64)
    main = _gemm(b, embedding, 64, K)
    small = _gemm(b, _pooled(b, deep), 4, 2)
    model = b.model(aux, embedding, small, deep, main)
    logits, head = _read(model)
    assert logits.output == main
    assert set(logits.others) == {aux, embedding, small, deep}
    assert "deepest" in logits.reason
    assert head.cam_layer == deep
    asked, _ = _read(model, output=aux)
    assert asked.output == aux
    with pytest.raises(UsageError, match="has no output 'x'"):
        _read(model, output="x")


def test_an_output_without_the_picture_is_refused() -> None:
    b = Builder([1, 3, 15, 15])
    constant = b.node("Identity", b.weight(1, 5))
    with pytest.raises(ModelError, match="does not depend on the picture"):
        _read(b.model(constant))


def test_detections_and_sequences_are_told_apart() -> None:
    b = Builder([1, 3, 15, 15])
    rows = b.node("Reshape", b.conv(_stem(b), 4, 4 + K, 1), b.constant([1, 4 + K, -1]))
    logits, head = _read(b.model(rows))
    assert (logits.kind, logits.class_axis) == ("detection", 1)
    assert (head.kind, head.cam_shape) == ("dense", (1, 4, 7, 7))
    turned = b.node("Transpose", rows, perm=[0, 2, 1])
    logits, _ = _read(b.model(turned))
    assert (logits.kind, logits.class_axis) == ("detection", 2)
    logits, head = _read(b.model(b.node("Softmax", turned, axis=2)))
    assert (logits.kind, logits.tensor, logits.class_axis) == ("dense", turned, 2)


def test_one_channel_and_channels_last_segmentation() -> None:
    b = Builder([1, 16, 16, 1])
    x = b.node("Relu", b.conv(b.node("Transpose", b.name, perm=[0, 3, 1, 2]), 1, 4, 3, strides=[2, 2]))
    scores = b.node("Transpose", b.conv(x, 4, K, 1), perm=[0, 2, 3, 1])
    logits, head = _read(b.model(b.node("Softmax", scores, axis=3)))
    assert (logits.tensor, logits.kind) == (scores, "dense")
    assert (logits.class_axis, logits.spatial_axes) == (3, (1, 2))
    assert (head.cam_layer, head.spatial_axes) == (x, (2, 3))


@pytest.fixture(scope="module")
def small_net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    b = Builder(["N", 3, 16, 16])
    x = b.node("Relu", b.conv(_stem(b, pads=[1, 1, 1, 1]), 4, 4, 3, signed=True))
    model = b.model(_gemm(b, _pooled(b, x), transB=1))
    file = tmp_path_factory.mktemp("nets") / "small.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(model), str(file))
    return file


class _Noise:
    """A calibration reader of three random pictures."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.left = [{"image": rng.standard_normal((1, 3, 16, 16)).astype(np.float32)} for _ in range(3)]

    def get_next(self) -> dict[str, Any] | None:
        return self.left.pop() if self.left else None


@pytest.mark.parametrize("form", ["QDQ", "QOperator", "dynamic", "optimized"])
def test_quantized_and_fused_graphs(small_net: Path, tmp_path: Path, form: str) -> None:
    file = tmp_path / "made.onnx"
    if form == "optimized":
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(file)
        ort.InferenceSession(str(small_net), options, ["CPUExecutionProvider"])
    elif form == "dynamic":
        from onnxruntime.quantization import quantize_dynamic

        quantize_dynamic(str(small_net), str(file))
    else:
        from onnxruntime.quantization import QuantFormat, quantize_static

        quantize_static(str(small_net), str(file), _Noise(), quant_format=QuantFormat[form])
    model = onnx.load(str(file))
    logits, head = _read(model)
    assert logits.kind == "classifier"
    assert head.kind == "gap-linear"
    assert head.cam_shape == (1, 4, 6, 6)
    assert head.weight is not None
    assert head.cam_applies == (form != "dynamic")
    assert ("8 bits" in head.reason) == (form[0] == "Q")
    if form == "optimized":
        assert "FusedConv" in {n.op_type for n in model.graph.node}
        _confirm_cam(model, logits, head)


@pytest.mark.parametrize(
    ("package", "version", "member", "kind", "layer"),
    [
        (
            "rapidocr-onnxruntime",
            "1.4.4",
            "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
            "gap-linear",
            "pool2d_9.tmp_0",
        ),
        ("qonnx", "1.0.0", "qonnx/data/onnx/mnist-conv/model.onnx", "flatten-linear", "ReLU114_Output_0"),
    ],
)
def test_files_of_other_exporters(package: str, version: str, member: str, kind: str, layer: str) -> None:
    model = onnx.load(str(packaged_file(package, version, member)))
    logits, head = _read(model, 96)
    assert (head.kind, head.cam_layer) == (kind, layer)
    if head.cam_applies:
        _confirm_cam(model, logits, head, 96)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("squeezenet", "class-maps-gap"),
        ("resnet50", "gap-linear"),
        ("shufflenet", "gap-linear"),
        ("densenet121", "gap-conv1x1"),
        ("inception_v1", "gap-linear"),
        ("zfnet512", "flatten-mlp"),
    ],
)
def test_old_files_whose_weights_are_computed(name: str, kind: str) -> None:
    """IR 3, initializers listed as inputs, weights from ConstantOfShape, average pools of the map's size."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    model = onnx.load(str(folder / f"light_{name}.onnx"))
    logits, head = _read(model)
    assert head.kind == kind
    assert head.cam_applies == (kind != "flatten-mlp")
    assert logits.activation == (None if name == "densenet121" else "softmax")
