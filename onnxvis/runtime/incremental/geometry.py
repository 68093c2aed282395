"""What a change of some positions changes later, and what later positions need, along rows and columns.

Worked out on the canonical graph, one node at a time, with the window rules of the receptive fields. A tensor is
*local* while each of its positions depends on a bounded window of the picture in the same way everywhere (shift by
a multiple of the strides in, shift out); from the first node that mixes the whole map on, it is not.

    picture --Conv--> a --Relu--> b --GlobalAveragePool--> c --Gemm--> logits
    local             local       local                    not local

Rows and columns are independent of each other, so everything is done once per side on arrays of spans
``(P, 2) int64``: first and last position, both included.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxvis.graph.index import GraphIndex
from onnxvis.graph.receptive import ReceptiveField, receptive_fields

__all__ = ["Geometry", "LocalNode", "Place", "Reach", "changed", "needed", "trace"]

_SMALL = 4096
_LETTERS = "CDEFGIJ"
_OUTSIDE = np.int64(np.iinfo(np.int64).max // 4)


@dataclass(frozen=True)
class Place:
    """Where rows and columns lie in a local tensor.

    Attributes:
        axes: the tensor axes of rows and columns.
        lengths: their lengths.
        jumps: pixels of the picture from one position to the next.
        shape: of the whole tensor, batch of one.
    """

    axes: tuple[int, int]
    lengths: tuple[int, int]
    jumps: tuple[Fraction, Fraction]
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Reach:
    """Along one side, the positions of a node's input that each position of its output reads.

    Attributes:
        first: ``(U,) int64``; a unit that reads padding only has ``first > last``.
        last: ``(U,) int64``.
    """

    first: np.ndarray
    last: np.ndarray

    def forward(self, spans: np.ndarray) -> np.ndarray:
        """Output positions that change with the input positions ``spans``; where none does, position 0."""
        hit = (self.first[None] <= spans[:, 1:]) & (self.last[None] >= spans[:, :1])
        count = hit.shape[1]
        low = hit.argmax(axis=1)
        high = count - 1 - hit[:, ::-1].argmax(axis=1)
        none = ~hit.any(axis=1)
        return np.stack([np.where(none, 0, low), np.where(none, 0, high)], axis=1)

    def backward(self, spans: np.ndarray, length: int) -> np.ndarray:
        """Input positions, of ``length`` there are, that the output positions ``spans`` need (a hull)."""
        low, high = self._hulls
        first = np.minimum(np.maximum(low[spans[:, 0]], 0), length - 1)
        return np.stack([first, np.minimum(np.maximum(high[spans[:, 1]], first), length - 1)], axis=1)

    @functools.cached_property
    def _hulls(self) -> tuple[np.ndarray, np.ndarray]:
        """The first position read by a unit or any later one, and the last read by it or any earlier one."""
        return np.minimum.accumulate(self.first[::-1])[::-1], np.maximum.accumulate(self.last)

    def uniform(self, jump: Fraction, length: int) -> bool:
        """Whether every position reads in the same way, borders aside: what cutting out a crop relies on."""
        if jump <= 0:
            return False
        step, move = jump.denominator, jump.numerator
        inside = (self.first > 0) & (self.last < length - 1) & (self.first <= self.last)
        both = inside[step:] & inside[:-step] if step < len(inside) else np.zeros(0, bool)
        for ends in (self.first, self.last):
            if np.any((ends[step:] - ends[:-step] != move)[both] if len(both) else False):
                return False
        return True


@dataclass(frozen=True, eq=False)
class LocalNode:
    """A node whose output is local.

    Attributes:
        output: the tensor it makes.
        inputs: each local tensor it reads, with the reach along rows and columns.
    """

    output: str
    inputs: tuple[tuple[str, tuple[Reach, Reach]], ...]


@dataclass(frozen=True, eq=False)
class Geometry:
    """The local part of a graph.

    Attributes:
        image: the image input.
        places: every local tensor, in topological order.
        nodes: the nodes between them, in topological order.
        stops: why tensors stop being local: node label -> reason, in topological order.
    """

    image: str
    places: Mapping[str, Place]
    nodes: tuple[LocalNode, ...]
    stops: Mapping[str, str]


def trace(index: GraphIndex, image: str, layout: str) -> Geometry:
    """Follow the picture through the graph as far as it stays local.

    Args:
        index: of the canonical graph, with the concrete shape of every tensor.
        image: the image input.
        layout: its layout, "NCHW" or "NHWC".
    """
    shape = tuple(index.shapes[image])
    letters = layout if len(shape) == len(layout) else layout.removeprefix("N")
    axes = (letters.index("H"), letters.index("W"))
    start = Place(axes, (shape[axes[0]], shape[axes[1]]), (Fraction(1), Fraction(1)), shape)
    places: dict[str, Place] = {image: start}
    nodes: list[LocalNode] = []
    stops: dict[str, str] = {}
    known: dict[bytes, list[tuple[ReceptiveField, ReceptiveField] | str]] = {}
    for node in index.nodes:
        reads = list(dict.fromkeys(index.data_inputs(node)))
        local = [t for t in reads if t in places]
        if not local or len(local) < len(reads):
            continue
        for position, output in enumerate(node.output):
            if not output:
                continue
            found = _join(index, node, position, {t: places[t] for t in local}, known)
            if isinstance(found, str):
                stops.setdefault(index.label(node), f"{node.op_type} {index.label(node)!r} {found}")
                continue
            places[output], reaches = found
            nodes.append(LocalNode(output, tuple(reaches.items())))
    return Geometry(image, places, tuple(nodes), stops)


def _join(
    index: GraphIndex,
    node: onnx.NodeProto,
    position: int,
    local: Mapping[str, Place],
    known: dict[bytes, list[tuple[ReceptiveField, ReceptiveField] | str]],
) -> tuple[Place, dict[str, tuple[Reach, Reach]]] | str:
    """Where an output's rows and columns lie and what they read of each input; or why that has no answer."""
    output = node.output[position]
    if output not in index.shapes:
        return "makes a tensor whose shape is not known"
    shape = tuple(index.shapes[output])
    outputs: set[tuple[tuple[int, int], tuple[Fraction, Fraction]]] = set()
    reaches: dict[str, tuple[Reach, Reach]] = {}
    for name, place in local.items():
        fields = _fields(index, node, name, place, known)[position]
        if isinstance(fields, str):
            return fields
        if node.op_type in ("Concat", "QLinearConcat"):
            along = int(index.attrs(node)["axis"]) % len(shape)
            if along in (fields[0].axis, fields[1].axis):
                return "puts maps side by side"
        sides = []
        for side, field in enumerate(fields):
            reach = Reach(field.support[:, 0].copy(), field.support[:, 1].copy())
            length = place.lengths[side]
            reach.first[reach.first > reach.last] = _OUTSIDE
            if len(reach.first) == 1 and length > 1 and reach.last[0] - reach.first[0] == length - 1:
                return "pools over the whole map"
            if not reach.uniform(field.jump, length):
                return "does not treat all positions alike"
            sides.append(reach)
        jumps = tuple(j * f.jump for j, f in zip(place.jumps, fields, strict=True))
        outputs.add(((fields[0].axis, fields[1].axis), (jumps[0], jumps[1])))
        reaches[name] = (sides[0], sides[1])
    if len(outputs) != 1:
        return "combines maps of different strides"
    axes, steps = outputs.pop()
    return Place(axes, (shape[axes[0]], shape[axes[1]]), steps, shape), reaches


