"""LSTM, GRU and RNN unrolled over time, with initial states, lengths, peepholes and both layouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from onnxvis.converters.registry import Node, Operator, converter, operator

__all__: list[str] = []

Function = Callable[[Tensor], Tensor]
# Name -> (defaults of alpha and beta, maker); given values go in order to the functions that take them.
_FUNCTIONS: dict[str, tuple[tuple[float, ...], Callable[..., Function]]] = {
    "affine": ((1.0, 0.0), lambda a, b: lambda x: a * x + b),
    "elu": ((1.0,), lambda a: lambda x: functional.elu(x, a)),
    "hardsigmoid": ((0.2, 0.5), lambda a, b: lambda x: (a * x + b).clamp(0, 1)),
    "leakyrelu": ((0.01,), lambda a: lambda x: functional.leaky_relu(x, a)),
    "relu": ((), lambda: functional.relu),
    "scaledtanh": ((1.0, 1.0), lambda a, b: lambda x: a * torch.tanh(b * x)),
    "sigmoid": ((), lambda: torch.sigmoid),
    "softplus": ((), lambda: functional.softplus),
    "softsign": ((), lambda: functional.softsign),
    "tanh": ((), lambda: torch.tanh),
    "thresholdedrelu": ((1.0,), lambda a: lambda x: torch.where(x > a, x, 0.0)),
}


def _functions(node: Node, names: Sequence[str]) -> list[Function]:
    alphas, betas = list(node.attr("activation_alpha", ())), list(node.attr("activation_beta", ()))
    made = []
    for name in names:
        if name.lower() not in _FUNCTIONS:
            raise node.refuse(f"activation {name!r} is unknown")
        defaults, maker = _FUNCTIONS[name.lower()]
        values = [
            (given.pop(0) if given else default) for given, default in zip((alphas, betas), defaults, strict=False)
        ]
        made.append(maker(*values))
    return made


@dataclass(frozen=True)
class _Weights:
    """Weights of one direction; ``bias`` holds the input and the recurrent half one after the other."""

    w: Tensor
    r: Tensor
    bias: Tensor
    peephole: Tensor | None


@dataclass(frozen=True)
class _Cell:
    """One kind of recurrent cell: how one step goes."""

    gates: int
    states: int
    defaults: tuple[str, ...]
    step: Callable[[Node, Tensor, list[Tensor], _Weights, list[Function]], list[Tensor]]


def _bound(node: Node, x: Tensor) -> Tensor:
    limit = node.attr("clip")
    return x if limit is None else x.clamp(-limit, limit)


def _rnn_step(node: Node, x: Tensor, state: list[Tensor], k: _Weights, f: list[Function]) -> list[Tensor]:
    half = k.bias.numel() // 2
    return [f[0](_bound(node, x + state[0] @ k.r.T + k.bias[half:]))]


def _gru_step(node: Node, x: Tensor, state: list[Tensor], k: _Weights, f: list[Function]) -> list[Tensor]:
    h = state[0]
    half = k.bias.numel() // 2
    (rz, rr, rh), (bz, br, bh) = k.r.chunk(3), k.bias[half:].chunk(3)
    xz, xr, xh = x.chunk(3, dim=-1)
    z = f[0](_bound(node, xz + h @ rz.T + bz))
    r = f[0](_bound(node, xr + h @ rr.T + br))
    if node.attr("linear_before_reset", 0):
        n = f[1](_bound(node, xh + r * (h @ rh.T + bh)))
    else:
        n = f[1](_bound(node, xh + (r * h) @ rh.T + bh))
    return [(1 - z) * n + z * h]


def _lstm_step(node: Node, x: Tensor, state: list[Tensor], k: _Weights, f: list[Function]) -> list[Tensor]:
    h, c = state
    half = k.bias.numel() // 2
    i, o, forget, g = (x + h @ k.r.T + k.bias[half:]).chunk(4, dim=-1)
    if k.peephole is not None:
        pi, po, pf = k.peephole.chunk(3)
        i, forget = i + pi * c, forget + pf * c
    i = f[0](_bound(node, i))
    forget = 1 - i if node.attr("input_forget", 0) else f[0](_bound(node, forget))
    c = forget * c + i * f[1](_bound(node, g))
    o = o if k.peephole is None else o + po * c
    return [f[0](_bound(node, o)) * f[2](c), c]


_CELLS = {
    "RNN": _Cell(1, 1, ("Tanh",), _rnn_step),
    "GRU": _Cell(3, 1, ("Sigmoid", "Tanh"), _gru_step),
    "LSTM": _Cell(4, 2, ("Sigmoid", "Tanh", "Tanh"), _lstm_step),
}


@converter("LSTM", "GRU", "RNN")
def _recurrent(node: Node) -> Operator:
    cell = _CELLS[node.op_type]
    directions = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}.get(
        node.attr("direction", "forward")
    )
    if directions is None:
        raise node.refuse(f"direction {node.attr('direction')!r} is unknown")
    names = list(node.attr("activations", ())) or list(cell.defaults) * len(directions)
    functions = _functions(node, names)
    per = len(cell.defaults)
    sets = [functions[per * i : per * (i + 1)] for i in range(len(directions))]
    batch_first = bool(node.attr("layout", 0))

    def run(x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, *more: Any) -> Sequence[Tensor]:
        lengths, first_h, first_c, peephole = (*more, *[None] * 4)[:4]
        x = x.transpose(0, 1) if batch_first else x
        hidden, ways = r.shape[2], len(directions)
        starts = []
        for given in (first_h, first_c)[: cell.states]:
            zero = x.new_zeros(ways, x.shape[1], hidden)
            starts.append(zero if given is None else given.transpose(0, 1) if batch_first else given)
        bias = x.new_zeros(ways, 2 * cell.gates * hidden) if b is None else b
        outputs, finals = [], []
        for way, backwards in enumerate(directions):
            weights = _Weights(w[way], r[way], bias[way], None if peephole is None else peephole[way])
            state = [start[way] for start in starts]
            rows, state = _unroll(
                node, cell, x, state, weights, functions=sets[way], lengths=lengths, backwards=backwards
            )
            outputs.append(rows)
            finals.append(state)
        y = torch.stack(outputs, dim=1)
        last = [torch.stack([state[i] for state in finals]) for i in range(cell.states)]
        if batch_first:
            return [y.permute(2, 0, 1, 3), *(state.transpose(0, 1) for state in last)]
        return [y, *last]

    return operator(node, run)


def _unroll(
    node: Node,
    cell: _Cell,
    x: Tensor,
    state: list[Tensor],
    weights: _Weights,
    *,
    functions: list[Function],
    lengths: Tensor | None,
    backwards: bool,
) -> tuple[Tensor, list[Tensor]]:
    """All hidden states ``(T, N, H)`` of one direction, and the last states."""
    half = weights.bias.numel() // 2
    projected = x @ weights.w.T + weights.bias[:half]
    rows: list[Tensor] = [x.new_empty(0)] * x.shape[0]
    steps = range(x.shape[0])
    for t in reversed(steps) if backwards else steps:
        new = cell.step(node, projected[t], state, weights, functions)
        if lengths is None:
            state = new
            rows[t] = new[0]
        else:
            alive = (t < lengths.to(x.device))[:, None]
            state = [torch.where(alive, now, before) for now, before in zip(new, state, strict=True)]
            rows[t] = torch.where(alive, new[0], 0.0)
    return torch.stack(rows), state
