"""What enters a layer's own rectifier: the value that still tells a unit's strongest places apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["below_bound", "below_rectifier", "bound_notes"]


def below_rectifier(model: Model, layer: str) -> tuple[str, tuple[float, float]]:
    """The tensor that enters the layer's own rectifier, and what the rectifier cuts it to.

    The layer itself, without bounds, where it is no rectifier's output.
    """
    free = (layer, (-np.inf, np.inf))
    node = model.index.producer(layer)
    if node is None or node.op_type not in ("Relu", "Clip") or not node.input:
        return free
    if node.op_type == "Relu":
        return node.input[0], (0.0, np.inf)
    limits = [model.index.constant(name) if name else None for name in node.input[1:3]]
    ends = [None if limit is None else float(limit.reshape(())) for limit in limits] + [None, None]
    low, high = ends[:2]
    return node.input[0], (-np.inf if low is None else low, np.inf if high is None else high)


def below_bound(model: Model, layer: str) -> tuple[str, float] | None:
    """The tensor that enters the layer's rectifier, and the rectifier's upper bound.

    ``None`` where it has no upper bound, or where the tensor is not in the file itself.
    """
    tensor, (_, high) = below_rectifier(model, layer)
    same = model.shapes.get(tensor) == model.shapes.get(layer)
    return (tensor, high) if np.isfinite(high) and same and model.in_file(tensor) else None


def bound_notes(model: Model, layer: str) -> list[str]:
    """What an upper bound hides, and which layer does not hide it; nothing for a layer without one."""
    below = below_bound(model, layer)
    if below is None:
        return []
    return [
        f"the layer's rectifier ends at {below[1]:g}: units that are often there have places that are all alike, and "
        f"no mask above it; index with --layers {below[0]!r}, which enters the rectifier, to tell them apart"
    ]
