"""Models in the formats that tools write, and the comparison of a model with its canonical form.

onnxruntime's own tools make the formats: its quantizers, its float16 converter, and files saved after its
optimizations. Everything is small, seeded and made on the spot.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxvis.graph.canonical import Canonical, canonicalize

__all__ = [
    "FLOAT",
    "LIGHT",
    "OrtError",
    "Quantization",
    "applied",
    "array_of",
    "check",
    "constants_of",
    "convnet",
    "feeds_of",
    "half",
    "light",
    "model_of",
    "operators",
    "quantized",
    "run",
    "saved_by_onnxruntime",
]

Array = np.ndarray[Any, Any]
_errors = ort.capi.onnxruntime_pybind11_state
OrtError = (
    _errors.EPFail,
    _errors.Fail,
    _errors.InvalidArgument,
    _errors.InvalidProtobuf,
    _errors.InvalidGraph,
    _errors.NotImplemented,
    _errors.RuntimeException,
)
"""What onnxruntime raises for a model that it cannot run."""
Quantization = Literal["qdq", "qoperator", "dynamic"]
FLOAT = TensorProto.FLOAT
_LIGHT_FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
LIGHT = tuple(sorted(path.stem for path in _LIGHT_FOLDER.glob("*.onnx")))
ort.set_default_logger_severity(4)


def model_of(
    nodes: Iterable[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[int | str | None] | None]],
    outputs: Iterable[str],
    constants: dict[str, Array] | None = None,
    opset: int = 17,
    domains: Iterable[str] = (),
    ir_version: int = 8,
) -> ModelProto:
    """A model from its parts; outputs are declared untyped-shape float unless written as ``"name:INT64"``."""
    declared = []
    for output in outputs:
        name, _, kind = output.partition(":")
        declared.append(helper.make_tensor_value_info(name, getattr(TensorProto, kind or "FLOAT"), None))
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(name, kind, dims) for name, (kind, dims) in inputs.items()],
        declared,
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=imports)
    model.ir_version = ir_version
    return model


def run(model: ModelProto, feeds: dict[str, Array], *, optimize: bool = False) -> list[Array]:
    """All outputs, by onnxruntime on one thread."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    given = {}
    for entry in session.get_inputs():
        array = feeds[entry.name]
        given[entry.name] = array.astype(kinds[entry.type]) if entry.type in kinds else array
    outputs: list[Array] = session.run(None, given)
    return outputs


def feeds_of(model: ModelProto, seed: int = 0, batch: int = 1) -> dict[str, Array]:
    """Random float inputs; symbolic extents become ``batch``."""
    rng = np.random.default_rng(seed)
    constants = {tensor.name for tensor in model.graph.initializer}
    feeds = {}
    for value in model.graph.input:
        if value.name not in constants:
            dims = [d.dim_value if d.dim_value > 0 else batch for d in value.type.tensor_type.shape.dim]
            feeds[value.name] = rng.standard_normal(dims).astype(np.float32)
    return feeds


def check(
    model: ModelProto,
    feeds: dict[str, Array] | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    batch: int = 1,
) -> Canonical:
    """Canonicalize, and assert equal outputs, idempotence, determinism, kept names and an unchanged argument.

    ``atol`` is relative to the largest element of each output.
    """
    before = model.SerializeToString(deterministic=True)
    result = canonicalize(model)
    assert model.SerializeToString(deterministic=True) == before
    assert canonicalize(model).model.SerializeToString() == result.model.SerializeToString()
    again = canonicalize(result.model)
    assert again.applied == ()
    assert again.model.SerializeToString() == result.model.SerializeToString()
    assert [v.name for v in result.model.graph.output] == [v.name for v in model.graph.output]
    made = {name for node in model.graph.node for name in node.output}
    new = {name for node in result.model.graph.node for name in node.output} - made
    if not model.functions:
        assert new == set(result.twins)
    feeds = feeds_of(model, batch=batch) if feeds is None else feeds
    for expected, actual in zip(run(model, feeds), run(result.model, feeds), strict=True):
        assert actual.shape == expected.shape
        if expected.dtype.kind == "f":
            scale = max(float(np.abs(expected.astype(np.float64)).max(initial=0)), 1e-30)
            np.testing.assert_allclose(actual, expected.astype(actual.dtype), rtol=rtol, atol=atol * scale)
        else:
            np.testing.assert_array_equal(actual, expected)
    return result


