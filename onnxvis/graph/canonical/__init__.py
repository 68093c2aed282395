"""The canonical dialect: every model rewritten into one small form.

The dialect is for understanding and for gradients; the deployed graph is what predicts. Each rewrite
stands in its own file with its pattern drawn at the top, and is listed here once, in order. A tensor
keeps its name through a rewrite, so a layer of the file is a layer of the dialect.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from google.protobuf.message import Error as ProtobufError  # type: ignore[import-untyped]

from onnxvis.errors import ModelError, OnnxvisError
from onnxvis.graph.canonical import (
    allowzero,
    axes_input,
    batch_norm,
    clip_bounds,
    dead_code,
    fold_constants,
    fused_activation,
    fused_matmul,
    gelu,
    grid_sample,
    group_norm,
    identity,
    idle_cast,
    initializer_inputs,
    inline_functions,
    inline_if,
    integer_product,
    legacy_attributes,
    lift_constants,
    opset,
    pad_inputs,
    pad_into_conv,
    quantized_conv,
    quantized_domain,
    quantized_pointwise,
    reduce_axes,
    resize_form,
    resize_scales,
    rms_norm,
    shape_arithmetic,
    shapes,
    single_precision,
    skip_layer_norm,
    slice_inputs,
    softmax_axis,
    sort,
    split_sizes,
    sum_of_two,
    top_k,
    upsample,
)
from onnxvis.graph.canonical.rewrite import OLDEST_MODERN, PINNED, Rewrite, Stage, opset_of
from onnxvis.graph.canonical.validate import validate

__all__ = ["REWRITES", "Applied", "Canonical", "Rewrite", "canonicalize"]

REWRITES: tuple[Rewrite, ...] = (
    inline_functions.REWRITE,
    initializer_inputs.REWRITE,
    sort.REWRITE,
    lift_constants.REWRITE,
    identity.REWRITE,
    inline_if.REWRITE,
    shapes.REWRITE,
    single_precision.REWRITE,
    idle_cast.REWRITE,
    fold_constants.REWRITE,
    shape_arithmetic.REWRITE,
    batch_norm.REWRITE,
    sum_of_two.REWRITE,
    allowzero.REWRITE,
    fused_activation.REWRITE,
    fused_matmul.REWRITE,
    skip_layer_norm.REWRITE,
    gelu.REWRITE,
    group_norm.REWRITE,
    quantized_domain.REWRITE,
    quantized_conv.REWRITE,
    quantized_pointwise.REWRITE,
    integer_product.REWRITE,
    pad_into_conv.REWRITE,
    resize_scales.REWRITE,
    legacy_attributes.REWRITE,
    axes_input.REWRITE,
    clip_bounds.REWRITE,
    grid_sample.REWRITE,
    pad_inputs.REWRITE,
    reduce_axes.REWRITE,
    resize_form.REWRITE,
    rms_norm.REWRITE,
    slice_inputs.REWRITE,
    softmax_axis.REWRITE,
    split_sizes.REWRITE,
    top_k.REWRITE,
    upsample.REWRITE,
    opset.REWRITE,
    dead_code.REWRITE,
)
_MAX_ROUNDS = 32
_MALFORMED = (
    *(ValueError, TypeError, LookupError, AttributeError, AssertionError, RuntimeError, ArithmeticError),
    *(OSError, MemoryError, ProtobufError, onnx.defs.SchemaError),
    *(ir.passes.InvariantError, ir.passes.PassError),
)


@dataclass(frozen=True)
class Applied:
    """A rewrite that changed something, and in how many places."""

    name: str
    summary: str
    count: int


@dataclass(frozen=True, eq=False)
class Canonical:
    """A model in the canonical dialect.

    Attributes:
        model: the rewritten graph.
        applied: the rewrites that changed something, in order.
        twins: tensors that exist only here, never in the deployed graph (for instance the scaled
            tensor inside a former BatchNormalization).
        opset: version of the default operator set that the result imports.
    """

    model: onnx.ModelProto
    applied: tuple[Applied, ...]
    twins: frozenset[str]
    opset: int


def tensor_names(graph: ir.Graph) -> set[str]:
    """All tensors a node makes, and the inputs."""
    names = {value.name for node in graph for value in node.outputs if value.name}
    return names | {value.name for value in graph.inputs if value.name}


def _in_place(model: ir.Model, rewrites: Sequence[Rewrite], counts: dict[str, int]) -> int:
    changed = 0
    for rewrite in rewrites:
        count = rewrite.apply(model)
        counts[rewrite.name] = counts.get(rewrite.name, 0) + count
        changed += count
    return changed


def _all_or_nothing(model: ir.Model, rewrites: Sequence[Rewrite], counts: dict[str, int]) -> tuple[ir.Model, int]:
    """The form rewrites: kept only if the whole model can be pinned, for a file has one operator set."""
    if opset_of(model) == PINNED:
        return model, 0
    trial, tally = model.clone(), dict(counts)
    changed = _in_place(trial, rewrites, tally)
    if opset_of(trial) != PINNED:
        return model, 0
    counts.update(tally)
    return trial, changed


def _rewrite(model: ir.Model, rewrites: Sequence[Rewrite], counts: dict[str, int]) -> ir.Model:
    pinning = opset.REWRITE in rewrites

    def group(rewrite: Rewrite) -> Stage:
        return rewrite.stage

    for _ in range(_MAX_ROUNDS):
        changed = 0
        for stage, members in itertools.groupby(rewrites, key=group):
            if stage == "form" and pinning:
                model, count = _all_or_nothing(model, tuple(members), counts)
            elif stage == "modern" and opset_of(model) < OLDEST_MODERN:
                count = 0
            else:
                count = _in_place(model, tuple(members), counts)
            changed += count
        if not changed:
            return model
    raise ModelError(
        f"the graph still changes after {_MAX_ROUNDS} rounds of rewriting. "
        "It is probably malformed: check it with onnx.checker.check_model, or export it again."
    )


def canonicalize(model: onnx.ModelProto, rewrites: tuple[Rewrite, ...] = REWRITES) -> Canonical:
    """Rewrite a model into the canonical dialect; the argument is left as it is.

    Deterministic and idempotent: the rewrites are repeated until none changes anything. Shapes and types of
    inner tensors are declared anew, as far as they follow from the graph's inputs. The batch axis stays as it
    is declared; free it first if it is to be free.

    Args:
        model: any ONNX model with its external data loaded.
        rewrites: the rewrites to apply, in this order.

    Raises:
        ModelError: the graph is malformed (a cycle, an undefined tensor, a name made twice, an attribute
            that the operator does not know).
    """
    try:
        validate(model)
        work = ir.from_proto(model)
        before = tensor_names(work.graph)
        counts: dict[str, int] = {}
        work = _rewrite(work, rewrites, counts)
        shapes.declare(work)
        result = ir.to_proto(work)
    except OnnxvisError:
        raise
    except _MALFORMED as error:
        raise ModelError(
            f"the graph is malformed and cannot be brought into the canonical dialect: {error}. "
            "Check the file with onnx.checker.check_model, or export it again."
        ) from error
    applied = tuple(Applied(r.name, r.summary, counts[r.name]) for r in rewrites if counts.get(r.name))
    twins = frozenset(tensor_names(work.graph) - before)
    return Canonical(result, applied, twins, opset_of(work))
