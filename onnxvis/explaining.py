"""Explaining pictures: prepare, one forward pass, resolve the targets, run the methods.

One forward pass of the deployed graph serves all methods and all targets of a batch of pictures.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxvis.errors import LayerError, UsageError
from onnxvis.explanation import Explanation
from onnxvis.methods import Attribution, LayerChoice, Method, Task, get_method
from onnxvis.prediction import Prediction, logits_of, predictions, same_shape
from onnxvis.progress import Progress, silent
from onnxvis.provenance import explained_output, provenance
from onnxvis.target import Score, TargetSpec, is_several, resolve

if TYPE_CHECKING:
    from onnxvis.model import Model
    from onnxvis.picture import PictureSource
    from onnxvis.preprocessing import Prepared

__all__ = ["Request", "Settings", "explain", "explain_prepared", "request"]

Targets = TargetSpec | tuple[TargetSpec, ...] | list[TargetSpec | tuple[TargetSpec, ...]]


@dataclass(frozen=True, eq=False)
class Request:
    """One method with its options and layer, checked against the model before anything runs."""

    method: Method
    options: Any
    layer: LayerChoice | None


@dataclass(frozen=True)
class Settings:
    """What all methods of a run share."""

    batch_size: int = 8
    float64: bool = False
    seed: int = 0
    allow_unverified: bool = False
    progress: Progress = silent


def explain(
    model: Model,
    image: PictureSource | Sequence[PictureSource],
    method: str = "grad-cam",
    target: Targets = "top1",
    *,
    layer: str | None = None,
    batch_size: int = 8,
    seed: int = 0,
    float64: bool = False,
    allow_unverified: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Explanation | list[Explanation] | list[list[Explanation]]:
    """Explain what a deployed model answers on one picture or several.

    Args:
        model: from :func:`onnxvis.load`.
        image: a path, bytes, a PIL image, an ``(H, W[, C]) uint8`` array, or a float array in the model's
            input shape, used as it is; or a list of those.
        method: a name from :func:`onnxvis.method_names`.
        target: a class index, a label, "top1" ... "topK", a contrast "A - B", or a function of the logits
            ``(N, K) -> (N,)``. A tuple asks for several on every picture; a list gives one entry per picture.
        layer: for methods that work at a layer: a tensor or node name; ``None`` chooses by structure.
        batch_size: pictures (or perturbed copies) at once.
        seed: for methods with chance.
        float64: compute gradients in double precision (for checks).
        allow_unverified: return a map although the converted model disagrees with the deployed one; the
            result is stamped as unverified.
        progress: called with (stage, done, total).
        options: of the method (``onnxvis methods NAME`` lists them).

    Returns:
        One :class:`Explanation` for one picture and one target; a list for several targets; for a list of
        pictures a list with one entry (or one list) per picture.

    Raises:
        OnnxvisError: anything that is not usable: picture, target, layer, option, or a parity above tolerance.
    """
    several = isinstance(image, list | tuple)
    images: Sequence[Any] = image if several else [image]  # type: ignore[assignment]
    targets = _targets_per_image(target, len(images), several)
    plan = request(model, method, options, layer)
    _check_batch_size(batch_size)
    settings = Settings(batch_size, float64, seed, allow_unverified, progress or silent)
    results: list[list[Explanation]] = []
    for start in range(0, len(images), batch_size):
        prepared = [model.prepare(one) for one in images[start : start + batch_size]]
        found = explain_prepared(model, prepared, [plan], targets[start : start + batch_size], settings)
        results += [per_method[0] for per_method in found]
    single = all(_is_single(t) for t in targets)
    flat = [r[0] if single else r for r in results]
    return flat if several else flat[0]  # type: ignore[return-value]


def _check_batch_size(batch_size: int) -> None:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise UsageError(f"the batch size is a whole number of at least 1, not {batch_size!r}.")


def _is_single(specs: tuple[TargetSpec, ...]) -> bool:
    return len(specs) == 1 and not is_several(specs[0])


def _targets_per_image(target: Targets, count: int, several: bool) -> list[tuple[TargetSpec, ...]]:
    if isinstance(target, list):
        if not several:
            raise UsageError("a list of targets is one target per picture; give a tuple for several on one picture.")
        if len(target) != count:
            raise UsageError(f"{len(target)} targets were given for {count} pictures; give one per picture.")
        return [t if isinstance(t, tuple) else (t,) for t in target]
    specs = target if isinstance(target, tuple) else (target,)
    if not specs:
        raise UsageError("no target was given.")
    return [specs] * count


def request(model: Model, method: str, options: Mapping[str, Any], layer: str | None = None) -> Request:
    """Check a method, its options and its layer against the model.

    Raises:
        UsageError: unknown method or option.
        LayerError: the layer does not exist, or the model has none that suits.
        ConversionError: the method needs gradients and this graph has none.
    """
    found = get_method(method)
    parsed = found.parse_options(options)
    if layer is not None and not found.uses_layer:
        raise UsageError(f"method {found.name} does not work at a layer; leave the layer out.")
    choice = _layer_choice(model, layer) if found.uses_layer else None
    if found.applies is not None and choice is not None:
        found.applies(model, choice)
    if found.suits is not None:
        found.suits(model)
    if found.needs_gradient:
        model.engine.backend()
    return Request(found, parsed, choice)


def _layer_choice(model: Model, name: str | None) -> LayerChoice:
    head = model.head
    if name is None:
        if head.cam_layer is None or head.channel_axis is None or head.spatial_axes is None:
            raise LayerError(
                f"no layer of {model.name!r} could be chosen by structure: {head.reason}. Name one with --layer "
                "(layer=... in Python); `onnxvis inspect` lists them."
            )
        if head.cam_layer == model.image_input.name:
            raise LayerError(
                f"{model.name!r} has no feature map between the picture and its last layer, so there is no layer to "
                "explain with. Use a method of the input: saliency, integrated-gradients or occlusion."
            )
        tensor, reason = head.cam_layer, f"chosen by structure: {head.reason}"
        channel, spatial = head.channel_axis, head.spatial_axes
    else:
        tensor, reason = model.layer(name), f"asked for as {name!r}"
        channel, spatial = _axes(model, tensor)
    if not model.in_file(tensor):
        reason += " (it exists only in the rewritten graph, and is computed there)"
    return LayerChoice(tensor, reason, channel, spatial)


def _axes(model: Model, tensor: str) -> tuple[int, tuple[int, int]]:
    """Channel axis and spatial axes of a layer, followed from the input through every change of layout."""
    shape = model.shapes.get(tensor, ())
    field = model.fields.get(tensor)
    if field is not None and field.rows is not None and field.cols is not None:
        spatial = (field.rows.axis, field.cols.axis)
    elif len(shape) == 4:
        spatial = (2, 3) if model.layout == "NCHW" else (1, 2)
    else:
        raise LayerError(
            f"layer {tensor!r} has shape {shape} and no rows and columns, so it cannot carry a map. "
            "Choose one with places (`onnxvis inspect` lists them)."
        )
    channel = next((a for a in range(1, len(shape)) if a not in spatial), 1)
    return channel, spatial


def explain_prepared(
    model: Model,
    prepared: Sequence[Prepared],
    requests: Sequence[Request],
    targets: Sequence[tuple[TargetSpec, ...]],
    settings: Settings,
) -> list[list[list[Explanation]]]:
    """Explain prepared pictures by several methods: ``[picture][method][target]``.

    Pictures of one shape share forward passes.
    """
    results: dict[int, list[list[Explanation]]] = {}
    for group in same_shape([p.tensor for p in prepared]):
        for start in range(0, len(group), settings.batch_size):
            rows = group[start : start + settings.batch_size]
            found = _explain_batch(model, [prepared[i] for i in rows], requests, [targets[i] for i in rows], settings)
            results.update(zip(rows, found, strict=True))
    return [results[i] for i in range(len(prepared))]


def _explain_batch(
    model: Model,
    prepared: Sequence[Prepared],
    requests: Sequence[Request],
    targets: Sequence[tuple[TargetSpec, ...]],
    settings: Settings,
) -> list[list[list[Explanation]]]:
    x = np.concatenate([p.tensor for p in prepared])
    tensors = _tap(model, x, [r.layer.tensor for r in requests if r.layer], settings.batch_size)
    logits = logits_of(model, tensors, len(x))
    answers = predictions(model, logits, top=5)
    scores = [_scores(model, specs, row) for specs, row in zip(targets, logits, strict=True)]
    results: list[list[list[Explanation]]] = [[] for _ in prepared]
    for chosen in requests:
        task = Task(
            model, x, prepared, scores, {**tensors, model.logits.tensor: logits}, chosen.layer, chosen.options,
            settings.batch_size, settings.float64, settings.seed, settings.progress,
        )  # fmt: skip
        began = time.perf_counter()
        attributions = chosen.method.attribute(task)
        seconds = (time.perf_counter() - began) / max(1, sum(map(len, attributions)))
        for i, per_score in enumerate(attributions):
            results[i].append(
                [
                    _explanation(model, chosen, prepared[i], score, logits[i], answers[i], found, settings, seconds)
                    for score, found in zip(scores[i], per_score, strict=True)
                ]
            )
    return results


def _tap(model: Model, x: np.ndarray, layers: Sequence[str], batch_size: int) -> dict[str, np.ndarray]:
    """The logits and the layers, from one forward pass.

    In an int8 file, exposing a layer switches fusions off and moves the answer by the rounding; there the
    logits come from a pass of their own.
    """
    logits = model.logits.tensor
    tensors = model.engine.forward(x, tuple(dict.fromkeys([logits, *layers])), batch_size)
    if layers and model.engine.precision == "int8":
        tensors |= model.engine.forward(x, (logits,), batch_size)
    return tensors


def _scores(model: Model, specs: tuple[TargetSpec, ...], logits: np.ndarray) -> list[Score]:
    return [score for spec in specs for score in resolve(spec, logits, model.labels, form=model.output_form)]


def _explanation(
    model: Model,
    chosen: Request,
    prepared: Prepared,
    score: Score,
    logits: np.ndarray,
    answer: Prediction,
    found: Attribution,
    settings: Settings,
    seconds: float,
) -> Explanation:
    notes = [note for note in (model.labels_note, *found.notes) if note]
    if found.parity is not None:
        if not settings.allow_unverified:
            found.parity.require()
        if not found.parity.passed:
            notes.insert(0, "UNVERIFIED: the converted model disagrees with the deployed one; see parity")
        if found.parity.gradient is None and not found.parity.note:
            notes.append("no finite-difference check of the gradient could be made (the gradient is zero here)")
    if not np.isfinite(found.values).any():
        notes.append("no value of the map is finite")
    elif not np.abs(found.values[np.isfinite(found.values)]).max() > 0:
        notes.append("every value of the map is 0: nothing speaks for or against this target here")
        if model.engine.precision == "int8" and chosen.method.needs_gradient:
            notes.append(
                "in a quantized file this is also so where a value, such as the logit itself, stands at the end of its "
                "8-bit range, which stops the gradient: occlusion shows what the file does there"
            )
    return Explanation(
        attribution=found.values,
        units=found.units,
        signed=found.signed,
        reduction=found.reduction,
        method=chosen.method.name,
        method_title=chosen.method.title,
        target=found.target or score.name,
        target_spec=score.spec,
        target_index=None if found.target else score.index,
        score=float(score.value(logits[None])[0]) if found.score is None else found.score,
        layer=chosen.layer.tensor if chosen.layer else None,
        layer_reason=chosen.layer.reason if chosen.layer else "",
        layer_map=found.layer_map,
        parameters={**found.parameters, "float64": settings.float64, "seed": settings.seed},
        parity=found.parity,
        prediction=answer,
        prepared=prepared,
        notes=tuple(notes),
        logits_note=model.logits.reason,
        caution=chosen.method.caution,
        seconds=seconds,
        provenance={**provenance(model), "explained": explained_output(model)},
    )
