"""The deployed model with its explanation inside: one more output, for any ONNX runtime.

    image ----------> the file's own nodes ----------> its outputs, the same bits
    class_index ----> gradient nodes and map --------> explanation, explained_class

``class_index`` (int64, one for each picture, or one for all) may be left out: its default -1 asks for the largest
logit, so a program that knows nothing of it runs on. Embedded on request, the default is -2: nothing is explained,
the new outputs are empty and cost nothing, until a class or -1 is asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnxvis._version import __version__
from onnxvis.errors import ConversionError, ModelError, OutputError, UsageError, did_you_mean
from onnxvis.explaining import request
from onnxvis.graph.canonical.rewrite import PINNED
from onnxvis.graph.gradient import tape_for
from onnxvis.graph.gradient.attach import Attached, attach
from onnxvis.graph.gradient.maps import (
    AT_INPUT,
    AT_LAYER,
    ClassSeed,
    Places,
    enlarged,
    input_map,
    layer_map,
    seed_of_class,
)
from onnxvis.graph.gradient.on_request import on_request as only_on_request
from onnxvis.graph.gradient.repeated import Network, integrated_gradients, network, score_cam
from onnxvis.graph.gradient.tensor import Known, Tape, Tensor
from onnxvis.graph.gradient.vjp import NEWER, OLDEST, backward, check_forms, opset_of
from onnxvis.graph.index import GraphIndex
from onnxvis.methods import LayerChoice, get_method
from onnxvis.methods.integrated_gradients import quadrature
from onnxvis.model import Model
from onnxvis.modelfile import with_weights
from onnxvis.runtime.providers import Provider
from onnxvis.runtime.session import Sessions

__all__ = ["CLASS_INDEX", "EXPLAINED_CLASS", "EXPLANATION", "METADATA_KEY", "Embedded", "embed", "embeddable_methods"]

CLASS_INDEX, EXPLANATION, EXPLAINED_CLASS = "class_index", "explanation", "explained_class"
METADATA_KEY = "onnxvis.embedded"
CLASS_INPUTS = ("optional", "required")
REPEATED = ("integrated-gradients", "score-cam")
"""Methods that run the network many times, in a Loop; embedded on request unless asked otherwise."""
_LARGEST = 2**31 - 1
_MANY = 16
_SEED, _FOUND = "onnxvis/cotangent", "onnxvis/found"
_OPTIONS = {"integrated-gradients": ("baseline", "steps", "quadrature")}


@dataclass(frozen=True, eq=False)
class Embedded:
    """A model that explains itself.

    Attributes:
        proto: the model.
        record: what was added, as it stands in the file's metadata under ``onnxvis.embedded``.
        notes: what is to be said about it, one sentence each.
    """

    proto: onnx.ModelProto
    record: Mapping[str, Any]
    notes: tuple[str, ...]

    def save(self, path: str | Path) -> Path:
        """Write the file; an existing one is replaced only when the new one is complete.

        Raises:
            OutputError: it cannot be written.
        """
        target = Path(path)
        partial = target.with_name(f".{target.name}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(self.proto.SerializeToString())
            partial.replace(target)
        except (OSError, ValueError) as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            reason = getattr(error, "strerror", None) or error
            raise OutputError(f"cannot write {target}: {reason}. Choose another file with --out.") from error
        return target


def embeddable_methods() -> tuple[str, ...]:
    """Names of the methods that can be put into a file."""
    return (*AT_LAYER, *AT_INPUT, *REPEATED)


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is to be embedded."""

    method: str
    layer: LayerChoice | None
    upsample: bool
    options: Any
    on_request: bool
    required: bool


