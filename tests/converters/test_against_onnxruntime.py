"""Geometry of windows, resizing, padding and slicing: the same numbers as onnxruntime, or both refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support.onnx_nodes import Array, build, run_onnxruntime, single

from onnxvis.converters import convert

COMMON = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
RNG = np.random.default_rng(7)


def _random(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def _agree(model: onnx.ModelProto, feeds: dict[str, Array], tolerance: float = 2e-5) -> None:
    expected = run_onnxruntime(model, feeds)
    made = convert(model)({name: torch.from_numpy(value) for name, value in feeds.items()})
    for value, array in zip(model.graph.output, expected, strict=True):
        got = made[value.name].numpy()
        assert got.shape == array.shape
        if array.size:
            scale = max(1.0, float(np.abs(array).max()))
            np.testing.assert_allclose(got, array, rtol=0, atol=tolerance * scale)


def _agree_if_valid(model: onnx.ModelProto, feeds: dict[str, Array], tolerance: float = 2e-5) -> None:
    """Skips geometry that onnxruntime itself refuses."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    refusals = (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.NotImplemented,
        state.RuntimeException,
    )
    try:
        expected = run_onnxruntime(model, feeds)
    except refusals:
        assume(False)
    assume(all(array.size for array in expected))
    _agree(model, feeds, tolerance)


