"""Incremental occlusion without the method around it: every position, and the same by the whole network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import onnxvis
from onnxvis.kernels.occlusion import OcclusionBatches, Window
from onnxvis.runtime.incremental import Graphs, Incremental
from onnxvis.runtime.session import open_session

__all__ = ["all_logits", "graphs_of", "relative", "whole_logits"]

Array = np.ndarray[Any, Any]


def graphs_of(model: onnxvis.Model, x: Array) -> Graphs:
    """What the planner wants to know of a model."""
    sessions = model.engine.batched(x)
    return Graphs(
        sessions.model,
        lambda part: open_session(part, sessions.provider, sessions.data_folder),
        model.canonical,
        model.shapes,
        model.image_input.name,
        model.layout,
        model.logits.tensor,
        model.engine.constants,
    )


def all_logits(runner: Incremental, x: Array, fill: Array, places: Sequence[Window], batch: int = 8) -> Array:
    """Logits of every position, computed incrementally.

    Args:
        runner: planned for ``places``.
        x: ``(1, C, H, W)``.
        fill: what covers, ``(C, H, W)``.
        places: the windows.
        batch: positions at once.
    """
    runner.start(x)
    found: dict[int, Array] = {}
    for group in runner.plan.groups:
        for start in range(0, len(group.positions), batch):
            chosen = slice(start, start + batch)
            logits = runner.logits(
                group, chosen, lambda p: fill[:, places[p].y0 : places[p].y1, places[p].x0 : places[p].x1]
            )
            found |= {int(p): one for p, one in zip(group.positions[chosen], logits, strict=True)}
    assert sorted(found) == list(range(len(places)))
    return np.stack([found[p] for p in range(len(places))])


def whole_logits(model: onnxvis.Model, x: Array, fill: Array, places: Sequence[Window]) -> Array:
    """The same by running everything."""
    name = model.logits.tensor
    batches = OcclusionBatches(x[0], fill, 8)(places)
    return np.concatenate([model.engine.forward(b, (name,))[name] for b in batches])


def relative(found: Array, expected: Array) -> float:
    """Largest difference in units of the largest expected value."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())
