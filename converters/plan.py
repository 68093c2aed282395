"""Which nodes have to run, in which order, and when each tensor can be dropped."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from onnxvis.converters.registry import ActivationKind
from onnxvis.errors import ConversionError

__all__ = ["Plan", "Step", "make_plan", "sort_steps"]


@dataclass(frozen=True)
class Step:
    """One node, ready to run: ``index`` is its module's position in ``TorchGraph.operators``."""

    index: int
    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    host: frozenset[int]
    activation: ActivationKind | None


@dataclass(frozen=True)
class Plan:
    """Steps to run in order; ``drop[i]`` are the tensors nobody needs after step i.

    ``missing`` are tensors that no step makes and nobody fed.
    """

    steps: tuple[Step, ...]
    drop: tuple[tuple[str, ...], ...]
    missing: tuple[str, ...]


def make_plan(steps: Sequence[Step], known: Collection[str], feeds: Collection[str], fetch: Sequence[str]) -> Plan:
    """Walk back from the fetched tensors, stopping at fed ones and at constants (``known``)."""
    maker = {name: step for step in steps for name in step.outputs if name}
    needed: set[int] = set()
    missing: dict[str, None] = {}
    seen: set[str] = set()
    pending = [name for name in fetch if name not in feeds]
    while pending:
        name = pending.pop()
        if name in seen or name in feeds:
            continue
        seen.add(name)
        step = maker.get(name)
        if step is not None:
            needed.add(step.index)
            pending.extend(other for other in step.inputs if other)
        elif name not in known:
            missing[name] = None
    chosen = tuple(step for step in steps if step.index in needed)
    return Plan(chosen, _last_uses(chosen, frozenset(fetch)), tuple(missing))


def _last_uses(steps: Sequence[Step], keep: frozenset[str]) -> tuple[tuple[str, ...], ...]:
    last: dict[str, int] = {}
    for position, step in enumerate(steps):
        for name in (*step.inputs, *step.outputs):
            if name and name not in keep:
                last[name] = position
    drop: list[list[str]] = [[] for _ in steps]
    for name, position in last.items():
        drop[position].append(name)
    return tuple(tuple(names) for names in drop)


def sort_steps(steps: Sequence[Step], available: Iterable[str]) -> list[Step]:
    """Steps in topological order; the given order is kept where it is already one.

    Raises:
        ConversionError: the graph has a cycle, or two nodes make the same tensor.
    """
    maker: dict[str, Step] = {}
    for step in steps:
        for name in filter(None, step.outputs):
            if name in maker:
                raise ConversionError(f"Nodes {maker[name].name!r} and {step.name!r} both make tensor {name!r}.")
            maker[name] = step
    done = set(available)
    if _in_order(steps, maker, done):
        return list(steps)
    ordered: list[Step] = []
    waiting = list(steps)
    while waiting:
        held = []
        for step in waiting:
            if all(name in done or name not in maker for name in step.inputs):
                ordered.append(step)
                done.update(step.outputs)
            else:
                held.append(step)
        if len(held) == len(waiting):
            raise ConversionError(f"The graph has a cycle through node {held[0].name!r}.")
        waiting = held
    return ordered


def _in_order(steps: Sequence[Step], maker: dict[str, Step], available: set[str]) -> bool:
    done = set(available)
    for step in steps:
        if any(name in maker and name not in done for name in step.inputs):
            return False
        done.update(step.outputs)
    return True