def embed(
    model: Model,
    method: str = "grad-cam",
    *,
    layer: str | None = None,
    upsample: bool = False,
    allow_rounding: bool = False,
    on_request: bool | None = None,
    class_input: str = "optional",
    **options: Any,
) -> Embedded:
    """Put an explanation into the deployed model.

    The result has every input and output of the file, and

    * input ``class_index``, int64 ``(N,)`` or ``(1,)``, which may be left out: the class to explain, -1 for the
      largest logit. An index that no class has makes the run fail.
    * output ``explanation``, float32: the raw signed map, ``(N, h, w)`` at the layer's own size or, up-sampled, at
      the picture's; for methods at the picture its gradient, of the picture's shape.
    * output ``explained_class``, int64 ``(N,)``.

    The file's own nodes are not changed; that its outputs keep their bits is checked by running both on noise.

    Args:
        model: an opened model whose logits are one score for each class.
        method: one of :func:`embeddable_methods`.
        layer: for class activation maps; chosen by structure when left out.
        upsample: enlarge a class activation map to the picture (bilinear, half-pixel centers).
        allow_rounding: accept outputs that differ by the rounding of the file's own precision, and say by how much.
            onnxruntime's CPU computes float16 files in float32 and rounds where tensors are read, so that reading
            one more can change the last digits.
        on_request: explain only where ``class_index`` is given: its default becomes -2, for which the new outputs
            have no elements and cost nothing. ``None``: for methods that run the network many times.
        class_input: "optional", or "required" for runtimes that cannot feed an input that has a default
            (onnxruntime-web).
        options: of integrated gradients: ``steps``, ``baseline`` (a number) and ``quadrature``.

    Raises:
        UsageError: the method cannot be embedded, or an option does not fit it.
        ConversionError: an operator has no rule, or the outputs would not keep their bits.
        LayerError: there is no such layer, or the method does not apply to this model.
        ModelError: the model has no class scores, or already has tensors of these names.
    """
    choice = _checked(model, method, layer, upsample)
    if class_input not in CLASS_INPUTS:
        raise UsageError(f"the class input is {' or '.join(CLASS_INPUTS)}, not {class_input!r}.")
    plan = _Plan(
        method,
        choice,
        upsample,
        _embeddable_options(method, options),
        method in REPEATED if on_request is None else on_request,
        class_input == "required",
    )
    deployed = with_weights(model.file)
    allowed = model.engine.output_tolerance if allow_rounding else 0.0
    attached, notes = _first_that_fits(model, deployed, lambda base, trial: _attach(model, base, plan, trial), allowed)
    proto = attached.model
    if attached.recomputed:
        notes.append(f"{attached.recomputed} of them compute again what the file holds in another form")
    if plan.on_request:
        notes.append("nothing is explained, at no cost, unless class_index is given (-1: the largest logit)")
    if plan.required:
        (default,) = (t for t in proto.graph.initializer if t.name == CLASS_INDEX)
        proto.graph.initializer.remove(default)
    record = _record(model, plan, attached)
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps(record, ensure_ascii=False)
    return Embedded(proto, record, tuple(notes))


def _embeddable_options(method: str, options: Mapping[str, Any]) -> Any:
    known = _OPTIONS.get(method, ())
    for name in options:
        if name not in known:
            have = f"It takes: {', '.join(known)}." if known else "It takes none."
            raise UsageError(f"{method} has no option {name!r} when it is put into a file. {have}")
    parsed = get_method(method).parse_options(options)
    baseline = getattr(parsed, "baseline", 0.0)
    if method in _OPTIONS and (isinstance(baseline, bool) or not isinstance(baseline, int | float)):
        raise UsageError(f"in a file the baseline of {method} is a number, not {baseline!r}.")
    return parsed


def _bases(
    model: Model, deployed: onnx.ModelProto
) -> Iterator[tuple[onnx.ModelProto | Callable[[], onnx.ModelProto], str]]:
    """What the explanation may be attached to, the first choice first, each with what is to be said of it."""
    yield deployed, ""
    version = opset_of(deployed)
    if OLDEST <= version < PINNED:
        yield lambda: _raised(deployed), f"operator set {version} became {PINNED}, which the file's own nodes fit as is"
    if model.engine.precision == "float32":
        yield model.canonical.model, "the file was rewritten into its canonical form as a whole"


def _raised(deployed: onnx.ModelProto) -> onnx.ModelProto:
    """The file under a newer operator set, for files whose nodes are written the same way there."""
    check_forms([node for node in deployed.graph.node if node.domain in ("", "ai.onnx")], PINNED)
    raised = onnx.ModelProto()
    raised.CopyFrom(deployed)
    for entry in raised.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = PINNED
    return raised


def _first_that_fits(
    model: Model, deployed: onnx.ModelProto, attached_to: Callable[[onnx.ModelProto, bool], Attached], allowed: float
) -> tuple[Attached, list[str]]:
    """The first base to which the explanation can be attached without changing the outputs, with what to say of it.

    What is compared is a trial with few steps, the same graph otherwise.
    """
    refused: list[str] = []
    rounding = False
    for base, remark in _bases(model, deployed):
        try:
            chosen = base() if callable(base) else base
            attached = attached_to(chosen, False)
        except ConversionError as error:
            refused.append(str(error).removesuffix(f" {NEWER}").removesuffix("."))
            continue
        difference, where = _difference(model, deployed, attached_to(chosen, True).model)
        if difference <= allowed:
            kept = "the file's outputs keep their bits (checked on noise)"
            if difference:
                kept = f"the file's outputs change by rounding, as allowed: {where}"
            notes = [f"{remark}, because {refused[0]}"] if remark else []
            return attached, [*notes, f"{attached.added} nodes added; {kept}"]
        refused.append(f"the outputs of the model would not keep their bits: {where}")
        rounding |= difference <= model.engine.output_tolerance
    advice = "Nothing is embedded; `onnxvis explain` needs no new file."
    if rounding or (model.engine.precision != "float32" and not allowed):
        advice += " Differences of rounding can be allowed: allow_rounding=True (--allow-rounding)."
    if model.engine.precision != "float32" and not allowed:
        advice += (
            " On request (on_request=True, --on-request) nothing reads the file's own tensors, which may be enough."
        )
    if opset_of(deployed) < PINNED:
        advice += f" A model exported with operator set {PINNED} or newer may be taken as it is."
    raise ConversionError(f"{' Then: '.join(refused)}. {advice}")


