"""Pools that choose or average: MaxPool, and the global ones. AveragePool stands with the separable operators."""

from __future__ import annotations

from onnxvis.graph.gradient.table import Call, Found, rule
from onnxvis.graph.gradient.tensor import Tensor

__all__ = ["scatter"]


def scatter(n: Call, gradient: Tensor, indices: Tensor) -> Tensor:
    """Values added to the places of the input that they came from; ``indices`` count its values in memory order."""
    places = n.x.zeros(gradient.dtype).reshape([-1])
    flat = places.op("ScatterElements", indices.reshape([-1]), gradient.reshape([-1]), axis=0, reduction="add")
    return flat.reshape(n.x.shape)


@rule("MaxPool")
def _max_pool(n: Call) -> Found:
    """To the first largest value of each window, which onnxruntime names itself."""
    if n.attr("storage_order", 0):
        raise n.refuse("storage_order=1 is not supported")
    indices = n.tape.tensor(n.tape.positions_of(n.node))
    return scatter(n, n.g, indices)


@rule("GlobalAveragePool")
def _global_average_pool(n: Call) -> Found:
    return (n.g / (n.x.size / n.y.size)).expand(n.x.shape)


@rule("GlobalMaxPool")
def _global_max_pool(n: Call) -> Found:
    """Places that tie share the gradient."""
    winners = n.x.equals(n.y)
    count = winners.cast(n.g.dtype).sum(range(2, n.rank()))
    return winners.keep(n.g / count)