def _fields(
    index: GraphIndex,
    node: onnx.NodeProto,
    source: str,
    place: Place,
    known: dict[bytes, list[tuple[ReceptiveField, ReceptiveField] | str]],
) -> list[tuple[ReceptiveField, ReceptiveField] | str]:
    """For each output of a node, the window of ``source`` behind its positions, from a graph of this node alone."""
    reads = list(dict.fromkeys(t for t in index.reads(node)))
    shapes = {t: tuple(index.shapes.get(t) or index.constant_shape(t) or ()) for t in (*reads, *node.output) if t}
    constants = {t: v for t in reads if (v := _small(index, t)) is not None}
    key = _key(node, source, place, shapes, constants)
    if key not in known:
        known[key] = _one_node(index, node, source, place, shapes, constants)
    return known[key]


def _small(index: GraphIndex, tensor: str) -> np.ndarray | None:
    shape = index.constant_shape(tensor) if index.is_constant(tensor) else None
    if shape is None or int(np.prod(shape)) > _SMALL:
        return None
    return index.constant(tensor)


def _key(
    node: onnx.NodeProto,
    source: str,
    place: Place,
    shapes: Mapping[str, tuple[int, ...]],
    constants: Mapping[str, np.ndarray],
) -> bytes:
    """Equal for nodes that differ in names alone."""
    attributes = sorted(a.SerializeToString() for a in node.attribute)
    inputs = [(t == source, shapes.get(t), constants[t].tobytes() if t in constants else b"") for t in node.input]
    outputs = [shapes.get(t) for t in node.output]
    return repr((node.op_type, node.domain, attributes, inputs, outputs, place.axes)).encode()