def _checked(model: Model, method: str, layer: str | None, upsample: bool) -> LayerChoice | None:
    if method not in embeddable_methods():
        hint = did_you_mean(method, embeddable_methods())
        raise UsageError(
            f"method {method!r} cannot be put into a file; these can: {', '.join(embeddable_methods())}.{hint}"
        )
    at_input = method in AT_INPUT or method == "integrated-gradients"
    if upsample and at_input:
        raise UsageError(f"{method} is already as large as the picture; leave the up-sampling out.")
    logits = model.logits
    shape = model.shapes[logits.tensor]
    if logits.kind != "classifier" or int(np.prod(shape)) != shape[logits.class_axis] * model.example_shape()[0]:
        raise ModelError(
            f"the logits {logits.tensor!r} have shape {shape}: a class index needs one score for each class. Dense "
            "outputs and detectors are explained by `onnxvis explain`."
        )
    taken = {v.name for v in (*model.file.proto.graph.input, *model.file.proto.graph.output)}
    taken |= {t for node in model.file.proto.graph.node for t in node.output}
    double = [name for name in (CLASS_INDEX, EXPLANATION, EXPLAINED_CLASS) if name in taken]
    if double:
        raise ModelError(f"the model already has a tensor {double[0]!r}; it may explain itself already.")
    if at_input and np.dtype(model.image_input.dtype).kind != "f":
        raise ModelError(f"the picture enters as {model.image_input.dtype}: it has no gradient. Use grad-cam.")
    if at_input and layer is not None:
        raise UsageError(f"method {method} does not work at a layer; leave the layer out.")
    return None if at_input else request(model, method, {}, layer).layer


def _attach(model: Model, base: onnx.ModelProto, plan: _Plan, trial: bool) -> Attached:
    dialect, logits = model.canonical.model, model.logits
    repeated = _network(model, base, plan) if plan.method in REPEATED else None
    tape = tape_for(dialect, _taken(base, repeated), amend=False)
    classes = model.shapes[logits.tensor][logits.class_axis]
    seed = seed_of_class(tape, logits.tensor, CLASS_INDEX, classes)
    found = _repeated(model, tape, seed, plan, repeated, trial) if repeated else _once(model, tape, seed, plan)
    rows = _rows_axis(model)
    if plan.upsample:
        found = enlarged(tape, found, model.image_input.name, rows)
    rank = 3 if plan.layer is not None else len(model.image_input.shape)
    outputs: dict[str, tuple[Tensor, Sequence[str | int]]] = {
        EXPLANATION: (found, [f"{EXPLANATION}_{axis}" for axis in range(rank)]),
        EXPLAINED_CLASS: (seed.index, [f"{EXPLAINED_CLASS}_count"]),
    }
    default = numpy_helper.from_array(np.array([-2 if plan.on_request else -1], np.int64), CLASS_INDEX)
    attached = attach(base, dialect, tape, outputs, {CLASS_INDEX: default})
    if not plan.on_request:
        return attached
    return dataclasses.replace(
        attached, model=only_on_request(attached.model, base, model.image_input.name, CLASS_INDEX)
    )


def _taken(base: onnx.ModelProto, network: Network | None = None) -> list[str]:
    nodes, values = [*base.graph.node], [*base.graph.input, *base.graph.initializer]
    if network is not None:
        nodes += network.outside
        values += network.initializers
    names = [t for node in nodes for t in (*node.input, *node.output, node.name)]
    names += [v.name for v in values]
    return [*names, CLASS_INDEX, EXPLANATION, EXPLAINED_CLASS]


def _rows_axis(model: Model) -> int:
    return len(model.image_input.shape) - (2 if model.layout == "NCHW" else 3)


def _once(model: Model, tape: Tape, seed: ClassSeed, plan: _Plan) -> Tensor:
    """A map from one forward and one backward pass."""
    index, logits, image = GraphIndex(model.canonical.model), model.logits.tensor, model.image_input.name
    if plan.layer is None:
        return input_map(tape, index, plan.method, logits, image, seed)
    places = Places(plan.layer.channel_axis, plan.layer.spatial_axes)
    return layer_map(tape, index, plan.method, logits, plan.layer.tensor, seed, places)


