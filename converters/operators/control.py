"""If and Loop: their bodies are graphs of their own that see the tensors around them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from onnxvis.converters.module import TorchGraph
from onnxvis.converters.registry import ActivationKind, Node, Operator, converter
from onnxvis.converters.relu import ReluRule

__all__: list[str] = []


def _kind(*bodies: TorchGraph) -> ActivationKind | None:
    """A body with rectifiers has to be told the rule."""
    kinds = {activation.kind for body in bodies for activation in body.activations}
    return ActivationKind.RELU_LIKE if kinds - {ActivationKind.PLAIN} else None


def _run(body: TorchGraph, feeds: dict[str, Tensor], rule: ReluRule | None) -> list[Tensor]:
    made: dict[str, Tensor] = body(feeds, None, rule)
    return [made[name] for name in body.output_names]


class _If(nn.Module):
    def __init__(self, bodies: Sequence[TorchGraph], captured: Sequence[tuple[str, ...]]) -> None:
        super().__init__()
        self.registered = nn.ModuleList(bodies)
        self.bodies, self.captured = tuple(bodies), captured

    def forward(self, condition: Tensor, *around: Tensor, rule: ReluRule | None = None) -> Sequence[Tensor]:
        chosen = 0 if bool(condition.reshape(()).item()) else 1
        start = len(self.captured[0]) * chosen
        names = self.captured[chosen]
        feeds = dict(zip(names, around[start : start + len(names)], strict=True))
        return _run(self.bodies[chosen], feeds, rule)


class _Branch(nn.Module):
    def __init__(self, body: TorchGraph, captured: tuple[str, ...]) -> None:
        super().__init__()
        self.body, self.captured = body, captured

    def forward(self, *around: Tensor, rule: ReluRule | None = None) -> Sequence[Tensor]:
        return _run(self.body, dict(zip(self.captured, around, strict=True)), rule)


@converter("If")
def _if(node: Node) -> Operator:
    """With a constant condition only the branch that is taken is converted."""
    condition = node.constant(0)
    if condition is not None:
        taken = "then_branch" if bool(condition.reshape(()).item()) else "else_branch"
        body, captured = node.convert_body(node.attr(taken))
        return Operator(_Branch(body, captured), captured, activation=_kind(body))
    pairs = [node.convert_body(node.attr(name)) for name in ("then_branch", "else_branch")]
    bodies, names = [body for body, _ in pairs], [captured for _, captured in pairs]
    inputs = (node.inputs[0], *names[0], *names[1])
    return Operator(_If(bodies, names), inputs, frozenset({0}), _kind(*bodies))


class _Loop(nn.Module):
    def __init__(self, body: TorchGraph, captured: tuple[str, ...], carried: int) -> None:
        super().__init__()
        self.body, self.captured, self.carried = body, captured, carried

    def forward(
        self, trips: Tensor | None, condition: Tensor | None, *rest: Tensor, rule: ReluRule | None = None
    ) -> Sequence[Tensor]:
        state = list(rest[: self.carried])
        around = dict(zip(self.captured, rest[self.carried :], strict=True))
        names = list(self.body.input_names)
        limit = None if trips is None else int(trips.reshape(()).item())
        going = True if condition is None else bool(condition.reshape(()).item())
        rows: list[list[Tensor]] = []
        count = 0
        while going and (limit is None or count < limit):
            values = [torch.tensor(count), torch.tensor(going), *state]
            made = _run(self.body, {**around, **dict(zip(names, values, strict=True))}, rule)
            going = bool(made[0].reshape(()).item())
            state, scanned = made[1 : 1 + self.carried], made[1 + self.carried :]
            rows.append(scanned)
            count += 1
        if not rows and len(self.body.output_names) > 1 + self.carried:
            raise ValueError("a loop without a single iteration has no scan output")
        return [*state, *(torch.stack(column) for column in zip(*rows, strict=True))]


@converter("Loop")
def _loop(node: Node) -> Operator:
    body, captured = node.convert_body(node.attr("body"))
    given = (*node.inputs, "", "")[: max(2, len(node.inputs))]
    carried = len(given) - 2
    return Operator(_Loop(body, captured, carried), (*given, *captured), frozenset({0, 1}), _kind(body))
