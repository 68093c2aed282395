"""Reductions, softmax and cumulative sums."""

from __future__ import annotations

from onnxvis.graph.gradient.table import Call, Found, rule, rules_of
from onnxvis.graph.gradient.tensor import Tensor

__all__: list[str] = []


def _axes(n: Call) -> list[int] | None:
    """The reduced axes, not negative; ``None`` for all of them where even the rank is unknown."""
    axes = n.attr("axes")
    if axes is None and n.has(1):
        value = n.constant(1)
        if value is None:
            raise n.refuse("its axes depend on the picture")
        axes = [int(a) for a in value.reshape(-1)]
    if not axes:
        return [] if n.attr("noop_with_empty_axes", 0) else list(range(n.rank()))
    return sorted(int(a) % n.rank() for a in axes)


def _spread(n: Call, tensor: Tensor) -> Tensor:
    """A reduced tensor with its lost axes back, of size 1."""
    axes = _axes(n)
    return tensor if not axes or n.attr("keepdims", 1) else tensor.op("Unsqueeze", n.tape.integers(*axes))


def _winners(n: Call) -> Found:
    """Places that tie share the gradient."""
    winners = n.x.equals(_spread(n, n.y))
    count = winners.cast(n.g.dtype).sum(_axes(n) or [])
    return winners.keep(_spread(n, n.g) / count)


def _norm2(n: Call) -> Found:
    length = _spread(n, n.y)
    return _spread(n, n.g) * n.x / length.equals(0.0).where(length.zeros() + 1.0, length)


rules_of(
    {
        "ReduceSum": lambda n: _spread(n, n.g).expand(n.x.shape),
        "ReduceMean": lambda n: (_spread(n, n.g) / (n.x.size / n.y.size)).expand(n.x.shape),
        "ReduceMax": _winners,
        "ReduceMin": _winners,
        "ReduceL1": lambda n: _spread(n, n.g) * n.x.op("Sign"),
        "ReduceL2": _norm2,
        "ReduceSumSquare": lambda n: _spread(n, n.g) * n.x * 2.0,
        "ReduceLogSum": lambda n: (_spread(n, n.g) / _spread(n, n.y).op("Exp")).expand(n.x.shape),
        "ReduceLogSumExp": lambda n: _spread(n, n.g) * (n.x - _spread(n, n.y)).op("Exp"),
        "Softmax": lambda n: (n.g - (n.g * n.y).sum([n.attr("axis", -1)])) * n.y,
        "LogSoftmax": lambda n: n.g - n.g.sum([n.attr("axis", -1)]) * n.y.op("Exp"),
    }
)


@rule("CumSum")
def _cumulative_sum(n: Call) -> Found:
    """The same sum from the other end."""
    turned = 1 - int(n.attr("reverse", 0))
    return n.g.op("CumSum", n.input(1), reverse=turned, exclusive=int(n.attr("exclusive", 0)))


@rule("TopK")
def _top_k(n: Call) -> Found:
    indices = n.outputs[1] if len(n.outputs) > 1 else None
    if indices is None:
        raise n.refuse("its second output is not there")
    axis = int(n.attr("axis", -1))
    return n.x.zeros().op("ScatterElements", indices, n.g, axis=axis, reduction="add")
