"""Masks: maps enlarged from the centers of receptive fields, and cut at thresholds."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.graphs import Builder
from support.shapes import measure_shapes

from onnxvis.behaviour.masks import Anchors, border, center_matrix, masked_picture
from onnxvis.errors import LayerError, UsageError
from onnxvis.graph.receptive import ReceptiveField, receptive_fields
from onnxvis.kernels.upsample import upsample_bilinear


def field_of(start: Fraction, jump: Fraction, size: Fraction, units: int) -> ReceptiveField:
    support = np.zeros((units, 2), np.int64)
    return ReceptiveField("rows", 2, jump, start, size, True, support)


def slow_line(values: np.ndarray, field: ReceptiveField, pixels: int) -> np.ndarray:
    """Each pixel between the two field centers around it, in fractions."""
    centers = [field.start + u * field.jump + (field.size - 1) / 2 for u in range(len(values))]
    out = np.empty(pixels)
    for p in range(pixels):
        left = [u for u, c in enumerate(centers) if c <= p]
        if not left:
            out[p] = values[0]
        elif left[-1] == len(values) - 1:
            out[p] = values[-1]
        else:
            u = left[-1]
            t = float((p - centers[u]) / (centers[u + 1] - centers[u]))
            out[p] = values[u] * (1 - t) + values[u + 1] * t
    return out


@settings(max_examples=80, deadline=None)
@given(
    st.fractions(-20, 8, max_denominator=2),
    st.fractions(Fraction(1, 2), 9, max_denominator=2),
    st.integers(1, 30),
    st.integers(1, 9),
    st.integers(1, 40),
)
def test_lines_are_interpolated_between_centers(start: Any, jump: Any, size: int, units: int, pixels: int) -> None:
    field = field_of(Fraction(start), Fraction(jump), Fraction(size), units)
    values = np.random.default_rng(units + pixels).standard_normal(units)
    matrix = center_matrix(field, pixels)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(matrix @ values, slow_line(values, field, pixels), atol=1e-5)


def test_one_value_fills_the_axis() -> None:
    matrix = center_matrix(field_of(Fraction(0), Fraction(0), Fraction(20), 1), 20)
    np.testing.assert_array_equal(matrix, np.ones((20, 1)))
    with pytest.raises(UsageError):
        center_matrix(field_of(Fraction(0), Fraction(1), Fraction(1), 3), 0)


@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 1, 1, 1], [0, 2, 1, 0]])
def test_a_place_peaks_where_it_looks(pads: list[int]) -> None:
    """A single lit place stands at the middle of the pixels it sees, which a plain resize may miss."""
    b = Builder(["n", 1, 20, 24])
    x = b.conv(b.name, 1, 1, 3, strides=[2, 2], pads=pads)
    x = b.conv(x, 1, 1, 3, strides=[2, 2], pads=pads)
    model = b.model(x)
    shapes = measure_shapes(model)
    field = receptive_fields(model, shapes)[x]
    _, _, rows, cols = shapes[x]
    lit = np.zeros((1, rows, cols), np.float32)
    lit[0, 1, 2] = 1
    large = Anchors(field, (20, 24)).enlarge(lit)[0]
    x0, y0, x1, y1 = field.box(1, 2, clip=False)
    middle = ((y0 + y1 - 1) / 2, (x0 + x1 - 1) / 2)
    assert np.unravel_index(large.argmax(), large.shape) == middle
    assert large.max() == 1
    plain = upsample_bilinear(lit[0], (20, 24))
    if pads != [0, 0, 0, 0]:
        assert np.hypot(*np.subtract(np.unravel_index(plain.argmax(), plain.shape), middle)) >= 1


def test_masks_are_above_the_threshold(room: Any) -> None:
    layer = "Relu4"
    anchors = Anchors(room.model.fields[layer], (24, 32), layer)
    maps, thresholds = room.maps[layer][3], np.linspace(0, 2, 8).astype(np.float32)
    rows, cols = (getattr(room.model.fields[layer], axis) for axis in ("rows", "cols"))
    masks = anchors.masks(maps, thresholds)
    for unit in range(8):
        tall = np.stack([slow_line(maps[unit][:, c], rows, 24) for c in range(maps.shape[2])], axis=1)
        slow = np.stack([slow_line(tall[r], cols, 32) for r in range(24)])
        certain = np.abs(slow - thresholds[unit]) > 1e-5
        np.testing.assert_array_equal(masks[unit][certain], (slow > thresholds[unit])[certain])
    with pytest.raises(UsageError, match="5 x 7"):
        anchors.enlarge(maps[:, :4])
    with pytest.raises(LayerError, match="no position"):
        Anchors(None, (24, 32), "Gemm")


def test_masked_pictures_keep_what_is_inside() -> None:
    picture = np.full((6, 7, 3), 200, np.uint8)
    mask = np.zeros((6, 7), bool)
    mask[2:4, 2:5] = True
    drawn = masked_picture(picture, mask)
    assert (drawn[mask] == 200).all()
    line = border(mask)
    assert line.sum() == 10
    assert not (line & mask).any()
    assert (drawn[~mask & ~line] == 68).all()
    with pytest.raises(UsageError, match="does not fit"):
        masked_picture(picture[:4], mask)
