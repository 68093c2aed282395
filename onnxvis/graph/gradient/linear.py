"""Matrix products."""

from __future__ import annotations

from onnxvis.graph.gradient.broadcast import sum_to
from onnxvis.graph.gradient.table import Call, Found, rule
from onnxvis.graph.gradient.tensor import Dims, Tensor

__all__: list[str] = []


def _turned(n: Call, position: int) -> Tensor:
    rank = n.rank(position)
    return n.input(position).op("Transpose", perm=[*range(rank - 2), rank - 1, rank - 2])


def _stretched(n: Call, position: int) -> Dims | None:
    """The shape of a factor's gradient before the batch axes that were stretched are summed."""
    out, own = n.y.dims, n.input(position).dims
    return None if out is None or own is None else (*out[:-2], *own[-2:])


@rule("MatMul")
def _matmul(n: Call) -> Found:
    if n.rank(0) < 2 or n.rank(1) < 2:
        raise n.refuse("one of its factors is a vector")
    by_left = sum_to(n.g @ _turned(n, 1), _stretched(n, 0), n.x) if n.active[0] else None
    by_right = sum_to(_turned(n, 0) @ n.g, _stretched(n, 1), n.input(1)) if n.active[1] else None
    return (by_left, by_right)


@rule("Gemm")
def _gemm(n: Call) -> Found:
    a, b, g = n.x, n.input(1), n.g
    alpha, beta = float(n.attr("alpha", 1.0)), float(n.attr("beta", 1.0))
    turn_a, turn_b = int(n.attr("transA", 0)), int(n.attr("transB", 0))
    by_a = (
        b.op("Gemm", g, transA=turn_b, transB=1, alpha=alpha)
        if turn_a
        else g.op("Gemm", b, transB=1 - turn_b, alpha=alpha)
    )
    by_b = (
        g.op("Gemm", a, transA=1, transB=turn_a, alpha=alpha)
        if turn_b
        else a.op("Gemm", g, transA=1 - turn_a, alpha=alpha)
    )
    by_c = None
    if n.has(2) and n.active[2]:
        by_c = sum_to(g if beta == 1.0 else g * beta, n.y.dims, n.input(2))
    return (by_a, by_b, by_c)


@rule("Einsum")
def _einsum(n: Call) -> Found:
    """Two factors, no repeated letter and no ellipsis: the gradient is the product with the places exchanged."""
    equation = str(n.attr("equation")).replace(" ", "")
    left, arrow, out = equation.partition("->")
    terms = left.split(",")
    repeated = any(len(set(term)) < len(term) for term in (*terms, out))
    lost = any(set(term) - set(out) - set(other) for term, other in zip(terms, reversed(terms), strict=True))
    if len(terms) != 2 or not arrow or "." in equation or repeated or lost:
        raise n.refuse(f"its equation {equation!r} is not a plain product of two factors")
    first, second = terms
    by_first = n.g.op("Einsum", n.input(1), equation=f"{out},{second}->{first}")
    by_second = n.x.op("Einsum", n.g, equation=f"{first},{out}->{second}")
    return (by_first, by_second)