def _network(model: Model, base: onnx.ModelProto, plan: _Plan) -> Network:
    """The nodes of one step: the file's own, and those of the gradient where the method needs it."""
    dialect, logits, image = model.canonical.model, model.logits.tensor, model.image_input.name
    tape = tape_for(dialect, [*_taken(base), _SEED, _FOUND], amend=False)
    found: Tensor | None = tape.tensor(logits).cast(int(onnx.TensorProto.FLOAT))
    if plan.method == "integrated-gradients":
        tape.known[_SEED] = Known(tape.tensor(logits).dtype, tape.tensor(logits).dims)
        gradient = backward(tape, GraphIndex(dialect), logits, (image,), tape.tensor(_SEED))[image]
        assert gradient is not None
        found = gradient.cast(int(onnx.TensorProto.FLOAT))
    assert found is not None
    cotangent = onnx.helper.make_tensor(_SEED, tape.tensor(logits).dtype, [0], [])
    attached = attach(base, dialect, tape, {_FOUND: (found, [])}, {_SEED: cotangent})
    return network(attached.model, base, image, _SEED, _FOUND)


def _repeated(model: Model, tape: Tape, seed: ClassSeed, plan: _Plan, net: Network, trial: bool) -> Tensor:
    """A map from many passes, or from a few to try the graph."""
    if plan.layer is None:
        places, weights = quadrature(plan.options.quadrature, 2 if trial else plan.options.steps)
        return integrated_gradients(tape, net, seed, float(plan.options.baseline), places, weights)
    shape = model.shapes[plan.layer.tensor]
    where = Places(plan.layer.channel_axis, plan.layer.spatial_axes)
    units = 1 if trial else shape[where.channel]
    return score_cam(tape, net, seed, plan.layer.tensor, where, units, _rows_axis(model))


def _difference(model: Model, deployed: onnx.ModelProto, edited: onnx.ModelProto) -> tuple[float, str]:
    """Largest difference of the outputs relative to the largest value, and where; both run on the CPU on noise."""
    if edited.ByteSize() > _LARGEST:
        return math.inf, "the file would be larger than 2 GB"
    provider = Provider("CPUExecutionProvider", "to compare")
    own, new = Sessions(deployed, provider), Sessions(edited, provider)
    worst, where = 0.0, ""
    try:
        for x in _noises(model):
            feeds = {**model.engine.constants, model.image_input.name: x}
            before = own.run(feeds)
            after = [new.run(feeds | more) for more in ({}, {CLASS_INDEX: np.array([-1], np.int64)})]
            for name, array, other in ((name, array, run[name]) for run in after for name, array in before.items()):
                gap = _gap(array, other)
                if not gap <= worst:
                    worst, where = gap, f"output {name!r} differs by {gap:.1e} of its largest value"
    except ModelError as error:
        return math.inf, str(error)
    return worst, where


def _noises(model: Model) -> Iterator[np.ndarray]:
    """One picture of noise; many, dark and bright ones, where a rounding may hit some pictures and miss others."""
    dtype, rng = np.dtype(model.image_input.dtype), np.random.default_rng(0)
    for count in range(1 if model.engine.precision == "float32" else _MANY):
        noise = rng.standard_normal(model.example_shape())
        if count:
            noise = noise * rng.uniform(0.1, 2) + rng.normal(0, 1.5)
        yield (np.clip(noise * 50 + 128, 0, 127) if dtype.kind in "ui" else noise).astype(dtype)


def _gap(before: np.ndarray, after: np.ndarray) -> float:
    """Largest difference relative to the largest value; infinite where it cannot be told."""
    if np.array_equal(after, before, equal_nan=before.dtype.kind == "f"):
        return 0.0
    if after.shape != before.shape or after.dtype != before.dtype or before.dtype.kind != "f":
        return math.inf
    largest = max(float(np.abs(before).max()), 1e-12)
    return float(np.abs(after.astype(np.float64) - before).max()) / largest


def _record(model: Model, plan: _Plan, attached: Attached) -> dict[str, Any]:
    choice = plan.layer
    return {
        "onnxvis": __version__,
        "method": plan.method,
        "options": {name: getattr(plan.options, name) for name in _OPTIONS.get(plan.method, ())},
        "layer": choice.tensor if choice is not None else None,
        "layer_reason": choice.reason if choice is not None else None,
        "logits": model.logits.tensor,
        "upsampled": plan.upsample,
        "on_request": plan.on_request,
        "input": CLASS_INDEX,
        "input_required": plan.required,
        "outputs": [EXPLANATION, EXPLAINED_CLASS],
        "nodes_added": attached.added,
        "source_sha256": model.sha256,
    }
