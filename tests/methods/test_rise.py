"""RISE against slow loops over the same masks, and against the value it estimates on a linear network."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.nets import SmallNet, noise

import onnxvis
from onnxvis.errors import UsageError
from onnxvis.methods import Task, get_method
from onnxvis.methods.mask_moments import MaskMoments
from onnxvis.methods.rise import block_size, random_masks
from onnxvis.preprocessing import Prepared
from onnxvis.target import resolve

NET = SmallNet()
SIDE = 32


@pytest.fixture(scope="module")
def model() -> onnxvis.Model:
    return onnxvis.load(NET.model())


@functools.cache
def slow_masks(grid, cells, keep, seed, count):
    """The masks of the paper's section 3.2, pixel by pixel in float64, from the draws in their documented order."""
    rng = np.random.default_rng([seed, 0x52495345])
    found = np.zeros((count, *grid))
    steps = [-(-n // cells) for n in grid]
    for mask in found:
        seen = rng.random((cells, cells)) < keep
        shift = [int(rng.integers(step)) for step in steps]
        for y in range(grid[0]):
            for x in range(grid[1]):
                place = [
                    min(max((i + s + 0.5) * cells / (step * (cells + 1)) - 0.5, 0), cells - 1)
                    for i, s, step in zip((y, x), shift, steps, strict=True)
                ]
                for j in range(cells):
                    for i in range(cells):
                        mask[y, x] += seen[j, i] * max(0, 1 - abs(place[0] - j)) * max(0, 1 - abs(place[1] - i))
    return found


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("grid", "cells"), [((9, 13), 3), ((8, 8), 1), ((5, 12), 7), ((12, 12), 4)])
def test_masks_are_those_of_the_paper(grid, cells):
    source = random_masks(grid, cells, 0.4, 5)
    found = np.stack([next(source) for _ in range(6)])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, slow_masks(grid, cells, 0.4, 5, 6), atol=2e-6)


def test_the_mean_of_the_masks_is_keep_at_every_pixel_borders_too():
    source, count = random_masks((20, 15), 4, 0.3, 1), 6000
    mean = sum(next(source).astype(np.float64) for _ in range(count)) / count
    assert np.abs(mean - 0.3).max() < 5 * np.sqrt(0.3 * 0.7 / count)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("score", ["probability", "logit"])
def test_equals_the_slow_double_loop(model, center, score):
    x, count, keep, fill = noise(1, 3, SIDE, SIDE, seed=2), 37, 0.4, 0.25
    found = onnxvis.explain(
        model, x, "rise", (1, "4 - 2"), masks=count, cells=5, keep=keep, baseline=fill, score=score, seed=9,
        batch_size=7, center=center,
    )  # fmt: skip
    masks = slow_masks((SIDE, SIDE), 5, keep, 9, count)
    logits = NET.reference(np.concatenate([x * m + fill * (1 - m) for m in masks]))
    answers = logits if score == "logit" else softmax(logits)
    for explanation, f in zip(found, (answers[:, 1], answers[:, 4] - answers[:, 2]), strict=True):
        expected = np.zeros((SIDE, SIDE))
        squares = np.zeros((SIDE, SIDE))
        mean_f, mean_mask = (f.mean(), masks.mean(axis=0)) if center else (0.0, 0.0)
        for value, mask in zip(f, masks, strict=True):
            expected += (value - mean_f) * (mask - mean_mask) / keep
        expected /= count - 1 if center else count
        middle = expected * (count - 1) / count if center else expected
        for value, mask in zip(f, masks, strict=True):
            squares += ((value - mean_f) * (mask - mean_mask) / keep - middle) ** 2
        np.testing.assert_allclose(explanation.attribution, expected, atol=3e-6 * np.abs(f).max())
        error = np.sqrt(squares / (count - 1) / count)
        assert explanation.parameters["largest_standard_error"] == pytest.approx(error.max(), rel=1e-4)
        assert explanation.parameters["median_standard_error"] == pytest.approx(np.median(error), rel=1e-4)
        assert explanation.parameters["mean_score"] == pytest.approx(f.mean(), rel=1e-5)
        assert explanation.signed == (center or bool((expected < 0).any()))
    whole = NET.reference(x) if score == "logit" else softmax(NET.reference(x))
    assert found[0].score == pytest.approx(whole[0, 1], rel=1e-5)


