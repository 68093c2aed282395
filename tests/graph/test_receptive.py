"""Receptive fields against closed forms and against the pixels that units really depend on."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.graphs import Builder
from support.shapes import measure_shapes
from support.supports import pixel_supports
from support.zoo import INPUT, export, image, torch_module

from onnxvis.errors import LayerError, ModelError
from onnxvis.graph.receptive import TensorField, guess_layout, receptive_fields

H, W = 15, 18


def _fields(model: onnx.ModelProto, layout: str = "NCHW") -> dict[str, TensorField]:
    """Fields with shapes measured at batch 1 (the graphs here leave the batch free)."""
    return receptive_fields(model, measure_shapes(model), layout=layout)


def _check(
    model: onnx.ModelProto,
    tensors: list[str],
    *,
    tight: bool = True,
    layout: str = "NCHW",
    tolerance: float = 0.0,
) -> dict[str, TensorField]:
    """Every unit's box against the pixels it depends on."""
    fields = _fields(model, layout)
    truth = pixel_supports(model, H, W, layout=layout, tolerance=tolerance)
    for name in tensors:
        field = fields[name]
        assert field.spatial_axes is not None, field.reason
        rows, cols = field.spatial_axes
        seen = np.moveaxis(truth[name], (rows, cols), (1, 2))
        seen = seen.reshape(H, W, *seen.shape[1:3], -1).any(axis=-1)
        for u, v in np.ndindex(seen.shape[2:]):
            ys, xs = np.nonzero(seen[:, :, u, v])
            x0, y0, x1, y1 = field.box(u, v)
            wide = field.box(u, v, clip=False)
            if not len(ys):
                continue
            real = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            inside = x0 <= real[0] and y0 <= real[1] and x1 >= real[2] and y1 >= real[3]
            assert inside, f"{name}[{u},{v}]: box {(x0, y0, x1, y1)} does not contain {real}"
            assert min(wide[2] - real[2], wide[3] - real[3], real[0] - wide[0], real[1] - wide[1]) >= 0
            if tight:
                assert (x0, y0, x1, y1) == real, f"{name}[{u},{v}]"
    return fields


@pytest.mark.parametrize(
    ("net", "exporter", "size", "convolution", "expected"),
    [
        ("resnet18", "legacy", 64, -1, (32, -217, 435)),
        ("resnet18", "dynamo", 64, -1, (32, -217, 435)),
        ("alexnet", "dynamo", 224, 2, (16, -34, 99)),
        ("densenet121", "legacy", 64, -1, (32, -1021, 2071)),
        ("densenet121", "dynamo", 64, -1, (32, -1021, 2071)),
    ],
)
def test_published_numbers(net: str, exporter: Any, size: int, convolution: int, expected: tuple[int, ...]) -> None:
    model = onnx.load(str(export(net, exporter, 17 if exporter == "legacy" else 18, size)))
    fields = receptive_fields(model, measure_shapes(model, size))
    tensor = [n.output[0] for n in model.graph.node if n.op_type == "Conv"][convolution]
    for field in (fields[tensor].rows, fields[tensor].cols):
        assert field is not None
        assert (field.jump, field.start, field.size) == expected
        assert field.exact
    assert not fields[tensor].global_side_path


axis_geometry = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 2), st.integers(0, 2), st.integers(0, 2))
layer = st.tuples(st.sampled_from(["Conv", "Conv", "AveragePool", "MaxPool"]), axis_geometry, axis_geometry)


def _sliding(b: Builder, x: str, layer: Any, extent: tuple[int, int]) -> tuple[str, tuple[int, int]]:
    """Add one layer and give its extent; a layer too large for the map is left out."""
    op, rows, cols = layer
    rows, cols = (_allowed(op, axis) for axis in (rows, cols))
    made = tuple(
        (n + begin + end - (k - 1) * d - 1) // s + 1
        for n, (k, s, d, begin, end) in zip(extent, (rows, cols), strict=True)
    )
    if min(made) < 1:
        return x, extent
    (kh, sh, dh, th, bh), (kw, sw, dw, tw, bw) = rows, cols
    attrs: dict[str, Any] = {"strides": [sh, sw], "pads": [th, tw, bh, bw]}
    if op == "Conv":
        return b.conv(x, 1, 1, (kh, kw), dilations=[dh, dw], **attrs), (made[0], made[1])
    return str(b.node(op, x, kernel_shape=[kh, kw], **attrs)), (made[0], made[1])


