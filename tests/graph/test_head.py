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
from support.heads import CLASSES, gap_gemm, gemm, pooled, read_head, softmax_written_out, stem
from support.shapes import feeds_of, run_all
from support.zoo import export

from onnxvis.errors import LayerError
from onnxvis.graph.head import Head, Logits, class_weights
from onnxvis.graph.index import GraphIndex


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
    logits, head = read_head(model, size)
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
    _, head = read_head(model, size)
    assert (head.kind, head.cam_applies) == ("flatten-mlp", False)
    assert head.cam_shape is not None
    assert head.cam_shape[2:] == (side, side)
    assert _makes(model, head.cam_layer) == "Relu"
    assert head.chain[0] == "MaxPool"
    assert "3 linear layers" in head.reason


@pytest.mark.parametrize("exporter", ["legacy", "dynamo"])
def test_segmentation(exporter: Any) -> None:
    model = onnx.load(str(export("deeplabv3_mobilenet_v3_large", exporter, 17 if exporter == "legacy" else 18, 64)))
    logits, head = read_head(model)
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
    logits, head = read_head(onnx.load(str(file)), 96)
    assert logits.kind == "dense"
    assert head.kind == "dense"
    assert head.weight == "classifier.high_classifier.weight"
    assert "deepest of the 2" in head.reason


def _reduce_gemm(b: Builder) -> str:
    return gemm(b, b.node("ReduceMean", stem(b), axes=[2, 3], keepdims=0))


def _two_reductions(b: Builder) -> str:
    first = b.node("ReduceMean", stem(b), axes=[3], keepdims=0)
    return gemm(b, b.node("ReduceMean", first, axes=[2], keepdims=0))


def _sum_pool(b: Builder) -> str:
    return gemm(b, b.node("ReduceSum", stem(b), b.constant([-1, -2]), keepdims=0))


def _tokens_mean(b: Builder) -> str:
    tokens = b.node("Reshape", stem(b), b.constant([0, 4, -1]))
    return gemm(b, b.node("ReduceMean", tokens, axes=[2], keepdims=0))


def _average_pool(b: Builder) -> str:
    pooled = b.node("AveragePool", stem(b), kernel_shape=[7, 7])
    return gemm(b, b.node("Dropout", b.node("Reshape", pooled, b.constant([0, 4]))), transB=1)


def _keras(b: Builder) -> str:
    turned = b.node("Transpose", b.name, perm=[0, 3, 1, 2])
    x = b.node("Relu", b.conv(turned, 3, 4, 3, signed=True, strides=[2, 2]))
    pooled = b.node("Squeeze", b.node("GlobalAveragePool", x), b.constant([2, 3]))
    return str(
        b.node("Add", b.node("MatMul", pooled, b.weight(4, CLASSES, signed=True)), b.weight(CLASSES, signed=True))
    )


def _keras_channels_last(b: Builder) -> str:
    turned = b.node("Transpose", b.name, perm=[0, 3, 1, 2])
    conv = b.node("Transpose", b.conv(turned, 3, 4, 3, signed=True, strides=[2, 2]), perm=[0, 2, 3, 1])
    pooled = b.node("ReduceMean", b.node("Relu", conv), axes=[1, 2], keepdims=0)
    return str(
        b.node("Add", b.node("MatMul", pooled, b.weight(4, CLASSES, signed=True)), b.weight(CLASSES, signed=True))
    )


def _paddle(b: Builder) -> str:
    """Weights in Constant nodes, as Paddle and Keras write them."""
    from onnx import numpy_helper

    weight = numpy_helper.from_array(b.rng.standard_normal((4, CLASSES)).astype(np.float32))
    constant = b.node("Constant", value=weight)
    pooled = b.node("Reshape", b.node("GlobalAveragePool", stem(b)), b.constant([-1, 4]))
    return str(b.node("Add", b.node("MatMul", pooled, constant), b.weight(CLASSES, signed=True)))


def _dynamic_flatten(b: Builder) -> str:
    pooled = b.node("GlobalAveragePool", stem(b))
    batch = b.node("Gather", b.node("Shape", pooled), b.constant([0]))
    return gemm(b, b.node("Reshape", pooled, b.node("Concat", batch, b.constant([-1]), axis=0)))


