"""Bringing nodes of older and newer operator sets to opset 17."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.formats import FLOAT, applied, array_of, check, model_of, operators, run

from onnxvis.graph.canonical import canonicalize
from onnxvis.graph.canonical.opset import REWRITE as PIN
from onnxvis.graph.canonical.shapes import REWRITE as SHAPES

INT64 = TensorProto.INT64
K = dict[str, np.ndarray]


def one(
    op: str,
    opset: int,
    shape: list[int | str | None] | None,
    constants: K | None = None,
    outputs: int = 1,
    **attributes: Any,
) -> Any:
    """A model of one node; an empty constant name leaves the input out."""
    names = [] if constants is None else ["" if name.startswith("_") else name for name in constants]
    made = ["y", "z", "u", "v"][:outputs]
    nodes = [helper.make_node(op, ["x", *names], made, **attributes)]
    kept = {name: array for name, array in (constants or {}).items() if not name.startswith("_")}
    kinds = ["", ":INT64"] if op == "TopK" else ["", ":BOOL"] if op == "Dropout" else [""] * 4
    return model_of(nodes, {"x": (FLOAT, shape)}, [m + k for m, k in zip(made, kinds, strict=False)], kept, opset)


OLD = [
    ("axes-input", one("Squeeze", 9, [1, 3, 1, 2], axes=[0, 2])),
    ("axes-input", one("Unsqueeze", 9, [3, 2], axes=[0, 3])),
    ("axes-input", one("ReduceSum", 9, [3, 2, 4], axes=[0, 2], keepdims=0)),
    ("softmax-axis", one("Softmax", 9, ["n", 5])),
    ("opset", one("Softmax", 11, [2, 5, 1, 1], axis=1)),
    ("softmax-axis", one("Softmax", 11, [2, 3, 4, 5], axis=1)),
    ("softmax-axis", one("Softmax", 11, [2, 3, 4, 5], axis=2)),
    ("opset", one("Softmax", 11, [2, 3, 4, 5], axis=-1)),
    ("softmax-axis", one("Softmax", 11, [2, 3, 4, 1], axis=-2)),
    ("softmax-axis", one("LogSoftmax", 9, [2, 3, 4])),
    ("softmax-axis", one("Hardmax", 9, [2, 3, 4])),
    ("softmax-axis", one("Softmax", 9, ["n", 3, "h", "w"])),
    ("clip-bounds", one("Clip", 7, [2, 3], min=-0.5, max=0.5)),
    ("clip-bounds", one("Clip", 7, [2, 3], max=0.5)),
    ("clip-bounds", one("Clip", 10, [2, 3], min=0.0)),
    ("pad-inputs", one("Pad", 7, [1, 2, 3, 3], pads=[0, 0, 1, 2, 0, 0, 0, 1], value=1.5)),
    ("pad-inputs", one("Pad", 10, [1, 2, 3, 3], pads=[0, 0, 1, 2, 0, 0, 0, 1], mode="reflect")),
    ("slice-inputs", one("Slice", 9, [4, 5], starts=[1, -3], ends=[9, -1], axes=[0, 1])),
    ("slice-inputs", one("Slice", 9, [4, 5], starts=[1, 0], ends=[3, 2])),
    ("split-sizes", one("Split", 11, [2, 8], outputs=2, split=[3, 5], axis=1)),
    ("opset", one("Split", 11, [2, 8], outputs=2, axis=1)),
    ("top-k", one("TopK", 9, [2, 8], outputs=2, k=3)),
    ("top-k", one("TopK", 7, [2, 8], outputs=2, k=3, axis=0 - 1)),
    ("identity", one("Dropout", 7, [2, 8], ratio=0.3)),
    ("upsample", one("Upsample", 7, [1, 2, 3, 4], scales=[1.0, 1.0, 2.0, 3.0])),
    ("upsample", one("Upsample", 9, [1, 2, 3, 4], {"s": np.float32([1, 1, 2, 2.5])}, mode="nearest")),
    ("upsample", one("Upsample", 9, [1, 2, 3, 4], {"s": np.float32([1, 1, 2, 2])}, mode="linear")),
    ("upsample", one("Resize", 10, [1, 2, 3, 4], {"s": np.float32([1, 1, 2, 3])}, mode="nearest")),
    ("upsample", one("Resize", 10, [1, 2, 7, 8], {"s": np.float32([1, 1, 0.5, 0.4])}, mode="nearest")),
    ("upsample", one("Resize", 10, [1, 2, 7, 8], {"s": np.float32([1, 1, 0.5, 1.5])}, mode="linear")),
    (
        "resize-form",
        one(
            *("Resize", 11, [1, 2, 7, 8], {"r": np.float32([]), "s": np.float32([1, 1, 1.5, 0.6])}),
            mode="nearest",
            coordinate_transformation_mode="tf_half_pixel_for_nn",
            nearest_mode="floor",
        ),
    ),
    ("legacy-attributes", one("BatchNormalization", 7, [2, 3, 4], None)),
    ("opset", one("Cast", 9, [3], to=FLOAT)),
    ("opset", one("PRelu", 9, [2, 3, 4], {"slope": array_of(3, 1)})),
    ("opset", one("Gemm", 9, [2, 3], {"w": array_of(3, 4), "c": array_of(4)})),
    ("opset", one("MaxPool", 8, [1, 2, 6, 6], kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")),
    (
        "opset",
        one("AveragePool", 7, [1, 2, 6, 6], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    ),
    ("opset", one("Flatten", 9, [1, 2, 6, 6], axis=2)),
    ("opset", one("ReduceMean", 7, [1, 2, 6, 6], axes=[2, 3])),
]


@pytest.mark.parametrize(("rewrite", "model"), OLD, ids=lambda v: v if isinstance(v, str) else "")
def test_older_forms(rewrite: str, model: Any):
    node = model.graph.node[0]
    if node.op_type == "BatchNormalization":
        statistics = {name: np.float32([0.5, 1, 2]) for name in ("g", "b", "m", "v")}
        node.input.extend(statistics)
        node.attribute.append(helper.make_attribute("spatial", 1))
        for name, array in statistics.items():
            model.graph.initializer.append(numpy_helper.from_array(array, name))
    dims = [d.dim_value or 4 for d in model.graph.input[0].type.tensor_type.shape.dim]
    result = check(model, {"x": array_of(*dims)})
    assert rewrite in set(applied(result)) | ({rewrite} if rewrite == "legacy-attributes" else set())
    assert result.opset == 17


def test_batch_norm_of_rank_one_per_position():
    statistics = {name: np.abs(array_of(3, 4)) + 0.5 for name in ("g", "b", "m", "v")}
    model = one("BatchNormalization", 8, [2, 3, 4], statistics, spatial=0)
    result = canonicalize(model)
    assert operators(result) == ["Mul", "Add"]
    x, (gamma, beta, mean, var) = array_of(2, 3, 4), statistics.values()
    np.testing.assert_allclose(
        run(result.model, {"x": x})[0], (x - mean) / np.sqrt(var + 1e-5) * gamma + beta, rtol=1e-5, atol=1e-5
    )


def test_old_softmax_of_a_one_by_one_map_needs_no_reshape():
    result = canonicalize(one("Softmax", 11, ["n", 5, 1, 1], axis=1))
    assert operators(result) == ["Softmax"]
    assert result.model.graph.node[0].attribute[0].i == 1


@pytest.mark.parametrize("scale", [(0.5, 2.0), (2.0, 0.5)])
def test_the_first_resize_that_rounds_both_ways_stays(scale: tuple[float, float]):
    model = one("Resize", 10, [1, 2, 8, 8], {"s": np.float32([1, 1, *scale])}, mode="nearest")
    assert check(model).opset == 10


def roi_align(opset: int) -> Any:
    nodes = [helper.make_node("RoiAlign", ["x", "rois", "i"], ["y"], output_height=3, output_width=3)]
    constants = {"rois": np.float32([[0, 0, 5, 6], [1, 2, 7, 7]]), "i": np.int64([0, 1])}
    return model_of(nodes, {"x": (FLOAT, [2, 3, 8, 8])}, ["y"], constants, opset)


@pytest.mark.parametrize("opset", [10, 16])
def test_roi_align_keeps_the_meaning_of_its_version(opset: int):
    assert check(roi_align(opset)).opset == 17


def test_scatter_becomes_scatter_elements():
    constants = {"i": np.int64([[0, 1]]), "u": np.float32([[5, 6]])}
    assert operators(check(one("Scatter", 9, [2, 2], constants))) == ["ScatterElements"]


NEW = [
    ("reduce-axes", one("ReduceMean", 18, [1, 2, 3, 3], {"a": np.int64([-1, -2])})),
    ("reduce-axes", one("ReduceMax", 20, [1, 2, 3, 3], {"a": np.int64([1])}, keepdims=0)),
    ("reduce-axes", one("ReduceMean", 18, [2, 3], {"a": np.int64([])}, noop_with_empty_axes=1)),
    ("reduce-axes", one("ReduceMean", 18, [2, 3], {"a": np.int64([])})),
    ("reduce-axes", one("ReduceL1", 18, [2, 3], noop_with_empty_axes=1)),
    ("reduce-axes", one("ReduceL2", 18, [2, 3], {"a": np.int64([1])})),
    ("opset", one("ReduceMean", 18, [2, 3])),
    ("opset", one("ReduceSum", 18, [2, 3], {"a": np.int64([1])})),
    ("split-sizes", one("Split", 18, [2, 8], outputs=2, num_outputs=2, axis=1)),
    ("split-sizes", one("Split", 18, [2, 7], outputs=3, num_outputs=3, axis=-1)),
    ("opset", one("Split", 18, [2, 8], {"s": np.int64([3, 5])}, outputs=2, axis=1)),
    (
        "pad-inputs",
        one("Pad", 18, [2, 3, 4], {"p": np.int64([1, 2, 0, 1]), "f": np.float32(2), "a": np.int64([-1, 1])}),
    ),
    (
        "pad-inputs",
        one("Pad", 18, [2, 3, 4], {"p": np.int64([1, 1]), "_": np.float32(2), "a": np.int64([2])}, mode="edge"),
    ),
    (
        "resize-form",
        one("Resize", 18, [1, 2, 4, 4], {"_": array_of(1), "s": np.float32([2, 3])}, axes=[2, 3]),
    ),
    (
        "resize-form",
        one(
            "Resize",
            19,
            [1, 2, 4, 4],
            {"_": array_of(1), "_2": array_of(1), "z": np.int64([7, 5])},
            axes=[-2, -1],
        ),
    ),
    (
        "resize-form",
        one("Resize", 18, [1, 2, 4, 4], {"_": array_of(1), "s": np.float32([1, 1, 2, 2])}, antialias=0),
    ),
    (
        "resize-form",
        one(
            *("Resize", 18, [1, 2, 4, 4], {"_": array_of(1), "_2": array_of(1), "z": np.int64([1, 2, 9, 8])}),
            keep_aspect_ratio_policy="stretch",
            mode="cubic",
        ),
    ),
    ("gelu", one("Gelu", 20, [2, 3])),
    ("gelu", one("Gelu", 20, [2, 3], approximate="tanh")),
    ("gelu", one("Mish", 18, [2, 3])),
    (
        "group-norm",
        one("GroupNormalization", 21, [2, 4, 3, 3], {"s": array_of(4), "b": array_of(4)}, num_groups=2),
    ),
    (
        "group-norm",
        one("GroupNormalization", 21, ["n", 6, 5], {"s": array_of(6), "b": array_of(6)}, num_groups=3),
    ),
    ("rms-norm", one("RMSNormalization", 23, [2, 3, 4], {"s": array_of(4)})),
    ("rms-norm", one("RMSNormalization", 23, [2, 3, 4], {"s": array_of(3, 4)}, axis=1)),
    ("grid-sample", one("GridSample", 20, [1, 2, 4, 4], {"g": np.tanh(array_of(1, 3, 3, 2))}, mode="linear")),
    ("grid-sample", one("GridSample", 20, [1, 2, 4, 4], {"g": np.tanh(array_of(1, 3, 3, 2))}, mode="cubic")),
    ("idle-cast", one("CastLike", 19, [2, 3], {"t": np.float64([1])})),
    (
        "opset",
        one(
            "AveragePool",
            19,
            [1, 2, 6, 6],
            kernel_shape=[3, 3],
            dilations=[1, 1],
            ceil_mode=1,
            strides=[2, 2],
        ),
    ),
    ("opset", one("Reshape", 21, [2, 3, 4], {"s": np.int64([0, -1])}, allowzero=0)),
    ("opset", one("Conv", 22, [1, 3, 5, 5], {"w": array_of(2, 3, 3, 3)})),
    ("opset", one("HardSwish", 22, [2, 3])),
    ("opset", one("Squeeze", 21, [1, 3], {"a": np.int64([0])})),
]


@pytest.mark.parametrize(("rewrite", "model"), NEW, ids=lambda v: v if isinstance(v, str) else "")
def test_newer_forms(rewrite: str, model: Any):
    if model.graph.node[0].op_type == "CastLike":
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    dims = [d.dim_value or 2 for d in model.graph.input[0].type.tensor_type.shape.dim]
    result = check(model, {"x": array_of(*dims)})
    assert rewrite in applied(result)
    assert result.opset == 17


def test_group_norm_of_opset_18_scales_its_groups():
    model = one(
        "GroupNormalization",
        18,
        [2, 4, 3, 3],
        {"s": np.float32([2, 3]), "b": np.float32([1, -1])},
        num_groups=2,
    )
    x = array_of(2, 4, 3, 3)
    grouped = x.reshape(2, 2, -1).astype(np.float64)
    normal = (grouped - grouped.mean(-1, keepdims=True)) / np.sqrt(grouped.var(-1, keepdims=True) + 1e-5)
    expected = normal * np.float32([2, 3])[:, None] + np.float32([1, -1])[:, None]
    result = canonicalize(model)
    assert result.opset == 17
    np.testing.assert_allclose(run(result.model, {"x": x})[0], expected.reshape(x.shape), rtol=1e-4, atol=1e-5)


def test_swish_of_opset_24():
    result = canonicalize(one("Swish", 24, [2, 3], alpha=0.7))
    x = array_of(2, 3)
    assert result.opset == 17
    np.testing.assert_allclose(run(result.model, {"x": x})[0], x / (1 + np.exp(-0.7 * x)), rtol=1e-5)


MISFITS = [
    one(
        "Resize",
        18,
        [1, 2, 8, 8],
        {"_": array_of(1), "s": np.float32([1, 1, 0.5, 0.5])},
        antialias=1,
        mode="linear",
    ),
    one(
        *("Resize", 18, [1, 2, 8, 8], {"_": array_of(1), "_2": array_of(1), "z": np.int64([4, 5])}),
        axes=[2, 3],
        keep_aspect_ratio_policy="not_larger",
    ),
    one("Pad", 19, [1, 2, 8, 8], {"p": np.int64([0, 0, 1, 1] * 2)}, mode="wrap"),
    one("AveragePool", 19, [1, 2, 8, 8], kernel_shape=[2, 2], dilations=[2, 2]),
    one("Split", 18, ["n", 3], outputs=2, num_outputs=2),
]


@pytest.mark.parametrize("model", MISFITS, ids=lambda m: m.graph.node[0].op_type)
def test_what_opset_17_lacks_keeps_its_operator_set(model: Any):
    model.graph.node.insert(0, helper.make_node("ReduceMean", ["w", "axes"], ["mean"], keepdims=0))
    model.graph.node.append(helper.make_node("Add", ["y", "mean"], ["sum"]))
    model.graph.input.append(helper.make_tensor_value_info("w", FLOAT, [3]))
    model.graph.output.append(helper.make_tensor_value_info("sum", FLOAT, None))
    model.graph.initializer.append(numpy_helper.from_array(np.int64([0]), "axes"))
    model.graph.node.append(helper.make_node("Identity", ["sum"], ["copy"]))
    model.graph.node.append(helper.make_node("Relu", ["copy"], ["last"]))
    model.graph.output.append(helper.make_tensor_value_info("last", FLOAT, None))
    dims = [d.dim_value or 4 for d in model.graph.input[0].type.tensor_type.shape.dim]
    version = model.opset_import[0].version
    result = check(model, {"x": array_of(*dims), "w": array_of(3)})
    assert result.opset == version
    assert set(applied(result)) >= {"identity"}  # the rest still benefits


def test_element_types_that_opset_17_lacks_keep_the_operator_set():
    nodes = [helper.make_node("Equal", ["a", "b"], ["y"])]
    model = model_of(nodes, {"a": (TensorProto.STRING, [2]), "b": (TensorProto.STRING, [2])}, ["y:BOOL"], opset=19)
    assert canonicalize(model).opset == 19


def test_an_old_dropout_whose_mask_is_read_keeps_its_operator_set():
    assert check(one("Dropout", 10, [2, 8], outputs=2, ratio=0.3)).opset == 10


def test_an_operator_set_before_the_oldest_stays():
    assert canonicalize(one("Relu", 6, [2])).opset == 6


def test_each_form_rewrite_can_be_applied_alone():
    from onnxvis.graph.canonical import REWRITES

    alone = {rewrite.name: rewrite for rewrite in REWRITES if rewrite.stage == "form"}
    for name, model in (*OLD, *NEW):
        if name in alone and name not in ("opset", "legacy-attributes"):
            result = canonicalize(model, (SHAPES, alone[name], PIN))
            assert result.opset == 17, name
            assert name in applied(result)