def _allowed(op: str, axis: tuple[int, ...]) -> tuple[int, ...]:
    """Pools here have no dilation and pads smaller than the kernel, as onnxruntime demands."""
    k, s, _, begin, end = axis
    return axis if op == "Conv" else (k, s, 1, min(begin, k - 1), min(end, k - 1))


@settings(max_examples=60, deadline=None)
@given(st.lists(layer, min_size=1, max_size=4))
def test_random_stacks_see_exactly_their_support(layers: list[Any]) -> None:
    b = Builder(["N", 1, H, W])
    x, extent, tensors = b.name, (H, W), []
    for one in layers:
        x, extent = _sliding(b, x, one, extent)
        tensors.append(x)
    fields = _check(b.model(x), tensors)
    for name in tensors:
        field = fields[name]
        assert field.exact
        rows_, cols_ = field.rows, field.cols
        assert rows_ is not None
        assert cols_ is not None
        # Away from borders the padding-aware box is the support itself.
        for u in range(len(rows_.support)):
            wide = rows_.interval(u, clip=False)
            if wide[0] >= 0 and wide[1] <= H and rows_.interval(u) != (0, 0):
                assert rows_.interval(u) == wide


@settings(max_examples=40, deadline=None)
@given(
    st.lists(layer, min_size=1, max_size=2),
    st.lists(layer, min_size=1, max_size=2),
    st.sampled_from(["Add", "Concat"]),
)
def test_random_branches_are_hulls(left: list[Any], right: list[Any], join: str) -> None:
    b = Builder(["N", 1, H, W])
    stem = b.conv(b.name, 1, 1, 3, pads=[1, 1, 1, 1])
    ends = []
    for branch in (left, right):
        x = stem
        for op, (height, _, step_down, *_), (width, _, step_right, *_) in branch:
            # Odd kernels with matching pads keep the extent, so that branches can meet.
            kernel = [height | 1, width | 1]
            dilations = [step_down, step_right] if op == "Conv" else [1, 1]
            half = [(k - 1) * d // 2 for k, d in zip(kernel, dilations, strict=True)]
            attrs = {"pads": half + half}
            if op == "Conv":
                x = b.conv(x, 1, 1, (kernel[0], kernel[1]), dilations=dilations, **attrs)
            else:
                x = str(b.node(op, x, kernel_shape=kernel, **attrs))
        ends.append(x)
    joined = b.node(join, *ends, axis=1) if join == "Concat" else b.node(join, *ends)
    after = b.conv(joined, 2 if join == "Concat" else 1, 1, 3, strides=[2, 2])
    _check(b.model(after), [joined, after])


@settings(max_examples=60, deadline=None)
@given(axis_geometry, st.integers(0, 1))
def test_transposed_convolution(geometry: tuple[int, int, int, int, int], extra: int) -> None:
    k, s, d, begin, end = geometry
    b = Builder(["N", 1, H, W])
    x = b.conv(b.name, 1, 1, 3, strides=[3, 3])
    x = b.node(
        "ConvTranspose",
        x,
        b.weight(1, 1, k, k),
        strides=[s, s],
        dilations=[d, d],
        pads=[begin, begin, end, end],
        output_padding=[min(extra, s - 1)] * 2,
    )
    grown = [s * (n - 1) + min(extra, s - 1) + (k - 1) * d + 1 - begin - end for n in (5, 6)]
    assume(min(grown) > 0)
    fields = _check(b.model(x), [x])
    assert fields[x].rows is not None
    assert fields[x].rows.jump == Fraction(3, s)
    assert fields[x].exact == (s == 1)


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_automatic_padding_has_uneven_sides(auto: str, op: str) -> None:
    b = Builder(["N", 1, H, W])
    x = b.conv(b.name, 1, 1, 4, strides=[3, 2], auto_pad=auto)
    if op == "ConvTranspose":
        x = b.node(op, x, b.weight(1, 1, 3, 4), strides=[2, 3], auto_pad=auto)
    fields = _check(b.model(x), [x])
    if op == "Conv":
        # Rows: 15 -> 5 needs (5-1)*3+4-15 = 1 pixel; columns: 18 -> 9 need 2.
        assert fields[x].rows is not None
        assert fields[x].rows.start == (0 if auto == "SAME_UPPER" else -1)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize(
    "coordinates", ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners", "half_pixel_symmetric"]
)
@pytest.mark.parametrize("target", [(10, 12), (7, 5), (3, 11)])
def test_resize_contains_its_support(mode: str, coordinates: str, target: tuple[int, int]) -> None:
    b = Builder(["N", 1, H, W], opset=19)
    x = b.conv(b.name, 1, 1, 3, strides=[3, 3])
    sizes = b.node("Concat", b.node("Shape", x, end=2), b.constant(np.array(target, np.int64)), axis=0)
    x = b.node("Resize", x, "", "", sizes, mode=mode, coordinate_transformation_mode=coordinates)
    # Cubic weights vanish at some phases, so only containment holds there. Weights of 1e-7 are float noise
    # of a position that is on the grid in exact arithmetic.
    fields = _check(b.model(x), [x], tight=mode != "cubic", tolerance=1e-5)
    assert not fields[x].exact


def test_resize_by_scales_and_with_antialias() -> None:
    b = Builder(["N", 1, H, W], opset=18)
    up = b.node("Resize", b.name, "", b.constant(np.array([1, 1, 1.6, 2], np.float32)), mode="linear")
    down = b.node("Resize", up, "", b.constant(np.array([1, 1, 0.3, 0.4], np.float32)), mode="linear", antialias=1)
    fields = _check(b.model(down), [up, down], tight=False, tolerance=1e-5)
    assert fields[up].cols is not None
    assert fields[up].cols.jump == Fraction(1, 2)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
def test_pad_modes(mode: str) -> None:
    b = Builder(["N", 1, H, W])
    x = b.conv(b.name, 1, 1, 2, strides=[2, 2])
    padded = b.node("Pad", x, b.constant(np.array([0, 0, 2, 1, 0, 0, 1, 3])), mode=mode)
    after = b.conv(padded, 1, 1, 3)
    fields = _fields(b.model(after))
    truth = pixel_supports(b.model(after), H, W)[after].reshape(H, W, *measure_shapes(b.model(after))[after][2:])
    for u, v in np.ndindex(truth.shape[2:]):
        ys, xs = np.nonzero(truth[:, :, u, v])
        if len(ys):
            assert fields[after].box(u, v) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    rows = fields[after].rows
    assert rows is not None
    assert (rows.jump, rows.start, rows.size) == (2, -4, 6)
    assert rows.exact == (mode == "constant")


def test_slices_with_steps_and_space_to_depth_agree() -> None:
    b = Builder(["N", 1, 14, 18])
    parts = [
        b.node("Slice", b.name, b.constant([r, c]), b.constant([99, 99]), b.constant([2, 3]), b.constant([2, 2]))
        for c in (0, 1)
        for r in (0, 1)
    ]
    focus = b.node("Concat", *parts, axis=1)
    depth = b.node("SpaceToDepth", b.name, blocksize=2)
    fields = receptive_fields(b.model(focus, depth), measure_shapes(b.model(focus, depth)))
    for name in (focus, depth):
        rows = fields[name].rows
        assert rows is not None
        assert (rows.jump, rows.start, rows.size) == (2, 0, 2)
        assert fields[name].box(3, 4) == (8, 6, 10, 8)


def test_backward_slice_and_depth_to_space() -> None:
    b = Builder(["N", 4, H, W])
    flipped = b.node("Slice", b.name, b.constant([-1]), b.constant([-(2**31)]), b.constant([3]), b.constant([-1]))
    big = b.node("DepthToSpace", flipped, blocksize=2)
    after = b.conv(big, 1, 1, 3, strides=[2, 2])
    model = b.model(after)
    fields = receptive_fields(model, measure_shapes(model))
    assert fields[flipped].box(0, 0) == (W - 1, 0, W, 1)
    assert fields[big].box(3, 5) == (W - 3, 1, W - 2, 2)
    assert fields[after].box(2, 2) == (W - 4, 2, W - 2, 4)


def test_pixel_shuffle_and_channel_shuffle_by_reshape() -> None:
    b = Builder([1, 8, H, W])
    split = b.node("Reshape", b.name, b.constant([1, 2, 2, 2, H, W]))
    turned = b.node("Transpose", split, perm=[0, 1, 4, 2, 5, 3])
    shuffled = b.node("Reshape", turned, b.constant([1, 2, 2 * H, 2 * W]))
    grouped = b.node("Reshape", shuffled, b.constant([1, 2, 1, 2 * H, 2 * W]))
    swapped = b.node("Transpose", grouped, perm=[0, 2, 1, 3, 4])
    back = b.node("Reshape", swapped, b.constant([1, 2, 2 * H, 2 * W]))
    model = b.model(back)
    field = receptive_fields(model, measure_shapes(model))[back]
    assert field.spatial_axes == (2, 3)
    assert field.box(7, 12) == (6, 3, 7, 4)


def test_channels_last_follows_the_layout() -> None:
    b = Builder(["N", H, W, 1])
    first = b.node("Transpose", b.name, perm=[0, 3, 1, 2])
    conv = b.conv(first, 1, 2, (3, 5), strides=[2, 1], pads=[1, 0, 0, 2])
    last = b.node("Transpose", conv, perm=[0, 2, 3, 1])
    fields = _check(b.model(last), [conv, last], layout="NHWC")
    assert fields[conv].spatial_axes == (2, 3)
    assert fields[last].spatial_axes == (1, 2)
    rows, cols = fields[last].rows, fields[last].cols
    assert rows is not None
    assert cols is not None
    assert (rows.jump, rows.start, rows.size) == (2, -1, 3)
    assert (cols.jump, cols.start, cols.size) == (1, 0, 5)
    assert guess_layout((1, 240, 240, 3)) == "NHWC"
    assert guess_layout((1, 3, 240, 240)) == "NCHW"


@pytest.mark.parametrize("squeeze", ["GlobalAveragePool", "ReduceMean", "flat"])
def test_squeeze_and_excitation_is_a_flag_not_the_field(squeeze: str) -> None:
    b = Builder(["N", 1, H, W])
    x = b.conv(b.name, 1, 2, 3, strides=[2, 2])
    if squeeze == "GlobalAveragePool":
        gate = b.conv(b.node("GlobalAveragePool", x), 2, 2, 1)
    elif squeeze == "ReduceMean":
        gate = b.conv(b.node("ReduceMean", x, axes=[2, 3]), 2, 2, 1)
    else:
        vector = b.node("Gemm", b.node("ReduceMean", x, axes=[2, 3], keepdims=0), b.weight(2, 2))
        gate = b.node("Unsqueeze", vector, b.constant([2, 3]))
    gate = b.node("Sigmoid", gate)
    scaled = b.node("Mul", x, gate)
    after = b.conv(scaled, 2, 1, 3)
    model = b.model(after)
    fields = _fields(model)
    assert not fields[x].global_side_path
    for name, expected in ((scaled, (2, 0, 3)), (after, (2, 0, 7))):
        rows = fields[name].rows
        assert rows is not None
        assert fields[name].global_side_path
        assert (rows.jump, rows.start, rows.size) == expected


def test_image_level_pooling_is_a_side_path() -> None:
    b = Builder(["N", 1, H, W])
    x = b.conv(b.name, 1, 2, 3, strides=[2, 2])
    pooled = b.conv(b.node("GlobalAveragePool", x), 2, 2, 1)
    sizes = b.constant(np.array([1, 2, 7, 8], np.int64))
    stretched = b.node("Resize", pooled, "", "", sizes, mode="linear")
    both = b.node("Concat", x, stretched, axis=1)
    fields = _fields(b.model(both))
    assert fields[stretched].box(3, 3) == (0, 0, 17, 15)
    assert fields[both].global_side_path
    assert fields[both].box(3, 3) == (6, 6, 9, 9)


def test_statistics_over_the_map_are_a_side_path() -> None:
    b = Builder(["N", 2, H, W])
    ones = b.constant(np.ones(2, np.float32))
    x = b.node("InstanceNormalization", b.name, ones, ones)
    y = b.node("Softmax", b.name, axis=1)
    fields = receptive_fields(b.model(x, y), measure_shapes(b.model(x, y)))
    assert fields[x].global_side_path
    assert not fields[y].global_side_path
    assert fields[x].box(2, 3) == (3, 2, 4, 3)


def test_flatten_loses_positions_and_says_where() -> None:
    b = Builder(["N", 1, H, W])
    x = b.conv(b.name, 1, 2, 3)
    flat = b.node("Flatten", x, axis=1)
    tokens = b.node("Reshape", x, b.constant([0, 2, -1]))
    fields = _fields(b.model(flat, tokens))
    for name in (flat, tokens):
        assert fields[name].spatial_axes is None
        assert "merges positions" in fields[name].reason
        with pytest.raises(LayerError, match="no position"):
            fields[name].box(0, 0)


def test_unknown_operators_lose_positions() -> None:
    b = Builder(["N", 1, H, W])
    x = b.node("Conv", b.name, b.weight(1, 1, 1, 1))
    grid = b.constant(np.zeros((1, 4, 4, 2), np.float32))
    y = b.node("GridSample", x, grid)
    field = _fields(b.model(y))[y]
    assert field.rows is None
    assert "GridSample" in field.reason


def test_positions_side_by_side() -> None:
    b = Builder(["N", 1, H, W])
    x = b.conv(b.name, 1, 1, 2, strides=[2, 2])
    zeros = b.constant(np.zeros((1, 1, 7, 2), np.float32))
    joined = b.node("Concat", zeros, x, axis=3)
    fields = _fields(b.model(joined))
    assert fields[joined].box(1, 2) == (0, 2, 2, 4)
    assert fields[joined].box(1, 0) == (0, 2, 0, 4)
    cols = fields[joined].cols
    assert cols is not None
    assert (cols.jump, cols.start, cols.size) == (2, -4, 2)


def test_units_outside_the_map_are_refused() -> None:
    b = Builder(["N", 1, H, W])
    x = b.conv(b.name, 1, 1, 3)
    field = _fields(b.model(x))[x]
    assert field.box(-1, -1) == (W - 3, H - 3, W, H)
    assert field.box(-1, -1, image_size=(14, 17)) == (W - 3, H - 3, 17, 14)
    with pytest.raises(LayerError, match="does not exist"):
        field.box(13, 0)


def test_inputs_are_checked() -> None:
    b = Builder(["N", 1, H, W])
    model = b.model(b.conv(b.name, 1, 1, 3))
    shapes = measure_shapes(model)
    with pytest.raises(ModelError, match="Did you mean 'image'"):
        receptive_fields(model, shapes, "imag")
    with pytest.raises(ModelError, match="NHC"):
        receptive_fields(model, shapes, layout="NHC")


@pytest.mark.parametrize(
    ("net", "module", "node"),
    [
        ("resnet18", "layer2.1.conv2", "/layer2/layer2.1/conv2/Conv"),
        (
            "densenet121",
            "features.denseblock2.denselayer3.conv2",
            "/features/denseblock2/denselayer3/conv2/Conv",
        ),
    ],
)
def test_whole_nets_against_the_gradient(net: str, module: str, node: str) -> None:
    """The central unit's gradient in torch, float64, lies in the box and fills it."""
    import torch

    size = 128
    model = onnx.load(str(export(net, "legacy", 17, size)))
    fields = receptive_fields(model, measure_shapes(model, size))
    tensor = next(n.output[0] for n in model.graph.node if n.name == node)
    x = torch.from_numpy(image(size)).double().requires_grad_()
    kept: list[torch.Tensor] = []
    torch_net = torch_module(net).double()
    torch_net.get_submodule(module).register_forward_hook(lambda m, i, o: kept.append(o))
    torch_net(x)
    u, v = kept[0].shape[2] // 2, kept[0].shape[3] // 2
    (gradient,) = torch.autograd.grad(kept[0][0, :, u, v].sum(), x)
    ys, xs = torch.nonzero(gradient[0].abs().sum(dim=0), as_tuple=True)
    seen = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
    assert fields[tensor].box(u, v, (size, size)) == seen
    assert INPUT in fields
