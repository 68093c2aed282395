"""SCOUTER: the attention maps that a slot-attention classifier carries inside, read out and not computed.

Li et al., "SCOUTER: Slot Attention-based Classifier for Explainable Image Recognition", ICCV 2021. The logit of class
k is, up to rounding,

    logit_k = e * sum over places l of  A_k(l) * f(l)        (f: mean over channels of the attended features, f >= 0)

so the map of A_k * f, the contributions, is what the answer was made of; the paper draws A_k alone, which may be large
where there is nothing to attend to (f near 0). With e = +1 a map shows what supports the class; with e = -1 what speaks
against it, and is drawn negative. A contrast or any other score that is linear in the logits gets the same combination
of maps.

A file is recognized by its metadata, as ``onnxvis scouter fit`` writes them, or else by structure: the last Sigmoid
of shape (N, slots, places), slots a multiple of the classes, that weighs features in a matrix product from which the
logits come.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from onnxvis.errors import ModelError, UsageError
from onnxvis.graph.index import GraphIndex
from onnxvis.kernels.upsample import upsample_bilinear
from onnxvis.methods.arguments import one_of
from onnxvis.methods.base import Attribution, Method, Task, option

if TYPE_CHECKING:
    from onnxvis.model import Model
    from onnxvis.target import Score

__all__ = ["METADATA_KEY", "METHOD", "ScouterOptions", "SlotAttention", "class_maps", "find_slot_attention"]

METADATA_KEY = "onnxvis.scouter"
"""``metadata_props`` key whose value says, as JSON, which tensors of the file are what."""
_FORMS = ("Reshape", "Transpose", "Identity", "Cast", "Unsqueeze", "Squeeze", "Flatten")
_PRODUCTS = ("MatMul", "Einsum", "Gemm")
_MAPS = ("auto", "attention", "contribution")


@dataclass(frozen=True)
class SlotAttention:
    """Where a file keeps its slot attention.

    Attributes:
        attention: tensor of the attention, ``(N, slots, places)`` or ``(N, slots, rows, columns)``.
        classes: K.
        slots: slots per class; where the tensor has all of them, those of a class are beside each other.
        rows: of a map.
        columns: of a map.
        sign: e, +1 or -1; 0 where the file does not say, and the sign of its logits has to.
        values: tensor of the attended features ``(N, d, places)``, where it is known.
        reason: one sentence: how the file was recognized.
    """

    attention: str
    classes: int
    slots: int
    rows: int
    columns: int
    sign: int
    values: str | None
    reason: str


@dataclass(frozen=True)
class ScouterOptions:
    """Options of the method."""

    method: ClassVar[str] = "scouter"

    map: str = option(
        "auto",
        "contribution: attention times features, which sums to the logit; attention: the paper's map; auto: "
        "contribution where the file says which features are attended, else attention",
    )

    def __post_init__(self) -> None:
        one_of(self.method, "map", self.map, _MAPS)


def find_slot_attention(model: Model) -> SlotAttention:
    """The slot attention of a file.

    Raises:
        ModelError: it has none, or its metadata contradict its graph.
    """
    stated = model.metadata.get(METADATA_KEY)
    return _by_metadata(model, stated) if stated is not None else _by_structure(model)


def _by_metadata(model: Model, text: str) -> SlotAttention:
    try:
        record = json.loads(text)
        form, sign = record["form"], {"positive": 1, "negative": -1}[record["form"]["settings"]["explanation"]]
        attention, values = str(record["attention"]), str(record["values"])
        classes, rows, columns = (int(form[name]) for name in ("classes", "height", "width"))
        slots = int(form["settings"]["slots"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"the metadata {METADATA_KEY} of {model.name!r} are damaged ({error!r}). Fit it anew."
        ) from None
    made = {name for node in model.file.proto.graph.node for name in node.output}
    missing = [name for name in (attention, values) if name not in made]
    if missing:
        raise ModelError(
            f"the metadata {METADATA_KEY} of {model.name!r} name a tensor {missing[0]!r} that the graph does not have: "
            "the file was changed after it was written. Fit it anew."
        )
    reason = f"recognized by its metadata {METADATA_KEY}: {record['form']['settings']['explanation']} explanations"
    return SlotAttention(attention, classes, slots, rows, columns, sign, values, reason)


def _by_structure(model: Model) -> SlotAttention:
    index, logits = model.index, model.logits
    classes = index.shapes[logits.tensor][logits.class_axis]
    before = index.ancestors(logits.tensor)
    if logits.kind == "classifier" and classes > 1:
        for node in reversed(index.nodes):
            tensor = node.output[0] if node.output else ""
            if node.op_type != "Sigmoid" or tensor not in before or not _weighs(index, tensor):
                continue
            grid = _grid(index, tensor, classes, before)
            if grid is not None:
                shape = index.shapes[tensor]
                reason = (
                    f"recognized by structure: the Sigmoid {tensor!r} of shape {shape} has {shape[1] // classes} "
                    f"row(s) for each of the {classes} classes, and the logits come from its product with features"
                )
                return SlotAttention(tensor, classes, shape[1] // classes, *grid, 0, None, reason)
    raise ModelError(
        f"{model.name!r} carries no slot attention (no metadata {METADATA_KEY}, and no sigmoid attention with a row "
        "for each class before the logits). `onnxvis scouter fit` trains such a head on it."
    )


def _weighs(index: GraphIndex, tensor: str) -> bool:
    """Whether a tensor, perhaps in another form, goes into a matrix product: attention does, a GRU's gates do not."""
    return any(
        node.op_type in _PRODUCTS or (node.op_type in _FORMS and _weighs(index, node.output[0]))
        for node in index.consumers(tensor)
    )