def applied(result: Canonical) -> dict[str, int]:
    """How often each rewrite changed something."""
    return {entry.name: entry.count for entry in result.applied}


def operators(result: Canonical) -> list[str]:
    """The operators of the canonical graph in order."""
    return [node.op_type for node in result.model.graph.node]


def constants_of(result: Canonical) -> dict[str, Array]:
    """The initializers of the canonical graph."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in result.model.graph.initializer}


def array_of(*shape: int) -> Array:
    """Normal random numbers, always the same for a shape."""
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def convnet(opset: int = 13, size: int = 16, batch: int | str = 1, seed: int = 0) -> ModelProto:
    """A small network with a residual sum, two pools and a linear head; inputs ``(batch, 3, size, size)``."""
    rng = np.random.default_rng(seed)

    def weight(*shape: int) -> Array:
        return (rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)

    constants = {
        "w1": weight(8, 3, 3, 3),
        "b1": weight(8, 1)[:, 0],
        "w2": weight(8, 8, 3, 3),
        "b2": weight(8, 1)[:, 0],
    }
    constants |= {"w3": weight(10, 8), "b3": weight(10, 1)[:, 0]}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("MaxPool", ["r1"], ["p1"], "pool1", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p1", "w2", "b2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "p1"], ["s2"], "add2"),
        helper.make_node("Relu", ["s2"], ["r2"], "relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["g"], "gap"),
        helper.make_node("Flatten", ["g"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["logits"], "fc", transB=1),
    ]
    return model_of(nodes, {"x": (FLOAT, [batch, 3, size, size])}, ["logits"], constants, opset)


def saved_by_onnxruntime(model: ModelProto, level: Literal["BASIC", "EXTENDED", "ALL"]) -> ModelProto:
    """The file that onnxruntime saves after optimizing at that level."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "saved.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(path)


def quantized(model: ModelProto, form: Quantization, *, per_channel: bool = True, seed: int = 0) -> ModelProto:
    """The model in 8 bits as ``onnxruntime.quantization`` writes it, calibrated on random inputs."""
    from onnxruntime import quantization as q

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = iter([feeds_of(model, seed=seed + i) for i in range(4)])

        def get_next(self) -> dict[str, Array] | None:
            return next(self.feeds, None)

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "a.onnx", Path(folder) / "b.onnx"
        onnx.save(model, source)
        if form == "dynamic":
            q.quantize_dynamic(source, target, per_channel=per_channel, weight_type=q.QuantType.QUInt8)
        else:
            kind = q.QuantFormat.QDQ if form == "qdq" else q.QuantFormat.QOperator
            q.quantize_static(source, target, Reader(), quant_format=kind, per_channel=per_channel)
        return onnx.load(target)


def half(model: ModelProto, *, keep_io_types: bool = True) -> ModelProto:
    """The model in float16 as ``onnxruntime.transformers`` converts it (nodes unsorted)."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copy = ModelProto()
    copy.CopyFrom(model)
    converted: ModelProto = convert_float_to_float16(copy, keep_io_types=keep_io_types)
    return converted


def light(name: str, *, randomize: bool = True) -> ModelProto:
    """A graph that Caffe2 exported (IR version 3, constants as nodes), with random weights.

    The graphs ship with onnx; their weights are ConstantOfShape nodes, which are replaced by initializers
    where they have two axes or more, drawn so that the signal keeps its variance.
    """
    model = onnx.load(_LIGHT_FOLDER / f"{name}.onnx")
    if not randomize:
        return model
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    shapes = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        shape = shapes.get(node.input[0]) if node.op_type == "ConstantOfShape" else None
        if shape is None or len(shape) < 2:
            kept.append(node)
            continue
        array = rng.standard_normal(shape.tolist(), dtype=np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        model.graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
        model.graph.input.append(helper.make_tensor_value_info(node.output[0], FLOAT, shape.tolist()))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model
