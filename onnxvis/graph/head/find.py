"""From the logits back to the last feature map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx.onnx_pb import ModelProto

from onnxvis.graph.head.dense import dense_head
from onnxvis.graph.head.results import Head, HeadKind, Logits
from onnxvis.graph.head.roles import Role, Stretch, map_units, stretch, weight_tensors
from onnxvis.graph.index import GraphIndex, Shapes
from onnxvis.graph.receptive import TensorField, receptive_fields

__all__ = ["find_head"]


@dataclass(frozen=True)
class _Tail:
    """The stretches from a map to the logits, in order, and the pooling that starts them if one does."""

    layer: str
    stretches: tuple[Stretch, ...]
    pool: Role | None
    note: str = ""

    @property
    def roles(self) -> list[Role]:
        """What follows the pool, plumbing left out."""
        kept = [s.role for s in self.stretches if s.role.kind not in ("shape", "quantize", "pool")]
        return [r for r in kept if r.kind != "local-pool"]

    @property
    def chain(self) -> tuple[str, ...]:
        """Operators in order."""
        return tuple(n.op_type for s in self.stretches for n in s.nodes)


def find_head(
    model: ModelProto,
    logits: Logits,
    shapes: Shapes,
    *,
    fields: Mapping[str, TensorField] | None = None,
    index: GraphIndex | None = None,
) -> Head:
    """How the logits come from the last feature map, and which map to explain with.

    The walk follows the tensors that every path from the picture to the logits passes. Where a global pool
    ends the maps, the layer is what enters the pool (of an int8 pair of QuantizeLinear and DequantizeLinear
    it is the float tensor at the pool). Where positions are flattened instead (VGG, AlexNet), the layer is
    the activated output of the last convolution, before any pooling that stands between it and the
    flattening: it has the finest grid of the last stage, and Grad-CAM is usually shown there. For a dense
    output it is the map that enters the last convolution, the deepest one if several end together.

    Args:
        model: the graph.
        logits: what :func:`find_logits` found in it.
        shapes: concrete shape of every tensor.
        fields: receptive fields of the same model, to save computing them.
        index: an index of the same model and shapes, to save building it.

    Returns:
        The head; its ``kind`` is ``"none"`` where no such structure is found, with the reason.
    """
    index = index or GraphIndex(model, shapes)
    fields = fields if fields is not None else receptive_fields(model, shapes, index=index)
    if logits.kind in ("dense", "detection"):
        return dense_head(index, fields, logits)
    tail = _walk_back(index, fields, logits.tensor)
    if tail is None:
        reason = "no tensor that every path passes is a map with positions, so there is no layer to explain with"
        return Head.nowhere(reason)
    return _pooled(index, fields, tail) if tail.pool is not None else _flattened(index, fields, tail)


def _walk_back(index: GraphIndex, fields: Mapping[str, TensorField], logits: str) -> _Tail | None:
    source = next(t for t in index.inputs if t in fields)
    cuts = index.cut_tensors(source, logits)
    stretches: list[Stretch] = []
    pool: Role | None = None
    note = ""
    for before, after in zip(cuts[-2::-1], cuts[:0:-1], strict=True):
        if map_units(fields, after) > 1:
            return _Tail(after, tuple(reversed(stretches)), pool, note)
        part = stretch(index, fields, before, after)
        if part.role.kind == "pool" and pool is None:
            pool = part.role
            dims = "×".join(map(str, index.shapes[before]))
            if map_units(fields, before) == 1:
                note = f"the map that enters the pool ({before!r}, {dims}) has one position only"
        if not (note and part.role is not pool):
            stretches.append(part)
    return None


def _pooled(index: GraphIndex, fields: Mapping[str, TensorField], tail: _Tail) -> Head:
    pool, roles = tail.pool, tail.roles
    assert pool is not None
    kinds = [r.kind for r in roles]
    linear = [r for r in roles if r.kind == "linear"]
    rest = [k for k in kinds if k not in ("linear", "bias")]
    # A constant added before the linear layer is a normalization's shift, not the linear layer's bias.
    plain = len(linear) == 1 and not rest and not linear[0].activated and kinds[0] == "linear"
    averages = pool.pooling in ("mean", "sum")
    kind: HeadKind
    if not kinds:
        return _class_maps(index, fields, tail)
    if plain and not averages:
        kind = "gap-linear" if pool.pooling == "partial mean" else "gmp-linear"
        tells = f"the logits are linear in its {pool.pooling}, not its mean"
    elif plain:
        kind = "gap-conv1x1" if "Conv" in linear[0].node.op_type else "gap-linear"
        tells = "the logits are linear in its mean"
        if linear[0].integer:
            tells += ", but for a last layer in integers whose scale is taken from the picture"
    elif len(linear) == 1 and not linear[0].activated and set(rest) <= {"norm", "affine"}:
        kind, tells = "gap-norm-linear", "a normalization stands between the pool and the linear layer"
    else:
        kind, tells = "gap-mlp", f"{_count(linear)} after the pool, so the logits are not linear in its mean"
    cam = plain and averages and not tail.note and not linear[0].integer
    return _finish(index, fields, tail, kind=kind, tells=tells, cam=cam)


def _class_maps(index: GraphIndex, fields: Mapping[str, TensorField], tail: _Tail) -> Head:
    """The pooled map holds one channel for each class."""
    assert tail.pool is not None
    averages = tail.pool.pooling in ("mean", "sum")
    tells = f"each of its channels is the map of one class; the logit is its {tail.pool.pooling}"
    maker = _convolution_behind(index, fields, tail.layer)
    cam = averages and not tail.note
    return _finish(index, fields, tail, kind="class-maps-gap", tells=tells, cam=cam, maker=maker)


def _convolution_behind(index: GraphIndex, fields: Mapping[str, TensorField], tensor: str) -> Role | None:
    """The linear stretch that makes a map, seen through its activation."""
    source = next(t for t in index.inputs if t in fields)
    cuts = index.cut_tensors(source, tensor)
    for before, after in zip(cuts[-2::-1], cuts[:0:-1], strict=True):
        role = stretch(index, fields, before, after).role
        if role.kind == "linear":
            return role
        if role.kind not in ("nonlinear", "bias", "affine", "shape", "quantize"):
            return None
    return None


def _flattened(index: GraphIndex, fields: Mapping[str, TensorField], tail: _Tail) -> Head:
    roles = tail.roles
    linear = [r for r in roles if r.kind == "linear"]
    if not linear or any(r.kind == "block" for r in roles):
        tells = "what follows is no chain of a pool and linear layers, so read a map of it with care"
        return _finish(index, fields, tail, kind="none", tells=tells)
    tail = _before_pooling(index, fields, tail)
    one = len(linear) == 1 and all(r.kind in ("linear", "bias") for r in roles) and not linear[0].activated
    tells = f"its positions are flattened into {'one linear layer' if one else _count(linear)}"
    return _finish(index, fields, tail, kind="flatten-linear" if one else "flatten-mlp", tells=tells)


def _before_pooling(index: GraphIndex, fields: Mapping[str, TensorField], tail: _Tail) -> _Tail:
    """Step back over pools, padding and plumbing to what the last convolution's activation made."""
    source = next(t for t in index.inputs if t in fields)
    cuts = index.cut_tensors(source, tail.layer)
    stretches = list(tail.stretches)
    skipped: list[Stretch] = []
    layer = tail.layer
    for before, after in zip(cuts[-2::-1], cuts[:0:-1], strict=True):
        part = stretch(index, fields, before, after)
        if part.role.kind not in ("shape", "quantize", "local-pool"):
            break
        skipped.insert(0, part)
        if part.role.kind != "quantize" and map_units(fields, before) > 1:
            # An int8 tensor between a pair of quantizers is not a layer; the float one before it may be.
            layer, stretches, skipped = before, skipped + stretches, []
    return _Tail(layer, tuple(stretches), tail.pool, tail.note)