def _one_node(
    index: GraphIndex,
    node: onnx.NodeProto,
    source: str,
    place: Place,
    shapes: Mapping[str, tuple[int, ...]],
    constants: Mapping[str, np.ndarray],
) -> list[tuple[ReceptiveField, ReceptiveField] | str]:
    rest = iter(_LETTERS)
    known = {0: "N", place.axes[0]: "H", place.axes[1]: "W"}
    letters = "".join(known[a] if a in known else next(rest) for a in range(len(place.shape)))
    inputs = [
        helper.make_tensor_value_info(t, onnx.TensorProto.FLOAT, shapes[t])
        for t in dict.fromkeys(index.reads(node))
        if t not in constants
    ]
    graph = helper.make_graph([node], "one", inputs, [], [numpy_helper.from_array(v, t) for t, v in constants.items()])
    model = helper.make_model(graph, opset_imports=index.model.opset_import)
    model.functions.extend(index.model.functions)
    fields = receptive_fields(model, shapes, source, letters)
    found: list[tuple[ReceptiveField, ReceptiveField] | str] = []
    for output in node.output:
        field = fields.get(output)
        if field is None:
            found.append("makes a value that is not followed")
        elif field.rows is None or field.cols is None:
            found.append("does not keep rows and columns apart")
        elif field.global_side_path or field.rows.spread or field.cols.spread:
            found.append("mixes in values of the whole map")
        else:
            found.append((field.rows, field.cols))
    return found


def changed(geometry: Geometry, side: int, spans: np.ndarray) -> dict[str, np.ndarray]:
    """What changes in every local tensor when ``spans`` of the picture change.

    Args:
        geometry: from :func:`trace`.
        side: 0 for rows, 1 for columns.
        spans: ``(P, 2) int64`` in pixels.

    Returns:
        ``(P, 2)`` for every local tensor: the hull of the positions that change.
    """
    found = {geometry.image: spans}
    for node in geometry.nodes:
        parts = [reach[side].forward(found[name]) for name, reach in node.inputs]
        low = np.minimum.reduce([p[:, 0] for p in parts])
        found[node.output] = np.stack([low, np.maximum.reduce([p[:, 1] for p in parts])], axis=1)
    return found


def needed(
    geometry: Geometry, side: int, target: str, spans: np.ndarray, stop_at: Sequence[str]
) -> dict[str, tuple[np.ndarray, np.ndarray, tuple[Fraction, ...]]]:
    """What a crop at each of ``stop_at`` has to hold so that ``spans`` of ``target`` can be computed from it.

    Args:
        geometry: from :func:`trace`.
        side: 0 for rows, 1 for columns.
        target: a local tensor.
        spans: ``(P, 2)`` of its positions.
        stop_at: tensors that separate ``target`` from the picture.

    Returns:
        For each: the first position needed ``(P,)``, how many positions at the far border are not needed
        ``(P,)``, and the jumps of all tensors on the way, with which a crop has to be aligned.
    """
    need = {target: spans}
    near = np.full(len(spans), np.inf)
    far = np.full(len(spans), np.inf)
    jumps: dict[Fraction, None] = {}
    wanted, found = set(stop_at), {}

    def take(name: str) -> None:
        # In pixels of the picture: a crop must begin before and end after each needed unit on the way, even one
        # that reads padding only.
        nonlocal near, far
        place, span = geometry.places[name], need[name]
        jump = float(place.jumps[side])
        near = np.minimum(near, span[:, 0] * jump)
        far = np.minimum(far, (place.lengths[side] - 1 - span[:, 1]) * jump)
        jumps[place.jumps[side]] = None
        if name in wanted and name != target:
            first = np.floor(near / jump + 1e-9).astype(np.int64)
            found[name] = (first, np.floor(far / jump + 1e-9).astype(np.int64), tuple(jumps))

    for node in reversed(geometry.nodes):
        if node.output not in need:
            continue
        take(node.output)
        for name, reach in node.inputs:
            part = reach[side].backward(need[node.output], geometry.places[name].lengths[side])
            if name in need:
                low = np.minimum(need[name][:, 0], part[:, 0])
                part = np.stack([low, np.maximum(need[name][:, 1], part[:, 1])], axis=1)
            need[name] = part
    if geometry.image in need:
        take(geometry.image)
    return found
