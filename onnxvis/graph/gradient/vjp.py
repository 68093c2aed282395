"""Reverse mode, ONNX to ONNX: a graph becomes a graph that also computes vector-Jacobian products.

    inputs -> graph -> output            inputs ----> graph --------> output
                                         cotangent -> gradient nodes -> d sum(cotangent * output) / d wrt

The nodes of the backward pass are operators of the ONNX standard, so the result runs wherever the graph does.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper

from onnxvis.errors import ConversionError, LayerError, did_you_mean
from onnxvis.graph.canonical.refusals import refusal
from onnxvis.graph.gradient.broadcast import sum_to
from onnxvis.graph.gradient.shapes import infer
from onnxvis.graph.gradient.table import ALTERNATIVES, RULES, STEPS, Call
from onnxvis.graph.gradient.tensor import FLOATS, Known, Tape, Tensor
from onnxvis.graph.index import GraphIndex

__all__ = [
    "NEWER",
    "OLDEST",
    "backward",
    "build_vjp",
    "call_of",
    "check_forms",
    "missing_rules",
    "opset_of",
    "tape_for",
]

OLDEST = 13
"""First operator set in which the axes of ReduceSum are an input, as the rules write them."""
NEWER = "Export the model with operator set 17 or newer, or use the torch backend (gradients='torch')."
"""What helps against an operator set that is too old."""


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the default operator set."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)


def tape_for(model: onnx.ModelProto, taken: Sequence[str] = (), amend: bool = True) -> Tape:
    """An empty tape for a model.

    Raises:
        ConversionError: the model's operator set is too old.
    """
    if opset_of(model) < OLDEST:
        why = refusal(model) or "one of its nodes has no form in a newer operator set"
        raise ConversionError(
            f"gradients as ONNX operators need operator set {OLDEST} or newer, and the graph stayed at "
            f"{opset_of(model)}: {why}. Use the torch backend (gradients='torch')."
        )
    graph = model.graph
    names = {t for node in graph.node for t in (*node.input, *node.output, node.name)}
    names |= {v.name for v in (*graph.input, *graph.initializer)} | set(taken)
    return Tape(infer(model), names, amend)


def call_of(tape: Tape, index: GraphIndex, node: onnx.NodeProto, grads: dict[str, Tensor], active: set[str]) -> Call:
    """A node as its rule sees it."""

    def tensors(names: Sequence[str]) -> tuple[Tensor | None, ...]:
        return tuple(tape.tensor(name) if name else None for name in names)

    return Call(
        tape,
        index,
        node,
        tensors(node.input),
        tensors(node.output),
        tuple(grads.get(name) if name else None for name in node.output),
        tuple(bool(name) and name in active for name in node.input),
    )


def _passes(tape: Tape, node: onnx.NodeProto, name: str, active: set[str]) -> bool:
    """Whether a gradient can come back from an output of a node that reads something active."""
    if node.op_type in STEPS:
        return False
    kind = tape.known[name].dtype if name in tape.known else 0
    if node.op_type == "DynamicQuantizeLinear":
        return bool(name == node.output[0])  # its scale and zero point are held fixed
    if kind == 0 or kind in FLOATS or node.op_type == "QuantizeLinear":
        return True
    # Whole numbers between a quantizer and its dequantizer carry the gradient; all others carry none.
    read = {tape.known[t].dtype for t in node.input if t in active and t in tape.known}
    return kind in read and kind != TensorProto.BOOL


def _active(tape: Tape, index: GraphIndex, nodes: Sequence[onnx.NodeProto], wrt: Sequence[str]) -> set[str]:
    """The tensors that depend on ``wrt`` in a way that has a derivative."""
    found = set(wrt)
    for node in nodes:
        if any(name in found for name in index.reads(node)):
            found.update(name for name in node.output if name and _passes(tape, node, name, found))
    return found


def missing_rules(model: onnx.ModelProto) -> list[str]:
    """Operators between the graph's inputs and outputs that have no rule, though a gradient would pass them."""
    index = GraphIndex(model)
    tape = tape_for(model)
    nodes = index.between((), index.outputs)
    active = _active(tape, index, nodes, index.inputs)
    crossed = [n for n in nodes if any(t in active for t in n.output) and any(t in active for t in index.reads(n))]
    return sorted({n.op_type for n in crossed if n.domain not in ("", "ai.onnx") or n.op_type not in RULES})


def backward(
    tape: Tape, index: GraphIndex, output: str, wrt: Sequence[str], seed: Tensor, rule: str = "backprop"
) -> dict[str, Tensor | None]:
    """Write the backward pass on a tape.

    Args:
        tape: where the nodes go.
        index: the graph.
        output: the tensor to differentiate.
        wrt: tensors to differentiate by. Every way from them to the output counts, also through each other.
        seed: the cotangent, of the output's shape.
        rule: what a rectifier does.

    Returns:
        The gradient of each, ``None`` where the output does not depend on one.

    Raises:
        ConversionError: a node on the way has no rule, or none of ``wrt`` has a differentiable way to the output.
    """
    table = RULES | ALTERNATIVES[rule]
    nodes = index.between((), (output,))
    active = _active(tape, index, nodes, wrt)
    if output not in active:
        raise ConversionError(
            f"{output!r} does not depend differentiably on {', '.join(map(repr, wrt))}: an operator between them "
            "has no derivative. A perturbation method (occlusion) needs none."
        )
    grads = {output: seed}
    for node in reversed(nodes):
        if not any(name in grads for name in node.output) or not any(name in active for name in index.reads(node)):
            continue
        call = call_of(tape, index, node, grads, active)
        if node.domain not in ("", "ai.onnx") or node.op_type not in table:
            raise call.refuse("no rule for this operator is known")
        entry = table[node.op_type]
        found = entry.function(call)
        parts: Sequence[Tensor | None] = (found,) if isinstance(found, Tensor) else found
        for position, name in enumerate(node.input):
            if not name or name not in active:
                continue
            part = parts[position] if position < len(parts) else None
            if part is None:
                raise call.refuse(f"its derivative by input number {position + 1} ({name!r}) is not known")
            if entry.broadcasts:
                part = sum_to(part, call.y.dims, tape.tensor(name))
            total = grads[name] + part if name in grads else part
            tape.known[total.name] = Known(total.dtype, tape.tensor(name).dims)
            grads[name] = total
    return {name: grads.get(name) for name in wrt}


