"""Explanations that run the network many times, as an ONNX Loop whose body is the network.

    for each step:   image, step -> point -> the network's own nodes [-> gradient nodes] -> what is summed or kept

The body reads the weights of the graph around it, so that nothing is stored twice and one step's memory serves all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxvis.graph.copies import copy_part
from onnxvis.graph.gradient.maps import ClassSeed, Places, enlarged
from onnxvis.graph.gradient.tensor import FLOATS, Known, Tape, Tensor
from onnxvis.graph.index import GraphIndex, captured

__all__ = ["Network", "integrated_gradients", "network", "score_cam"]

_PREFIX = "onnxvis/body/"


@dataclass(frozen=True, eq=False)
class Network:
    """The network as it stands in a body.

    Attributes:
        nodes: they read ``point`` in place of the picture, ``seed`` in place of the cotangent, and weights outside.
        outside: nodes that the graph around them needs beside its own, the same for every picture.
        initializers: constants that it needs beside its own.
        point: name of the picture that they read.
        seed: name of the cotangent that they read.
        result: name of the tensor that they make.
        image: name of the picture outside.
        image_type: its element type.
    """

    nodes: Sequence[onnx.NodeProto]
    outside: Sequence[onnx.NodeProto]
    initializers: Sequence[onnx.TensorProto]
    point: str
    seed: str
    result: str
    image: str
    image_type: int


def network(whole: onnx.ModelProto, own: onnx.ModelProto, image: str, seed: str, result: str) -> Network:
    """What of a graph depends on the picture, renamed for a body.

    Args:
        whole: a graph with a tensor ``result``.
        own: the graph around the body, whose initializers need not be brought along.
        image: the graph's picture.
        seed: the graph's input for the cotangent; it need not have one.
        result: the tensor that the body needs.
    """
    point, cotangent = f"{_PREFIX}point", f"{_PREFIX}cotangent"
    part = copy_part(GraphIndex(whole), {image: point, seed: cotangent}, (result,), _PREFIX)
    made = {name for node in own.graph.node for name in node.output}
    outside = [node for node in part.rest if node.output[0] not in made]
    stored = {t.name for t in own.graph.initializer}
    read = {name for node in (*part.nodes, *outside) for name in (*node.input, *captured(node))}
    brought = [t for t in whole.graph.initializer if t.name in read and t.name not in stored]
    declared = next(v for v in own.graph.input if v.name == image)
    kind = declared.type.tensor_type.elem_type
    return Network(part.nodes, outside, brought, point, cotangent, part.names[result], image, kind)


def integrated_gradients(
    tape: Tape, net: Network, seed: ClassSeed, baseline: float, places: np.ndarray, weights: np.ndarray
) -> Tensor:
    """Integrated gradients (Sundararajan et al., ICML 2017, equation 1), of the picture's shape, float32.

    Args:
        tape: of the graph around the loop.
        net: whose result is the gradient by the picture.
        seed: the class.
        baseline: the value that the way starts from, in units of the model's input.
        places: points on the way, in [0, 1].
        weights: of the quadrature at these points.
    """
    way = tape.tensor(net.image).cast(TensorProto.FLOAT) - baseline
    total = tape.filled(tape.op("Shape", way), 0.0, int(TensorProto.FLOAT))
    along = [tape.constant(values.astype(np.float32)) for values in (places, weights)]
    with tape.inside() as nodes:
        step = _declared(tape, f"{_PREFIX}step", int(TensorProto.INT64))
        so_far = _declared(tape, f"{_PREFIX}total", int(TensorProto.FLOAT))
        place, weight = (table.op("Gather", step) for table in along)
        _point(tape, net, way * place + baseline)
        nodes.extend(net.nodes)
        made = _declared(tape, net.result, int(TensorProto.FLOAT))
        following = so_far + made * weight
    (found,) = _loop(tape, net, nodes, len(places), seed, [(total, so_far, following)], [])
    return way * found


def score_cam(tape: Tape, net: Network, seed: ClassSeed, layer: str, places: Places, units: int, rows: int) -> Tensor:
    """Score-CAM (Wang et al., CVPR workshops 2020, algorithm 1) without the final ReLU: ``(N, h, w)`` float32.

    A unit that is constant over the places has no normalized map; its masked picture is the all-zero one.

    Args:
        tape: of the graph around the loop.
        net: whose result are the logits.
        seed: the class.
        layer: tensor of the layer.
        places: its axes.
        units: how many it has.
        rows: the axis of the picture that counts rows; columns follow.
    """
    activation = tape.tensor(layer).cast(TensorProto.FLOAT)
    rank = max(places.channel, *places.spatial) + 1
    if (places.channel, *places.spatial) != (1, 2, 3):
        rest = [a for a in range(rank) if a not in (places.channel, *places.spatial)]
        activation = activation.op("Transpose", perm=[*rest, places.channel, *places.spatial])
    nothing = activation.op("Gather", tape.integers(0), axis=1) * 0.0
    maps = tape.op("Concat", activation, nothing, axis=1)
    # Read outside: in a float16 file the picture is brought to the dialect's type there, not in a body.
    picture = tape.tensor(net.image).cast(TensorProto.FLOAT).op("Identity")
    with tape.inside() as nodes:
        step = _declared(tape, f"{_PREFIX}step", int(TensorProto.INT64))
        large = enlarged(tape, maps.op("Gather", step, axis=1), net.image, rows).op("Unsqueeze", tape.integers(1))
        high, low = large.op("GlobalMaxPool"), -(-large).op("GlobalMaxPool")
        span = high - low
        flat = span.equals(0.0)
        mask = flat.where(large * 0.0, (large - low) / flat.where(span + 1.0, span))
        mask = mask if rows == 2 else mask.op("Transpose", perm=[0, 2, 3, 1])
        _point(tape, net, picture * mask)
        nodes.extend(net.nodes)
        logits = _declared(tape, net.result, int(TensorProto.FLOAT))
        score = (logits * seed.cotangent.cast(TensorProto.FLOAT)).reshape([0, -1]).sum([1], keepdims=False)
    (scores,) = _loop(tape, net, nodes, units + 1, seed, [], [score])
    base = scores.op("Gather", tape.integers(units), axis=0)
    rise = scores.op("Slice", tape.integers(0), tape.integers(units), tape.integers(0)) - base
    weights = rise.op("Softmax", axis=0).op("Transpose", perm=[1, 0])
    return (activation * weights.op("Unsqueeze", tape.integers(2, 3))).sum([1], keepdims=False)


def _declared(tape: Tape, name: str, dtype: int) -> Tensor:
    tape.known[name] = Known(dtype)
    return tape.tensor(name)


def _point(tape: Tape, net: Network, values: Tensor) -> None:
    """The picture of one step in the type that the network takes, under the name that it reads."""
    if net.image_type not in FLOATS:
        values = values.op("Round")
    final = values.op("Cast", to=net.image_type)
    tape.nodes[-1].output[0] = net.point
    tape.known[net.point] = Known(net.image_type)
    assert final.name


def _loop(
    tape: Tape,
    net: Network,
    nodes: Sequence[onnx.NodeProto],
    trips: int,
    seed: ClassSeed,
    carried: Sequence[tuple[Tensor, Tensor, Tensor]],
    kept: Sequence[Tensor],
) -> list[Tensor]:
    """Write a Loop. ``carried`` are triples (before, inside, after one step); ``kept`` is stacked over the steps.

    The cotangent goes through as a carried value, so that the body depends on it visibly.
    """
    keep_on, seed_out = f"{_PREFIX}keep_on", f"{_PREFIX}cotangent_out"
    carried = [*carried]
    inner = [
        *nodes,
        helper.make_node("Identity", [f"{_PREFIX}condition"], [keep_on]),
        helper.make_node("Identity", [net.seed], [seed_out]),
    ]
    kind = seed.cotangent.dtype
    inputs = [
        helper.make_tensor_value_info(f"{_PREFIX}step", TensorProto.INT64, []),
        helper.make_tensor_value_info(f"{_PREFIX}condition", TensorProto.BOOL, []),
        helper.make_tensor_value_info(net.seed, kind, None),
        *(helper.make_tensor_value_info(inside.name, inside.dtype, None) for _, inside, _ in carried),
    ]
    outputs = [
        helper.make_tensor_value_info(keep_on, TensorProto.BOOL, []),
        helper.make_tensor_value_info(seed_out, kind, None),
        *(helper.make_tensor_value_info(after.name, after.dtype, None) for _, _, after in carried),
        *(helper.make_tensor_value_info(one.name, one.dtype, None) for one in kept),
    ]
    body = helper.make_graph(inner, "onnxvis_body", inputs, outputs)
    tape.initializers.extend(net.initializers)
    tape.nodes.extend(net.outside)
    count, go = tape.constant(np.array(trips, np.int64)), tape.constant(np.array(True))
    found = tape.ops(
        "Loop", count, go, seed.cotangent, *(before for before, _, _ in carried),
        outputs=1 + len(carried) + len(kept), body=body,
    )  # fmt: skip
    for tensor, like in zip(found[1:], [*(after for _, _, after in carried), *kept], strict=True):
        tape.known[tensor.name] = Known(like.dtype)
    return list(found[1:])