LINEAR_HEADS: list[Callable[[Builder], str]] = [
    gap_gemm,
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
    out = softmax_written_out(b, scores) if ending == "written" else scores
    out = b.node("Identity", b.node("Softmax", scores, axis=1)) if ending == "Softmax" else out
    model = b.model(out)
    logits, head = read_head(model)
    assert logits.tensor == scores
    assert logits.activation == ("softmax" if ending else None)
    assert (head.kind, head.cam_applies) == ("gap-linear", True)
    assert _makes(model, head.cam_layer) == "Relu"
    last = build is _keras_channels_last
    assert (head.spatial_axes, head.channel_axis) == (((1, 2), 3) if last else ((2, 3), 1))
    _confirm_cam(model, logits, head)


def test_convolutional_heads() -> None:
    b = Builder([1, 3, 15, 15])
    last = b.conv(b.node("GlobalAveragePool", stem(b)), 4, CLASSES, 1, signed=True)
    model = b.model(last)
    logits, head = read_head(model)
    assert (logits.class_axis, logits.kind) == (1, "classifier")
    assert head.kind == "gap-conv1x1"
    _confirm_cam(model, logits, head)

    b = Builder([1, 3, 15, 15])
    maps = b.node("Relu", b.conv(stem(b), 4, CLASSES, 1, signed=True))
    model = b.model(b.node("Softmax", b.node("Flatten", b.node("GlobalAveragePool", maps)), axis=1))
    logits, head = read_head(model)
    assert (head.kind, head.cam_layer, head.cam_applies) == ("class-maps-gap", maps, True)
    assert head.weight == model.graph.node[2].input[1]
    _confirm_cam(model, logits, head)

    b = Builder([1, 3, 15, 15])
    whole = b.conv(stem(b), 4, 6, 7, signed=True)
    model = b.model(b.conv(b.node("Relu", whole), 6, CLASSES, 1, signed=True))
    _, head = read_head(model)
    assert (head.kind, head.cam_shape) == ("flatten-mlp", (1, 4, 7, 7))


def test_heads_that_are_not_linear_in_the_mean() -> None:
    cases: dict[str, Callable[[Builder, str], str]] = {
        "gap-mlp": lambda b, x: gemm(b, b.node("Relu", gemm(b, pooled(b, x), 4, 4))),
        "gap-norm-linear": lambda b, x: gemm(b, _normalized(b, pooled(b, x))),
        "gmp-linear": lambda b, x: gemm(b, b.node("ReduceMax", x, axes=[2, 3], keepdims=0)),
    }
    for kind, build in cases.items():
        b = Builder([1, 3, 15, 15])
        x = stem(b)
        _, head = read_head(b.model(build(b, x)))
        assert (head.kind, head.cam_layer, head.cam_applies) == (kind, x, False)

    b = Builder([1, 3, 15, 15])
    x = stem(b)
    small = b.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2])
    _, head = read_head(b.model(gemm(b, b.node("Flatten", small), 36)))
    assert (head.kind, head.cam_layer, head.chain) == ("flatten-linear", x, ("MaxPool", "Flatten", "Gemm"))


def _normalized(b: Builder, x: str) -> str:
    """Layer normalization as exporters before opset 17 write it."""
    centered = b.node("Sub", x, b.node("ReduceMean", x, axes=[-1]))
    square = b.node("Pow", centered, b.constant(np.float32(2)))
    variance = b.node("Add", b.node("ReduceMean", square, axes=[-1]), b.constant(np.float32(1e-5)))
    scaled = b.node("Div", centered, b.node("Sqrt", variance))
    return str(b.node("Add", b.node("Mul", scaled, b.weight(4)), b.weight(4)))


def test_a_map_of_one_position_sends_the_layer_further_back() -> None:
    model = onnx.load(str(export("resnet18", "legacy", 17, 32)))
    _, head = read_head(model, 32)
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
    _, head = read_head(b.model(gemm(b, b.node("Gather", mixed, b.constant(np.array(0)), axis=1))))
    assert (head.kind, head.cam_layer) == ("none", patches)
    assert "care" in head.reason


@pytest.fixture(scope="module")
def small_net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    b = Builder(["N", 3, 16, 16])
    x = b.node("Relu", b.conv(stem(b, pads=[1, 1, 1, 1]), 4, 4, 3, signed=True))
    model = b.model(gemm(b, pooled(b, x), transB=1))
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
    logits, head = read_head(model)
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
    logits, head = read_head(model, 96)
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
    logits, head = read_head(model)
    assert head.kind == kind
    assert head.cam_applies == (kind != "flatten-mlp")
    assert logits.activation == (None if name == "densenet121" else "softmax")