def _grid(index: GraphIndex, tensor: str, classes: int, before: set[str]) -> tuple[int, int] | None:
    """Rows and columns of the attention's places."""
    shape = index.shapes.get(tensor, ())
    if len(shape) not in (3, 4) or shape[1] % classes or math.prod(shape[2:]) < 2:
        return None
    if len(shape) == 4:
        return shape[2], shape[3]
    made = [name for node in index.nodes for name in node.output]
    for name in (*reversed(made), *index.inputs):  # the feature map whose places were counted through
        other = index.shapes.get(name, ()) if name in before and name != tensor else ()
        for rows, columns in ((2, 3), (1, 2)):
            if len(other) == 4 and other[rows] * other[columns] == shape[2] and other[rows] > 1 < other[columns]:
                return other[rows], other[columns]
    side = math.isqrt(shape[2])
    return (side, side) if side * side == shape[2] else None


def class_maps(found: SlotAttention, attention: np.ndarray) -> np.ndarray:
    """A class's attention is the sum of its slots': ``(N, slots, ...)`` to ``(N, K, rows, columns)`` float64."""
    slots = attention.astype(np.float64).reshape(len(attention), found.classes, -1, found.rows * found.columns)
    return np.asarray(slots.sum(axis=2).reshape(len(attention), found.classes, found.rows, found.columns))


def attribute(task: Task) -> list[list[Attribution]]:
    """The maps of every image and score, ``(H, W)`` in the input grid.

    Raises:
        ModelError: the file has no slot attention.
        UsageError: contributions were asked for and the file does not say which features are attended.
    """
    found = find_slot_attention(task.model)
    wanted = [found.attention]
    contribution = task.options.map == "contribution" or (task.options.map == "auto" and found.values is not None)
    if contribution:
        if found.values is None:
            raise UsageError(
                "contributions need to know which features are attended, which only files of `onnxvis scouter fit` "
                "say. Leave -O map=contribution out."
            )
        wanted.append(found.values)
    tensors = task.model.engine.forward(task.x, tuple(wanted), task.batch_size)
    maps = class_maps(found, tensors[found.attention])
    sign, said = _sign(found, task.logits)
    features = None
    if contribution:
        features = tensors[wanted[1]].astype(np.float64).mean(axis=1).reshape(len(maps), 1, *maps.shape[2:])
        maps = maps * features
    return [
        [_attribution(task, found, sign * maps[row], contribution, score, (found.reason, said)) for score in scores]
        for row, scores in enumerate(task.scores)
    ]


def _sign(found: SlotAttention, logits: np.ndarray) -> tuple[int, str]:
    words = {1: "positive: the map shows what supports the class", -1: "negative: the map shows what speaks against it"}
    if found.sign:
        return found.sign, words[found.sign]
    sign = -1 if float(logits.max(initial=-np.inf)) <= 0 else 1
    return sign, f"{words[sign]} (e is {sign:+d} because {'no logit is above 0' if sign < 0 else 'logits are above 0'})"


def _attribution(
    task: Task, found: SlotAttention, maps: np.ndarray, contribution: bool, score: Score, notes: tuple[str, ...]
) -> Attribution:
    weights = score.cotangent.reshape(-1)
    small = np.tensordot(weights, maps, axes=1)
    parameters: dict[str, Any] = {"map": _MAPS[1 + contribution], "attention": found.attention}
    if contribution:
        units, total = "contribution to the logit", float(small.sum())
        parameters["sum"] = total
        notes = (*notes, f"the contributions of all places sum to {total:.6g}, the score")
    else:
        units = "attention"
        parameters["area"] = float(np.abs(small).mean())
        notes = (*notes, f"mean attention over the places: {parameters['area']:.3g}")
        notes = (*notes, "attention alone: where the features are near zero it adds nothing to the score")
    placed = f"map of {found.rows} x {found.columns} places, bilinearly enlarged to the input grid"
    layer_map = small.astype(np.float32)
    return Attribution(
        values=upsample_bilinear(layer_map, task.grid),
        units=units,
        signed=bool((small < 0).any()),
        layer_map=layer_map,
        parameters=parameters,
        notes=(placed, *notes),
    )


def _suits(model: Model) -> None:
    find_slot_attention(model)


METHOD = Method(
    name="scouter",
    title="SCOUTER",
    summary="the slot attention inside a SCOUTER file: what its answer is made of (e = +1) or held against (e = -1)",
    paper="Li et al., ICCV 2021",
    attribute=attribute,
    options=ScouterOptions,
    suits=_suits,
    caution="It explains the classifier with the slot head, not the one whose backbone it shares; a place has seen "
    "more of the picture than the square it is drawn on.",
)