@st.composite
def _windows(draw: st.DrawFn, *, pooling: bool) -> tuple[tuple[int, ...], dict[str, Any]]:
    rank = draw(st.integers(1, 3))
    spatial = tuple(draw(st.integers(3, 9 if rank < 3 else 6)) for _ in range(rank))
    kernel = [draw(st.integers(1, 4)) for _ in range(rank)]
    attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": [draw(st.integers(1, 3)) for _ in range(rank)],
    }
    if draw(st.booleans()):
        attributes["dilations"] = [draw(st.integers(1, 2)) for _ in range(rank)]
    steps = attributes.get("dilations", [1] * rank)
    assume(all((k - 1) * d < n for k, d, n in zip(kernel, steps, spatial, strict=True)))
    how = draw(st.sampled_from(["pads", "pads", "none", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if how == "pads":
        attributes["pads"] = [draw(st.integers(0, k - 1)) for k in kernel * 2]
    elif how != "none":
        attributes["auto_pad"] = how
        # onnxruntime takes negative padding where the stride jumps over cells, and in pooling it forgets the
        # dilation; both are against the standard.
        if how.startswith("SAME"):
            assume(all(s <= k for s, k in zip(attributes["strides"], kernel, strict=True)))
            assume(not pooling or "dilations" not in attributes)
    if pooling:
        attributes["ceil_mode"] = draw(st.integers(0, 1))
    return spatial, attributes


@COMMON
@given(_windows(pooling=False), st.sampled_from([1, 2]), st.booleans())
def test_conv(window: tuple[tuple[int, ...], dict[str, Any]], group: int, constant: bool) -> None:
    spatial, attributes = window
    inputs = {
        "x": _random(2, 4, *spatial),
        "w": _random(6, 4 // group, *attributes["kernel_shape"]),
        "b": _random(6),
    }
    model = single("Conv", inputs, constants=("w", "b") if constant else (), group=group, **attributes)
    _agree_if_valid(model, inputs if not constant else {"x": inputs["x"]})


@COMMON
@given(_windows(pooling=False), st.sampled_from([1, 2]), st.data())
def test_conv_transpose(window: tuple[tuple[int, ...], dict[str, Any]], group: int, data: st.DataObject) -> None:
    spatial, attributes = window
    rank = len(spatial)
    if data.draw(st.booleans(), "output_padding"):
        attributes["output_padding"] = [data.draw(st.integers(0, s - 1)) for s in attributes["strides"]]
    if data.draw(st.booleans(), "output_shape"):
        steps = attributes.get("dilations", [1] * rank)
        geometry = zip(spatial, attributes["strides"], attributes["kernel_shape"], steps, strict=True)
        attributes["output_shape"] = [
            max(1, s * (n - 1) + (k - 1) * d + 1 + data.draw(st.integers(-2, 2))) for n, s, k, d in geometry
        ]
    inputs = {
        "x": _random(2, 4, *spatial),
        "w": _random(4, 3, *attributes["kernel_shape"]),
        "b": _random(3 * group),
    }
    _agree_if_valid(
        single("ConvTranspose", inputs, constants=("w", "b"), group=group, **attributes), {"x": inputs["x"]}
    )


@COMMON
@given(_windows(pooling=True), st.integers(0, 1))
def test_average_pool(window: tuple[tuple[int, ...], dict[str, Any]], include: int) -> None:
    spatial, attributes = window
    x = _random(2, 3, *spatial)
    opset = 19 if "dilations" in attributes else 17
    _agree_if_valid(single("AveragePool", {"x": x}, count_include_pad=include, opset=opset, **attributes), {"x": x})


@COMMON
@given(_windows(pooling=True), st.integers(0, 1))
def test_max_pool_with_indices(window: tuple[tuple[int, ...], dict[str, Any]], order: int) -> None:
    spatial, attributes = window
    x = _random(2, 3, *spatial)
    model = single("MaxPool", {"x": x}, outputs=("y", "i"), storage_order=order, **attributes)
    _agree_if_valid(model, {"x": x})
    _agree_if_valid(single("MaxPool", {"x": x}, **attributes), {"x": x})


@COMMON
@given(_windows(pooling=True), st.integers(1, 3))
def test_lp_pool(window: tuple[tuple[int, ...], dict[str, Any]], p: int) -> None:
    spatial, attributes = window
    x = _random(2, 3, *spatial)
    _agree_if_valid(single("LpPool", {"x": x}, p=p, opset=18, **attributes), {"x": x})


@st.composite
def _resizes(draw: st.DrawFn) -> tuple[dict[str, Any], Array, Array | None, Array | None, Array | None]:
    mode = draw(st.sampled_from(["nearest", "linear", "cubic"]))
    transforms = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize"]
    # Ties of half_pixel_symmetric depend on the last bit of float32 arithmetic.
    transforms += ["half_pixel_symmetric"] if mode != "nearest" else []
    attributes: dict[str, Any] = {
        "mode": mode,
        "coordinate_transformation_mode": draw(st.sampled_from(transforms)),
        "axes": [2, 3],
        "extrapolation_value": 7.0,
    }
    if mode == "nearest":
        attributes["nearest_mode"] = draw(st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]))
    else:
        attributes["antialias"] = draw(st.integers(0, 1))
    if mode == "cubic":
        attributes["exclude_outside"] = draw(st.integers(0, 1))
        attributes["cubic_coeff_a"] = draw(st.sampled_from([-0.75, -0.5]))
    # Seventh parts are not exact in float32, and where they tie depends on the last bit too.
    size = st.sampled_from([2, 3, 4, 5, 6, 8, 9])
    x = _random(2, 3, draw(size), draw(size))
    roi = np.array([0.21, 0.13, 0.93, 1.17], np.float32)
    if draw(st.booleans()):
        attributes["keep_aspect_ratio_policy"] = draw(st.sampled_from(["stretch", "not_larger", "not_smaller"]))
        sizes = np.array([draw(st.integers(1, 14)), draw(st.integers(1, 14))], np.int64)
        return attributes, x, roi, None, sizes
    choices = st.sampled_from([0.3, 0.5, 0.6, 1 / 3, 1.0, 1.3, 1.5, 2.0, 2.5, 3.0])
    scales = np.array([draw(choices), draw(choices)], np.float32)
    assume(all(np.floor(n * s) >= 1 for n, s in zip(x.shape[2:], scales, strict=True)))
    return attributes, x, roi, scales, None


@settings(COMMON, max_examples=200)
@given(_resizes())
def test_resize(request: tuple[dict[str, Any], Array, Array | None, Array | None, Array | None]) -> None:
    attributes, x, roi, scales, sizes = request
    inputs = {"x": x, "roi": roi, "scales": scales, "sizes": sizes}
    if sizes is None:
        inputs.pop("sizes")
    _agree_if_valid(
        single("Resize", inputs, constants=("roi", "scales", "sizes"), opset=19, **attributes), {"x": x}, 1e-4
    )


@pytest.mark.parametrize(("opset", "op_type"), [(9, "Upsample"), (10, "Resize")])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_old_upsampling(opset: int, op_type: str, mode: str) -> None:
    inputs = {"x": _random(1, 2, 4, 5), "scales": np.array([1, 1, 2, 3], np.float32)}
    _agree(single(op_type, inputs, constants=("scales",), opset=opset, mode=mode), {"x": inputs["x"]})


@COMMON
@given(
    st.sampled_from(["constant", "reflect", "edge", "wrap"]),
    st.lists(st.integers(-2, 3), min_size=4, max_size=4),
    st.booleans(),
)
def test_pad(mode: str, amounts: list[int], some_axes: bool) -> None:
    x = _random(5, 6) if not some_axes else _random(2, 5, 6)
    inputs = {
        "x": x,
        "pads": np.array(amounts, np.int64),
        "value": np.float32(3.0) if mode == "constant" else None,
        "axes": np.array([-1, 1], np.int64) if some_axes else None,
    }
    if not some_axes:
        inputs.pop("axes")
    # onnxruntime leaves mixed cropping and mirroring to chance; the standard's own cases cover it.
    assume(mode == "constant" or min(amounts) >= 0)
    _agree_if_valid(single("Pad", inputs, constants=("pads", "value", "axes"), mode=mode, opset=19), {"x": x})


@COMMON
@given(st.data())
def test_slice(data: st.DataObject) -> None:
    x = _random(7, 5)
    ints = st.integers(-9, 9)
    steps = st.integers(-3, 3).filter(bool)
    pick = [[data.draw(kind) for _ in range(2)] for kind in (ints, ints, steps)]
    inputs = {
        "x": x,
        "starts": np.array(pick[0]),
        "ends": np.array(pick[1]),
        "axes": np.array([1, -2]),
        "steps": np.array(pick[2]),
    }
    _agree_if_valid(single("Slice", inputs, constants=("starts", "ends", "axes", "steps")), {"x": x})


def test_upsample_with_attributes() -> None:
    x = _random(1, 2, 3, 4)
    _agree(single("Upsample", {"x": x}, opset=7, mode="nearest", scales=[1.0, 1.0, 2.0, 3.0]), {"x": x})


@pytest.mark.parametrize("op_type", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_recurrent(op_type: str, direction: str) -> None:
    gates, ways = {"LSTM": 4, "GRU": 3, "RNN": 1}[op_type], 2 if direction == "bidirectional" else 1
    inputs: dict[str, Array | None] = {
        "x": _random(5, 3, 4),
        "w": _random(ways, gates * 6, 4),
        "r": _random(ways, gates * 6, 6),
        "b": _random(ways, 2 * gates * 6),
        "lengths": np.array([5, 3, 2], np.int32),
        "h": _random(ways, 3, 6),
    }
    extra: dict[str, Any] = {}
    if op_type == "LSTM":
        inputs |= {"c": _random(ways, 3, 6), "p": _random(ways, 18)}
    if op_type == "GRU":
        extra["linear_before_reset"] = 1
    outputs = ("y", "y_h", "y_c")[: 3 if op_type == "LSTM" else 2]
    model = single(
        op_type,
        inputs,
        constants=tuple(n for n in inputs if n != "x"),
        outputs=outputs,
        hidden_size=6,
        direction=direction,
        **extra,
    )
    x = inputs["x"]
    assert x is not None
    _agree(model, {"x": x})


@pytest.mark.parametrize("opset", [7, 12, 13, 17])
def test_softmax_axis_meaning_of_its_opset(opset: int) -> None:
    x = _random(2, 3, 4)
    _agree(single("Softmax", {"x": x}, opset=opset, axis=1), {"x": x})


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_split_forms(opset: int) -> None:
    x = _random(2, 7)
    node = onnx.helper.make_node("Split", ["x", *(["s"] if opset == 13 else [])], ["a", "b", "c"], axis=1)
    if opset == 11:
        node.attribute.append(onnx.helper.make_attribute("split", [2, 4, 1]))
    if opset == 18:
        node.attribute.append(onnx.helper.make_attribute("num_outputs", 3))
    constants = {"s": np.array([1, 1, 5])} if opset == 13 else {}
    _agree(build([node], {"x": x}, ["a", "b", "c"], constants, opset=opset), {"x": x})