def build_vjp(
    model: onnx.ModelProto,
    output: str,
    wrt: Sequence[str],
    cotangent: str = "cotangent",
    rule: str = "backprop",
) -> onnx.ModelProto:
    """The graph with its vector-Jacobian product.

    Args:
        model: a graph in the canonical dialect, weights in memory; for a part of one see
            :func:`onnxvis.graph.cut.cut`. It is not changed.
        output: the tensor to differentiate.
        wrt: tensors to differentiate by: graph inputs or intermediate tensors.
        cotangent: name of the new graph input, of the output's shape.
        rule: what a rectifier does on the way back: ``backprop``, ``deconvnet`` or ``guided`` (Springenberg et
            al. 2014, figure 1).

    Returns:
        A model whose inputs are those of ``model`` and the cotangent, and whose outputs are the output tensor, the
        values of ``wrt`` and ``gradient/NAME`` for each of them, in this order. Batch and sizes stay as free as
        they are in ``model``.

    Raises:
        ConversionError: an operator on the way has no rule; the message names it and its node.
        LayerError: a tensor does not exist.
    """
    index = GraphIndex(model)
    known = {*index.tensors, *index.outputs}
    for name in (output, *wrt):
        if name not in known:
            raise LayerError(f"The graph has no tensor {name!r}.{did_you_mean(name, known)}")
    names = [f"gradient/{name}" for name in wrt]
    tape = tape_for(model, taken=(cotangent, *names))
    tape.known[cotangent] = tape.known.get(output, Known())
    seed = tape.tensor(cotangent)
    grads = backward(tape, index, output, wrt, seed, rule)
    for name, final in zip(wrt, names, strict=True):
        gradient = grads[name]
        made = gradient if gradient is not None else tape.tensor(name).zeros()
        tape.nodes.append(helper.make_node("Identity", [made.name], [final], name=tape.fresh("Identity")))
    return _assemble(model, index, tape, (output, *wrt, *names), seed)


def _assemble(
    model: onnx.ModelProto, index: GraphIndex, tape: Tape, outputs: Sequence[str], seed: Tensor
) -> onnx.ModelProto:
    """Forward nodes, backward nodes, new outputs; what no output needs is left out."""
    nodes = [*index.nodes, *tape.nodes]
    makers = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    makers |= {added: makers[first] for first, added in tape.positions.items()}
    needed: set[int] = set()
    pending, read = list(outputs), set(outputs)
    while pending:
        place = makers.get(pending.pop())
        if place is not None and place not in needed:
            needed.add(place)
            own = index.reads(nodes[place]) if place < len(index.nodes) else nodes[place].input
            pending.extend(own)
            read.update(own)
    chosen = [nodes[place] for place in sorted(needed)]
    check_forms([node for node in chosen if node.output[0] not in index.tensors], opset_of(model))
    result = onnx.ModelProto(ir_version=max(model.ir_version, 4), producer_name=model.producer_name)
    result.opset_import.extend(model.opset_import)
    graph = result.graph
    graph.name = model.graph.name or "gradient"
    graph.node.extend(chosen)
    for node in graph.node:
        if node.output and node.output[0] in tape.positions and tape.positions[node.output[0]] not in node.output:
            node.output[:] = [node.output[0], tape.positions[node.output[0]]]
    graph.initializer.extend(t for t in (*model.graph.initializer, *tape.initializers) if t.name in read)
    weights = {t.name for t in model.graph.initializer}
    graph.input.extend(v for v in model.graph.input if v.name in read and v.name not in weights)
    dims = list(seed.dims) if seed.dims is not None else None
    graph.input.append(helper.make_tensor_value_info(seed.name, seed.dtype, dims))
    declared = {v.name: v for v in (*graph.input, *model.graph.output) if v.type.tensor_type.elem_type}
    graph.output.extend(declared.get(name, onnx.ValueInfoProto(name=name)) for name in dict.fromkeys(outputs))
    return result


def check_forms(nodes: Sequence[onnx.NodeProto], version: int) -> None:
    """Refuse nodes that an operator set does not know in this form.

    Raises:
        ConversionError: with the operator, and the operator set that it needs.
    """
    context = onnx.checker.C.CheckerContext()
    context.ir_version = 10
    context.opset_imports = {"": version}
    for node in nodes:
        bodies = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
        if bodies:  # checked alone: the checker does not know what they read from outside
            check_forms([inner for body in bodies for inner in body.node], version)
        if bodies or node.domain not in ("", "ai.onnx"):
            continue
        try:
            onnx.checker.check_node(node, context)
        except onnx.checker.ValidationError as error:
            reason = " ".join(str(error).split())[:160]
            raise ConversionError(
                f"{node.op_type} is needed in a form that operator set {version} does not have ({reason}). {NEWER}"
            ) from error