def linear(side: int) -> tuple[onnx.ModelProto, np.ndarray, float]:
    weights = noise(2 * side * side, 2, seed=4)
    offset = np.array([3.0, -1.0], np.float32)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 2, side, side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(offset, "b")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return proto, weights.reshape(2, side, side, 2), float(offset[0])


@pytest.mark.parametrize("center", [True, False])
def test_is_unbiased_on_a_linear_network(center):
    """f(x) = w x + b: E[f M(p)] / keep = sum_q w_q x_q E[M(q) M(p)] / keep + b, and E[M M] is known.

    Places of a mask are independent, so for one shift with enlargement a: E[M(q) M(p)] = keep^2 +
    keep (1 - keep) sum_k a_qk a_pk; the shift is uniform.
    """
    side, cells, keep, count = 8, 2, 0.4, 6000
    proto, weights, offset = linear(side)
    x = noise(1, 2, side, side, seed=6)
    step = -(-side // cells)
    together = np.zeros((side * side, side * side))
    for down in range(step):
        for right in range(step):
            a = np.zeros((side, side, cells, cells))
            for y in range(side):
                for z in range(side):
                    py, px = (
                        min(max((i + s + 0.5) * cells / (step * (cells + 1)) - 0.5, 0), cells - 1)
                        for i, s in ((y, down), (z, right))
                    )
                    for j in range(cells):
                        for i in range(cells):
                            a[y, z, j, i] = max(0, 1 - abs(py - j)) * max(0, 1 - abs(px - i))
            flat = a.reshape(side * side, -1)
            together += (keep**2 + keep * (1 - keep) * flat @ flat.T) / step**2
    evidence = (weights[..., 0] * x[0]).sum(axis=0).reshape(-1).astype(np.float64)
    expected = together @ evidence / keep + offset
    if center:
        expected -= keep * evidence.sum() + offset
    model = onnxvis.load(proto)
    found = onnxvis.explain(
        model, x, "rise", 0, masks=count, cells=cells, keep=keep, score="logit", center=center, batch_size=64
    )
    moments = MaskMoments((side, side), 1, keep)
    source = random_masks((side, side), cells, keep, 0)
    masks = np.stack([next(source) for _ in range(count)])
    moments.add(masks, masks.reshape(count, -1).astype(np.float64) @ evidence[:, None] + offset)
    error = moments.standard_error(center)[0]
    z = (found.attribution - expected.reshape(side, side)) / error
    assert np.abs(z).max() < 4.5
    assert found.parameters["largest_standard_error"] == pytest.approx(error.max(), rel=1e-4)
    # Centering must not change what is estimated, only how well.
    assert error.max() < 0.15 * np.abs(expected - expected.mean()).max()


def test_the_standard_error_is_how_far_seeds_differ(model):
    x = noise(1, 3, SIDE, SIDE, seed=1)
    runs = [onnxvis.explain(model, x, "rise", 0, masks=32, cells=4, seed=s, batch_size=16) for s in range(30)]
    spread = np.std([r.attribution for r in runs], axis=0, ddof=1)
    said = np.mean([r.parameters["median_standard_error"] for r in runs])
    assert 0.75 < np.median(spread) / said < 1.33


def test_batch_size_company_and_repetition_change_nothing(model):
    images = [noise(1, 3, SIDE, SIDE, seed=s) for s in (0, 1, 2)]
    options = {"masks": 70, "seed": 3}
    first = onnxvis.explain(model, images[1], "rise", 2, **options)
    for batch_size in (1, 3, 8, 64):
        again = onnxvis.explain(model, images, "rise", 2, batch_size=batch_size, **options)[1]
        np.testing.assert_allclose(again.attribution, first.attribution, atol=1e-7)
    np.testing.assert_array_equal(
        onnxvis.explain(model, images[1], "rise", 2, **options).attribution, first.attribution
    )
    other = onnxvis.explain(model, images[1], "rise", 2, masks=70, seed=4)
    assert np.abs(other.attribution - first.attribution).max() > 1e-3


def test_more_masks_go_on_from_fewer():
    short, long = random_masks((6, 6), 2, 0.5, 7), random_masks((6, 6), 2, 0.5, 7)
    few = [next(short) for _ in range(3)]
    for mask, same in zip(few, (next(long) for _ in range(3)), strict=True):
        np.testing.assert_array_equal(mask, same)


def test_stops_when_the_standard_error_is_small_enough(model):
    x = noise(1, 3, SIDE, SIDE)
    full = onnxvis.explain(model, x, "rise", 0, masks=600, cells=3)
    wanted = full.parameters["largest_standard_error"] * 1.5
    seen = []
    found = onnxvis.explain(
        model, x, "rise", 0, masks=600, cells=3, tolerance=wanted, progress=lambda *state: seen.append(state)
    )
    used, step = found.parameters["masks"], block_size((SIDE, SIDE))
    assert 128 <= used < 600
    assert used % step == 0
    assert found.parameters["largest_standard_error"] < wanted
    if used > 128:
        before = onnxvis.explain(model, x, "rise", 0, masks=used - step, cells=3)
        assert before.parameters["largest_standard_error"] >= wanted
    assert any("below the tolerance" in note for note in found.notes)
    assert [state[1] for state in seen if state[0] == "rise"][-2:] == [used, 600]
    tight = onnxvis.explain(model, x, "rise", 0, masks=150, cells=3, tolerance=1e-9)
    assert tight.parameters["masks"] == 150
    assert any("ABOVE the tolerance" in note and "ran out" in note for note in tight.notes)


def test_several_targets_stop_together(model):
    x = noise(1, 3, SIDE, SIDE)
    both = onnxvis.explain(model, x, "rise", (0, 1), masks=400, tolerance=0.004)
    assert both[0].parameters["masks"] == both[1].parameters["masks"]


def test_whole_number_inputs_and_channels_last():
    """A uint8 NHWC network: masked pixels are rounded, the baseline 'mean' is the channel's own mean."""
    before = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["x"], perm=[0, 3, 1, 2]),
    ]
    model = onnxvis.load(NET.model(["N", SIDE, SIDE, 3], before=before, kind=TensorProto.UINT8))
    pixels = np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE, 3)).astype(np.uint8)
    prepared = Prepared.from_array(pixels, model.image_input.shape, pixels.dtype, "NHWC")
    logits = model.engine.forward(pixels, (model.logits.tensor,))
    method = get_method("rise")
    options = method.parse_options({"masks": 12, "baseline": "mean", "center": False, "score": "logit"})
    scores = [resolve(1, logits[model.logits.tensor][0], model.labels)]
    (found,) = method.attribute(Task(model, pixels, [prepared], scores, logits, None, options))[0]
    source = random_masks((SIDE, SIDE), 7, 0.5, 0)
    expected = np.zeros((SIDE, SIDE))
    for _ in range(12):
        mask = next(source)[..., None]
        fill = np.rint(pixels[0].astype(np.float64).mean(axis=(0, 1)))
        masked = np.rint((pixels[0] * mask + fill.astype(np.float32) * (1 - mask)).astype(np.float32))
        value = NET.reference(masked.transpose(2, 0, 1)[None])[0, 1]
        expected += value * mask[..., 0] / 0.5 / 12
    np.testing.assert_allclose(found.values, expected, rtol=2e-3)


def test_a_single_value_and_a_callable_are_taken_as_they_are(model):
    x = noise(1, 3, SIDE, SIDE)
    found = onnxvis.explain(model, x, "rise", lambda logits: logits[:, 0] ** 2, masks=8)
    assert found.units.startswith("logit")
    assert any("callable" in note for note in found.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masks": 1}, "masks is a whole number of at least 2"),
        ({"cells": 0}, "cells"),
        ({"keep": 1.0}, "between 0 and 1"),
        ({"tolerance": -1}, "greater than 0"),
        ({"score": "softmax"}, "one of probability, logit"),
        ({"baseline": "black"}, "'mean' or an array"),
        ({"baseline": float("nan")}, "NaN"),
        ({"baseline": np.zeros((2, 5))}, "array that fits"),
        ({"center": 2}, "true or false"),
    ],
)
def test_refuses(model, options, message):
    with pytest.raises(UsageError, match=message):
        onnxvis.explain(model, noise(1, 3, SIDE, SIDE), "rise", 0, **options)
