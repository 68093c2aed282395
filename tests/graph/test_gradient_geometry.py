"""Windows and sizes of every kind: the gradient in onnxruntime against torch autograd in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper
from support.onnx_nodes import Array, build, run_onnxruntime, single
from support.slopes import autograd, fixed_shapes, onnx_gradients

FEW = settings(max_examples=40, deadline=None)
free_or_fixed = st.booleans()


def agree(model: onnx.ModelProto, x: Array, free: bool, wrt: tuple[str, ...] = ("x",), **more: Array) -> None:
    feeds = {"x": x, **more}
    model = model if free else fixed_shapes(model, feeds)
    (value,) = run_onnxruntime(model, feeds, ["y"])
    cotangent = np.random.default_rng(1).standard_normal(value.shape).astype(np.float32)
    ours = onnx_gradients(model, feeds, "y", list(wrt), cotangent)
    for mine, other in zip(ours, autograd(model, feeds, "y", list(wrt), cotangent), strict=True):
        assert mine.shape == other.shape
        assert np.abs(mine - other).max() <= 2e-5 * max(np.abs(other).max(), 1e-3)


def noise(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@st.composite
def windows(draw: st.DrawFn) -> dict[str, Any]:
    kernel = [draw(st.integers(1, 4)) for _ in range(2)]
    return {
        "kernel_shape": kernel,
        "strides": [draw(st.integers(1, 3)) for _ in range(2)],
        "dilations": [draw(st.integers(1, 2)) for _ in range(2)],
        "pads": [draw(st.integers(0, kernel[i % 2] - 1)) for i in range(4)],
    }


def fits(size: tuple[int, int], at: dict[str, Any]) -> bool:
    reach = [d * (k - 1) + 1 for d, k in zip(at["dilations"], at["kernel_shape"], strict=True)]
    return all(size[i] + at["pads"][i] + at["pads"][i + 2] >= reach[i] for i in range(2))


sizes = st.tuples(st.integers(2, 9), st.integers(2, 9))


@FEW
@given(windows(), sizes, st.sampled_from(["dense", "wide", "grouped", "depthwise"]), free_or_fixed)
def test_convolutions(at: dict[str, Any], size: tuple[int, int], kind: str, free: bool) -> None:
    assume(fits(size, at))
    channels, out, groups = {"dense": (3, 4, 1), "wide": (9, 5, 1), "grouped": (4, 6, 2), "depthwise": (4, 4, 4)}[kind]
    weight = noise(out, channels // groups, *at["kernel_shape"])
    x = noise(2, channels, *size)
    agree(single("Conv", {"x": x, "w": weight}, constants=("w",), group=groups, **at), x, free)


@FEW
@given(windows(), sizes, st.integers(0, 1), free_or_fixed)
def test_transposed_convolutions(at: dict[str, Any], size: tuple[int, int], over: int, free: bool) -> None:
    padding = [min(over, s - 1) for s in at["strides"]]
    x, weight = noise(1, 4, *size), noise(4, 3, *at["kernel_shape"])
    model = single("ConvTranspose", {"x": x, "w": weight}, constants=("w",), group=2, output_padding=padding, **at)
    spread = [s * (n - 1) + o for s, n, o in zip(at["strides"], size, padding, strict=True)]
    reach = [d * (k - 1) + 1 for d, k in zip(at["dilations"], at["kernel_shape"], strict=True)]
    assume(all(spread[i] + reach[i] - at["pads"][i] - at["pads"][i + 2] > 0 for i in range(2)))
    agree(model, x, free)


@FEW
@given(windows(), sizes, st.sampled_from(["MaxPool", "AveragePool", "whole"]), st.integers(0, 1), free_or_fixed)
def test_pools(at: dict[str, Any], size: tuple[int, int], kind: str, ceil: int, free: bool) -> None:
    assume(fits(size, at))
    options = {**at, "ceil_mode": ceil}
    if kind != "MaxPool":
        options |= {"dilations": None, "count_include_pad": int(kind == "whole")}
        assume(fits(size, {**at, "dilations": [1, 1]}))
        del options["dilations"]
        # torch and onnxruntime count padding beyond the last whole window differently; the network tests cover it.
        assume(not (ceil and kind == "whole"))
    x = noise(2, 3, *size)
    agree(single("MaxPool" if kind == "MaxPool" else "AveragePool", {"x": x}, **options), x, free)


@FEW
@given(
    sizes,
    sizes,
    st.sampled_from(["linear", "nearest", "cubic"]),
    st.sampled_from(["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"]),
    free_or_fixed,
)
def test_resizing(size: tuple[int, int], target: tuple[int, int], mode: str, where: str, free: bool) -> None:
    x = noise(1, 2, *size)
    inputs = {"x": x, "r": None, "s": None, "t": np.array([1, 2, *target], np.int64)}
    model = single("Resize", inputs, constants=("t",), mode=mode, coordinate_transformation_mode=where)
    agree(model, x, free)


@FEW
@given(
    st.lists(st.tuples(st.integers(2, 4), st.booleans(), st.booleans()), min_size=1, max_size=4),
    st.integers(0, 3),
    st.sampled_from(["Add", "Mul", "Sub", "Div", "Max"]),
    free_or_fixed,
)
def test_stretched_shapes(axes: list[tuple[int, bool, bool]], lost: int, operator: str, free: bool) -> None:
    first = tuple(1 if thin else n for n, thin, _ in axes)
    second = tuple(1 if thin else n for n, _, thin in axes)[min(lost, len(axes)) :]
    a, b = noise(*first), np.asarray(noise(*second) + np.float32(3.5))
    agree(single(operator, {"x": a, "b": b}), a, free, ("x", "b"), b=b)


@pytest.mark.parametrize("free", [False, True])
def test_axes_of_one_name_may_differ(free: bool) -> None:
    """A file that calls height and width alike must not make a row count as a picture."""
    x, b = noise(2, 3, 5, 4), noise(1, 3, 5, 1)
    model = build([helper.make_node("Mul", ["x", "b"], ["y"])], {"x": x, "b": b}, ["y"])
    if free:
        for value in model.graph.input:
            value.CopyFrom(helper.make_tensor_value_info(value.name, 1, ["?", "?", "?", "?"]))
    agree(model, x, True, ("x", "b"), b=b)
