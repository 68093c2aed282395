"""Pictures covered inside the graph are bit for bit those that numpy covers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from support.onnx_nodes import run_onnxruntime

from onnxvis.errors import ModelError
from onnxvis.graph.occlude import occlude
from onnxvis.kernels.occlusion import OcclusionBatches, windows

TYPES = {np.float32: TensorProto.FLOAT, np.float64: TensorProto.DOUBLE, np.uint8: TensorProto.UINT8}


def copying(kind: int, opset: int = 17, names: tuple[str, str] = ("image", "y")) -> onnx.ModelProto:
    """A model that gives back what it is given: so its output is the covered batch."""
    source, target = names
    values = [helper.make_tensor_value_info(name, kind, ["n", "c", "h", "w"]) for name in names]
    graph = helper.make_graph([helper.make_node("Identity", [source], [target])], "copy", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def covered(image: np.ndarray, places: Any, window: Any, baseline: np.ndarray, layout: str) -> np.ndarray:
    """``(M, C, H, W)`` made inside the graph."""
    found = occlude(copying(TYPES[image.dtype.type]), "image", layout)
    ordered = image if layout == "NCHW" else np.moveaxis(image, 0, -1)
    filled = baseline if layout == "NCHW" else np.moveaxis(baseline, 1, -1)
    feeds = {
        found.picture: ordered[None],
        found.offsets: np.array([(w.y0, w.x0) for w in places], np.int64),
        found.window: np.array(window, np.int64),
        found.baseline: np.ascontiguousarray(filled),
    }
    made = run_onnxruntime(found.model, feeds)[0]
    return made if layout == "NCHW" else np.moveaxis(made, -1, 1)


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 13), st.integers(1, 13)),
    window=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    stride=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    fill=st.sampled_from(["constant", "per channel", "array", "each its own"]),
    layout=st.sampled_from(["NCHW", "NHWC"]),
    kind=st.sampled_from(list(TYPES)),
)
def test_every_bit_is_that_of_numpy(size: Any, window: Any, stride: Any, fill: str, layout: str, kind: Any) -> None:
    window = tuple(min(w, n) for w, n in zip(window, size, strict=True))
    places = windows(size, window, tuple(min(s, w) for s, w in zip(stride, window, strict=True)))[:24]
    rng = np.random.default_rng(0)
    image = (rng.random((3, *size)) * 200 + 1).astype(kind)
    shape = {"constant": (1, 1, 1, 1), "per channel": (1, 3, 1, 1), "array": (1, 3, *size)}
    baseline = (rng.random(shape.get(fill, (len(places), 3, 1, 1))) * 200).astype(kind)
    if fill == "each its own":
        source: Any = lambda w: baseline[places.index(w)]  # noqa: E731
    else:
        source = np.broadcast_to(baseline[0], image.shape)
    expected = np.concatenate([batch.copy() for batch in OcclusionBatches(image, source, 5)(places)])
    found = covered(image, places, window, baseline, layout)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)


def test_names_of_the_model_stay_its_own() -> None:
    found = occlude(copying(TensorProto.FLOAT, names=("occlude_picture", "_occlude_window")), "occlude_picture")
    names = [value.name for value in found.model.graph.input]
    assert len(set(names)) == 4
    assert "occlude_picture" not in names
    feeds = {
        found.picture: np.ones((1, 1, 4, 4), np.float32),
        found.offsets: np.array([[1, 2]], np.int64),
        found.window: np.array([2, 9], np.int64),
        found.baseline: np.full((1, 1, 1, 1), 7, np.float32),
    }
    expected = np.ones((1, 1, 4, 4), np.float32)
    expected[:, :, 1:3, 2:] = 7
    assert np.array_equal(run_onnxruntime(found.model, feeds)[0], expected)


def test_the_model_is_not_changed_and_what_cannot_be_is_refused() -> None:
    model = copying(TensorProto.FLOAT)
    before = model.SerializeToString()
    occlude(model, "image")
    assert model.SerializeToString() == before
    with pytest.raises(ModelError, match="opset 10"):
        occlude(copying(TensorProto.FLOAT, opset=10), "image")
    with pytest.raises(ModelError, match="no input 'picture'"):
        occlude(model, "picture")