_POOL_NAMES = {"mean": "average", "partial mean": "average", "partial max": "max"}


def _count(linear: list[Role]) -> str:
    return {0: "no linear layer", 1: "a nonlinear step and one linear layer"}.get(
        len(linear), f"{len(linear)} linear layers"
    )


def _finish(
    index: GraphIndex,
    fields: Mapping[str, TensorField],
    tail: _Tail,
    *,
    kind: HeadKind,
    tells: str,
    cam: bool = False,
    maker: Role | None = None,
) -> Head:
    layer, pool = tail.layer, tail.pool
    shape = index.shapes[layer]
    field = fields[layer]
    spatial = field.spatial_axes
    assert spatial is not None
    last = maker or next((r for r in reversed(tail.roles) if r.kind == "linear"), None)
    weight, bias = weight_tensors(index, last.node) if last is not None else (None, None)
    if last is not None and bias is None and maker is None:
        bias = _added_bias(index, tail, last)
    what = f"{layer!r} ({'×'.join(map(str, shape))})"
    if tail.note:
        reason = f"{tail.note}; {what}, the last map with more than one, stands in for it"
    elif pool is not None:
        name = _POOL_NAMES.get(pool.pooling, pool.pooling)
        rounded = any(s.role.kind == "quantize" for s in tail.stretches)
        reason = f"{what} enters the global {name} pool; {tells}{', up to rounding to 8 bits' * rounded}"
    else:
        reason = f"{what} is the last activation map; {tells}"
    return Head(
        kind=kind,
        cam_layer=layer,
        cam_shape=tuple(shape),
        spatial_axes=spatial,
        channel_axis=field.channel_axis(len(shape)),
        pool=index.label(pool.node) if pool is not None else None,
        linear=index.label(last.node) if last is not None else None,
        weight=weight,
        bias=bias,
        chain=tail.chain,
        cam_applies=cam,
        reason=reason,
    )


def _added_bias(index: GraphIndex, tail: _Tail, last: Role) -> str | None:
    """The constant of the ``Add`` that follows a ``MatMul``."""
    after = False
    for role in tail.roles:
        if after and role.kind == "bias":
            return next((t for t in role.node.input if t and index.is_constant(t)), None)
        after = role is last
    return None
