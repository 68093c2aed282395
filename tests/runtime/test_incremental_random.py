"""Incremental occlusion of random graphs, cut at random places: every logit as by the whole network."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.incremental import all_logits, graphs_of, relative, whole_logits
from support.random_cnns import random_cnns
from support.shapes import run_all

import onnxvis
from onnxvis.graph.index import GraphIndex
from onnxvis.kernels.occlusion import windows
from onnxvis.runtime.incremental.build import Refusal, Workshop, cut_tensors
from onnxvis.runtime.incremental.cost import node_costs
from onnxvis.runtime.incremental.geometry import changed, trace
from onnxvis.runtime.incremental.plan import Planner

SLOW = settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))


@SLOW
@given(random_cnns(), st.data())
def test_every_logit_is_that_of_the_whole_network(
    net: tuple[onnx.ModelProto, tuple[int, int]], data: st.DataObject
) -> None:
    proto, size = net
    model = onnxvis.load(proto)
    window = (data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12)))
    stride = (max(1, window[0] // 2), max(1, (window[1] + 1) // 2))
    places = windows(size, window, stride)
    rng = np.random.default_rng(0)
    x, fill = (rng.normal(size=(2, 2, *size)).astype(np.float32))[:, None]
    graphs = graphs_of(model, x)
    index = GraphIndex(graphs.canonical.model, graphs.shapes)
    geometry = trace(index, "image", "NCHW")
    cuts = cut_tensors(graphs, index, geometry)
    assert not isinstance(cuts, Refusal)
    if len(cuts) < 2:
        return
    chosen = [cuts[0], *(c for c in cuts[1:] if data.draw(st.booleans()))]
    chosen = chosen if len(chosen) > 1 else list(cuts[:2])
    rows = np.array(sorted({(w.y0, w.y1 - 1) for w in places}))
    cols = np.array(sorted({(w.x0, w.x1 - 1) for w in places}))
    planner = Planner(geometry, node_costs(index, "image", graphs.logits), cuts, rows, cols)
    runner, bad = Workshop(graphs, geometry, 4).make(planner.fixed(chosen), x)
    if runner is None:  # refused, with its reason, not answered wrongly: a crop of one row cannot be reflected
        assert "reflect" in bad.reason
        return
    assert len(runner.plan.groups) <= 36
    found = all_logits(runner, x, fill[0], places, batch=4)
    expected = whole_logits(model, x, fill[0], places)
    scale = max(1.0, float(np.abs(expected).max()))
    assert np.abs(found - expected).max() < 1e-5 * scale
    assert relative(runner.start(x), model.engine.forward(x)["logits"]) < 1e-5


@SLOW
@given(random_cnns(), st.data())
def test_nothing_changes_outside_what_is_said_to_change(
    net: tuple[onnx.ModelProto, tuple[int, int]], data: st.DataObject
) -> None:
    proto, (height, width) = net
    model = onnxvis.load(proto)
    geometry = trace(GraphIndex(model.canonical.model, model.shapes), "image", "NCHW")
    y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    y1, x1 = data.draw(st.integers(y0, height - 1)), data.draw(st.integers(x0, width - 1))
    one = np.random.default_rng(1).normal(size=(1, 2, height, width)).astype(np.float32)
    two = one.copy()
    two[:, :, y0 : y1 + 1, x0 : x1 + 1] += 1
    before, after = (run_all(model.canonical.model, {"image": x}) for x in (one, two))
    rows = changed(geometry, 0, np.array([[y0, y1]]))
    cols = changed(geometry, 1, np.array([[x0, x1]]))
    for name, place in geometry.places.items():
        assert place.axes == (2, 3)
        hit = np.argwhere((before[name] != after[name]).any(axis=(0, 1)))
        if len(hit):
            (top, bottom), (left, right) = rows[name][0], cols[name][0]
            assert (hit.min(axis=0) >= (top, left)).all()
            assert (hit.max(axis=0) <= (bottom, right)).all()
