"""The weights of a convolution, as the network multiplies with them, and what they say without any picture.

Pictures of a first layer's filters are the oldest look into a network (Krizhevsky et al. 2012, figure 3). Weights are
read from the canonical form of the deployed file, so quantized, half precision, external and computed ones come as the
real numbers that they stand for.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx.onnx_pb import NodeProto

from onnxvis.errors import LayerError, OutputError, UsageError, did_you_mean
from onnxvis.files import write_atomic
from onnxvis.provenance import provenance

if TYPE_CHECKING:
    from PIL import Image

    from onnxvis.model import Model

__all__ = ["SORTS", "Duplicate", "Filters", "convolutions", "filters"]

SORTS = ("number", "norm", "cluster")
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_KEEPS_CHANNELS = {
    "Add", "BatchNormalization", "Cast", "Clip", "DequantizeLinear", "Div", "DynamicQuantizeLinear", "Identity", "Mul",
    "Pad", "QuantizeLinear", "Relu", "Sub", "Transpose",
}  # fmt: skip
_ALIKE = 0.99
_DEAD = 1e-3
_PAIRS = 10_000

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Duplicate:
    """Two units that see the same inputs and compute nearly the same, or nearly the negative.

    Attributes:
        first: unit.
        second: unit, above ``first``.
        cosine: of the angle between their weights, -1..1.
    """

    first: int
    second: int
    cosine: float


@dataclass(frozen=True, eq=False)
class Filters:
    """The filters of one convolution.

    Attributes:
        weights: ``(units, inputs, kernel height, kernel width)`` float32: for each unit one kernel for each input
            channel of its group, as the network multiplies with them, in the order of the file.
        layer: the tensor that the convolution makes.
        node: name of the operator.
        kind: "convolution", "grouped", "depthwise" or "transposed".
        groups: of the convolution: unit ``u`` sees the input channels from ``inputs * (u // (units / groups))`` on.
        color_order: the inputs as colors, such as ``(2, 1, 0)`` for blue, green, red; ``None`` where the inputs are
            not the three channels of a picture.
        gain: ``(units,)`` factor of the next scale (an unfused batch normalization), or ``None``.
        norms: ``(units,)`` Euclidean norm of each unit's weights, times its gain.
        dead: units whose norm is 0 or below ``1e-3`` of the median: their output is (nearly) the same for any picture.
        duplicates: pairs of units with ``|cosine| > 0.99``, strongest first.
        notes: one sentence each.
        provenance: model and versions, as plain data.
    """

    weights: Array
    layer: str
    node: str
    kind: str
    groups: int
    color_order: tuple[int, int, int] | None
    gain: Array | None
    norms: Array
    dead: tuple[int, ...]
    duplicates: tuple[Duplicate, ...]
    notes: tuple[str, ...]
    provenance: Mapping[str, Any] = field(repr=False)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.weights.shape))
        return f"<Filters of {self.layer!r}, {self.kind} {shape}, {len(self.dead)} dead>"

    @property
    def units(self) -> int:
        """How many filters there are."""
        return len(self.weights)

    def inputs_of(self, unit: int) -> range:
        """The input channels that a unit sees."""
        each = self.weights.shape[1]
        start = unit // (self.units // self.groups) * each
        return range(start, start + each)

    def order(self, sort: str = "number") -> list[int]:
        """Units in the order of the file, strongest first, or with their likes beside them.

        Args:
            sort: "number"; "norm"; or "cluster": leaves of average-linkage clustering by cosine distance, in the order
                with the least distance between neighbors (Bar-Joseph et al. 2001). Filters of zeros have no direction
                and come last.

        Raises:
            UsageError: another word.
        """
        if sort not in SORTS:
            raise UsageError(f"filters are sorted by {', '.join(SORTS)}, not by {sort!r}.{did_you_mean(sort, SORTS)}")
        if sort == "number":
            return list(range(self.units))
        if sort == "norm":
            return [int(u) for u in np.argsort(-self.norms, kind="stable")]
        return _clustered(self.weights.reshape(self.units, -1))

    def sheet(self, sort: str = "number", scale: str = "filter", most: int | None = None) -> Image.Image:
        """The contact sheet; see :func:`onnxvis.behaviour.filter_sheet.filter_sheet`."""
        from onnxvis.behaviour.filter_sheet import filter_sheet

        return filter_sheet(self, sort, scale, most)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the weights, as plain data."""
        return {
            "layer": self.layer,
            "node": self.node,
            "kind": self.kind,
            "groups": self.groups,
            "shape": list(self.weights.shape),
            "sha256": hashlib.sha256(np.ascontiguousarray(self.weights).tobytes()).hexdigest(),
            "color_order": list(self.color_order) if self.color_order else None,
            "norms": [float(n) for n in self.norms],
            "dead": list(self.dead),
            "duplicates": [{"units": [d.first, d.second], "cosine": d.cosine} for d in self.duplicates],
            "thresholds": {"dead": f"{_DEAD:g} of the median norm", "duplicate_cosine": _ALIKE},
            "notes": list(self.notes),
            "provenance": dict(self.provenance),
        }

    def save(self, folder: str | os.PathLike[str], sort: str = "number", scale: str = "filter") -> Path:
        """Write ``filters.png``, ``filters.npy`` and ``filters.json`` into a folder, each whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        from onnxvis.render import png_bytes

        out, array = Path(folder), io.BytesIO()
        np.save(array, self.weights)
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False)
        try:
            out.mkdir(parents=True, exist_ok=True)
            write_atomic(out / "filters.npy", array.getvalue())
            write_atomic(out / "filters.png", png_bytes(self.sheet(sort, scale)))
            write_atomic(out / "filters.json", text.encode("utf-8", "surrogatepass"))
        except OSError as error:
            raise OutputError(f"cannot write to {out}: {error.strerror or error}.") from error
        return out

    def _repr_png_(self) -> bytes:
        """Show the sheet in a notebook."""
        from onnxvis.render import png_bytes

        return png_bytes(self.sheet())


def convolutions(model: Model) -> list[str]:
    """The tensors that convolutions make, in order: what :func:`filters` takes as a layer."""
    return [node.output[0] for node in model.index.nodes if node.op_type in _CONVOLUTIONS]


def filters(model: Model, layer: str | None = None) -> Filters:
    """The filters of a convolution of the deployed file.

    Args:
        model: from :func:`onnxvis.load`.
        layer: name of the operator, its output, or a tensor made of it by activations and scales alone; ``None``
            takes the first convolution.

    Raises:
        LayerError: there is no such layer, or it is no convolution with constant weights in two dimensions.
    """
    node = _find(model, layer)
    stored = model.index.constant(node.input[1])
    if stored is None:
        raise LayerError(
            f"the weights of {model.index.label(node)!r} are computed from the picture: it has no filters of its own."
        )
    attributes = model.index.attrs(node)
    groups = int(attributes.get("group", 1))
    transposed = node.op_type == "ConvTranspose"
    whole, whole_note = _dynamic_scale(model, node)
    weights = _by_unit(np.asarray(stored * whole, np.float32), groups, transposed, model.index.label(node))
    order, seen_note = _colors(model, node, weights.shape[1], groups)
    gain = _next_scale(model, node, len(weights))
    norms = np.linalg.norm(weights.reshape(len(weights), -1), axis=1) * (1.0 if gain is None else np.abs(gain))
    norms = norms.astype(np.float32)
    notes = [note for note in (seen_note, whole_note) if note]
    if gain is not None:
        notes.append("norms count the factor of the scale that follows (batch normalization)")
    if transposed:
        notes.append("transposed convolution: a kernel is what a unit paints, not what it looks for")
    duplicates, more = _duplicates(weights, groups)
    notes += [more] if more else []
    return Filters(
        weights,
        node.output[0],
        model.index.label(node),
        _kind(weights.shape[1], groups, transposed),
        groups,
        order,
        gain,
        norms,
        _dead(norms),
        duplicates,
        tuple(notes),
        provenance(model),
    )


# --- finding the weights -----------------------------------------------------------------------


def _find(model: Model, layer: str | None) -> NodeProto:
    index, known = model.index, convolutions(model)
    if not known:
        raise LayerError(f"{model.name!r} has no convolution, so it has no filters to show.")
    if layer is None:
        found = index.producer(known[0])
        assert found is not None
        return found
    tensor: str = model.layer(layer)
    node = index.producer(tensor)
    while node is not None and node.op_type not in _CONVOLUTIONS:
        data = [t for t in index.data_inputs(node) if not _is_dynamic_scale(model, t)]
        node = index.producer(data[0]) if len(set(data)) == 1 and node.op_type in _KEEPS_CHANNELS else None
    if node is None:
        shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
        raise LayerError(f"layer {layer!r} is no convolution and does not come from one alone. There are: {shown}.")
    return node


def _dynamic_scale(model: Model, node: NodeProto) -> tuple[np.ndarray, str]:
    """What whole-number weights of a dynamically quantized file stand for: their scale, which follows the product.

    ``Conv(x8, w8) -> Mul(x_scale * w_scale)``: the constant factor of the second product is the weights' own.
    """
    one = np.ones((), np.float32)
    consumers = model.index.consumers(node.output[0])
    if len(consumers) != 1 or consumers[0].op_type != "Mul":
        return one, ""
    other = [t for t in consumers[0].input if _is_dynamic_scale(model, t)]
    scales = model.index.producer(other[0]) if other else None
    if scales is None:
        return one, ""
    factor = next((model.index.constant(t) for t in scales.input if model.index.is_constant(t)), None)
    if factor is None:
        return one, ""
    shape = (-1, *[1] * (len(model.index.constant_shape(node.input[1]) or ()) - 1)) if factor.size > 1 else ()
    return factor.astype(np.float32).reshape(shape), "weights of a dynamically quantized file, times their scale"


def _is_dynamic_scale(model: Model, tensor: str) -> bool:
    """Whether a tensor is a product of the input's scale, as ``DynamicQuantizeLinear`` found it."""
    product = model.index.producer(tensor)
    makers = [model.index.producer(t) for t in product.input] if product is not None else []
    dynamic = any(maker is not None and maker.op_type == "DynamicQuantizeLinear" for maker in makers)
    return product is not None and product.op_type == "Mul" and dynamic


def _by_unit(stored: Array, groups: int, transposed: bool, name: str) -> Array:
    """``(units, inputs of a group, kernel height, kernel width)``."""
    if stored.ndim not in (3, 4):
        raise LayerError(f"{name!r} convolves in {stored.ndim - 2} dimensions; filters are shown in one or two.")
    weights = stored if stored.ndim == 4 else stored[:, :, None, :]
    if transposed:  # stored as (inputs, units of a group, ...)
        inputs, units = weights.shape[:2]
        kernel = weights.shape[2:]
        split = weights.reshape(groups, inputs // groups, units, *kernel)
        weights = split.swapaxes(1, 2).reshape(groups * units, inputs // groups, *kernel)
    return np.ascontiguousarray(weights)


def _kind(inputs: int, groups: int, transposed: bool) -> str:
    if transposed:
        return "transposed"
    if groups == 1:
        return "convolution"
    return "depthwise" if inputs == 1 else "grouped"


def _colors(model: Model, node: NodeProto, inputs: int, groups: int) -> tuple[tuple[int, int, int] | None, str]:
    """How the inputs are colors: followed back to the picture over what keeps channels apart."""
    if inputs != 3 or groups != 1:
        return None, ""
    way = model.index.between([model.image_input.name], [node.input[0]])
    if any(step.op_type not in _KEEPS_CHANNELS for step in way if model.index.data_inputs(step)):
        return None, ""
    if model.preprocessing is None:
        return (0, 1, 2), "shown as red, green, blue: no preprocessing says otherwise"
    if model.preprocessing.channel_order == "bgr":
        return (2, 1, 0), "the model takes blue, green, red; filters are shown in true colors"
    return (None, "") if model.preprocessing.channel_order == "gray" else ((0, 1, 2), "")


def _next_scale(model: Model, node: NodeProto, units: int) -> Array | None:
    """The factors of a multiplication by one constant for each unit that follows at once, if it does."""
    consumers = model.index.consumers(node.output[0])
    if len(consumers) != 1 or consumers[0].op_type != "Mul":
        return None
    factors = [model.index.constant(t) for t in consumers[0].input if model.index.is_constant(t)]
    rank = len(model.shapes.get(node.output[0], ())) or 4
    for factor in factors:
        if factor is None:
            continue
        full = (1,) * (rank - factor.ndim) + factor.shape
        if factor.size == units and len(full) == rank and full[1] == units:
            return np.asarray(factor.reshape(-1), np.float32)
    return None


# --- statistics --------------------------------------------------------------------------------


def _dead(norms: Array) -> tuple[int, ...]:
    alive = norms[norms > 0]
    limit = _DEAD * float(np.median(alive)) if alive.size else 0.0
    return tuple(int(u) for u in np.flatnonzero((norms == 0) | (norms < limit)))


def _duplicates(weights: Array, groups: int) -> tuple[tuple[Duplicate, ...], str]:
    """Pairs within each group: only units that see the same inputs can do the same."""
    per_group = len(weights) // groups
    found: list[Duplicate] = []
    for start in range(0, len(weights), per_group) if per_group > 1 else ():
        flat = weights[start : start + per_group].reshape(per_group, -1).astype(np.float64)
        norms = np.linalg.norm(flat, axis=1)
        units = np.flatnonzero(norms > 0)
        directions = flat[units] / norms[units, None]
        cosines = np.triu(directions @ directions.T, k=1)
        for i, j in zip(*np.nonzero(np.abs(cosines) > _ALIKE), strict=True):
            cosine = float(np.clip(cosines[i, j], -1.0, 1.0))
            found.append(Duplicate(start + int(units[i]), start + int(units[j]), cosine))
    found.sort(key=lambda d: (-abs(d.cosine), d.first, d.second))
    note = f"{len(found)} duplicate pairs, of which the {_PAIRS} most alike are listed" if len(found) > _PAIRS else ""
    if weights[0].size == 1 and found:
        note = "each filter is a single number, so all of one sign count as duplicates"
    return tuple(found[:_PAIRS]), note


def _clustered(flat: Array) -> list[int]:
    from scipy.cluster.hierarchy import leaves_list, linkage

    norms = np.linalg.norm(flat.astype(np.float64), axis=1)
    units, zeros = np.flatnonzero(norms > 0), np.flatnonzero(norms == 0)
    if len(units) < 3:
        return [int(u) for u in (*units, *zeros)]
    directions = flat[units].astype(np.float64) / norms[units, None]
    rows, columns = np.triu_indices(len(units), k=1)
    distances = np.clip(1.0 - (directions @ directions.T)[rows, columns], 0.0, 2.0)
    # The best order of leaves costs the third power of their number; beyond this it would take minutes.
    tree = linkage(distances, method="average", optimal_ordering=len(units) <= 512)
    return [int(units[leaf]) for leaf in leaves_list(tree)] + [int(u) for u in zeros]
