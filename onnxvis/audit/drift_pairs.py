"""Two models side by side: may they be compared, which methods work on both, and one picture through both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from onnxvis.audit.repeatable import repeatable_options
from onnxvis.errors import OnnxvisError, UsageError
from onnxvis.explaining import Request, Settings, explain_prepared, request
from onnxvis.explanation import Explanation
from onnxvis.prediction import logits_of
from onnxvis.target import resolve

if TYPE_CHECKING:
    from onnxvis.model import Model
    from onnxvis.picture import PictureSource
    from onnxvis.preprocessing import Prepared

__all__ = ["Pair", "Requests", "check_pair", "explain_pair", "explain_pairs", "usable_methods"]

Requests: TypeAlias = "list[tuple[Request, Request]]"
Maps: TypeAlias = "list[tuple[Explanation, Explanation] | str]"
Result: TypeAlias = "tuple[tuple[np.ndarray, np.ndarray], Maps, list[str]]"

_SHOWN = 3


@dataclass(frozen=True, eq=False)
class Pair:
    """One picture, prepared for both models."""

    name: str
    path: str
    sha256: str
    a: Prepared
    b: Prepared

    @classmethod
    def prepare(cls, a: Model, b: Model, image: PictureSource) -> Pair:
        """Prepare a picture for both.

        Raises:
            PictureError: it is not usable for one of them.
            PreprocessingError: nobody said how to prepare pictures.
        """
        first = a.prepare(image)
        second = b.prepare(image)
        picture = first.picture
        if picture is None:
            return cls("array", "", "", first, second)
        return cls(picture.name, str(picture.path or ""), str(picture.sha256), first, second)


def check_pair(a: Model, b: Model, ignore_labels: bool) -> list[str]:
    """What must be said about comparing two models.

    Raises:
        UsageError: they answer different questions: another kind or number of outputs, other class names.
    """
    if a.logits.kind != b.logits.kind:
        raise UsageError(
            f"{a.name!r} is a {a.logits.kind} ({a.logits.tensor}) and {b.name!r} a {b.logits.kind} "
            f"({b.logits.tensor}): they cannot be compared. Choose another output with --output or --output-b."
        )
    first, second = (m.shapes[m.logits.tensor][1:] for m in (a, b))
    counts = [int(m.shapes[m.logits.tensor][m.logits.class_axis]) for m in (a, b)]
    if counts[0] != counts[1]:
        raise UsageError(
            f"{a.name!r} has {counts[0]} classes and {b.name!r} {counts[1]}: their answers cannot be compared. "
            "Compare models of the same task, or choose other outputs with --output and --output-b."
        )
    if a.logits.kind != "classifier" and first != second:
        raise UsageError(
            f"the outputs have the shapes {first} and {second}: they cannot be compared place by place. Give both "
            "models the same input size with --size."
        )
    return _labels(a, b, ignore_labels) + _inputs(a, b)


def _labels(a: Model, b: Model, ignore: bool) -> list[str]:
    if not len(a.labels) or not len(b.labels):
        return []
    count = max(len(a.labels), len(b.labels))
    other = [i for i in range(count) if a.labels.name(i) != b.labels.name(i)]
    if not other:
        return []
    examples = "; ".join(f"{i} is {a.labels.name(i)!r} in A and {b.labels.name(i)!r} in B" for i in other[:_SHOWN])
    if not ignore:
        raise UsageError(
            f"{len(other)} classes have other names in the two models ({examples}), so a class of one may not be that "
            "of the other. Give both the same --labels, or pass --ignore-labels if only the wording differs."
        )
    return [f"{len(other)} classes have other names in the two models ({examples}); the names of A are shown"]


def _inputs(a: Model, b: Model) -> list[str]:
    notes = []
    if a.one_image_shape() != b.one_image_shape():
        notes.append(
            f"inputs of different shape ({a.image_input} and {b.image_input}): maps are compared on the picture"
        )
    if (a.preprocessing or b.preprocessing) and a.preprocessing != b.preprocessing:
        sides = [m.preprocessing.summary() if m.preprocessing else "none" for m in (a, b)]
        if sides[0] != sides[1]:
            notes.append(f"different preprocessing: A {sides[0]}; B {sides[1]}")
    return notes


def usable_methods(a: Model, b: Model, methods: Sequence[str]) -> tuple[Requests, list[str]]:
    """The methods that both models can do, with options that two runs agree under, and a note for each of the others.

    Raises:
        UsageError: an unknown method.
    """
    requests: Requests = []
    notes = []
    for name in dict.fromkeys(methods):
        options = repeatable_options(name)
        try:
            requests.append((request(a, name, options), request(b, name, options)))
        except UsageError:
            raise
        except OnnxvisError as error:
            notes.append(f"{name} was left out: {error}")
    return requests, notes


def explain_pairs(
    a: Model, b: Model, pairs: Sequence[Pair], requests: Requests, settings: Settings
) -> Iterator[tuple[Pair, Result | str]]:
    """Logits and maps of each pair, or why there are none; a picture that fails costs only itself."""
    if not pairs:
        return
    try:
        found: list[Result | str] = list(explain_pair(a, b, pairs, requests, settings))
    except OnnxvisError as error:
        found = [_alone(a, b, pair, requests, settings) for pair in pairs] if len(pairs) > 1 else [str(error)]
    yield from zip(pairs, found, strict=True)


def _alone(a: Model, b: Model, pair: Pair, requests: Requests, settings: Settings) -> Result | str:
    try:
        return explain_pair(a, b, [pair], requests, settings)[0]
    except OnnxvisError as error:
        return str(error)


def explain_pair(a: Model, b: Model, pairs: Sequence[Pair], requests: Requests, settings: Settings) -> list[Result]:
    """Logits of both models and, for each method, both maps of A's strongest class.

    Raises:
        OnnxvisError: a picture cannot be run in one of the models.
    """
    logits = [_logits(a, [p.a for p in pairs], settings), _logits(b, [p.b for p in pairs], settings)]
    classes = [(resolve("top1", row, a.labels, form=a.output_form)[0].index,) for row in logits[0]]
    targets = [(0 if index is None else index,) for (index,) in classes]
    names = [first.method.name for first, _ in requests]
    columns: list[list[tuple[Explanation, Explanation] | str]] = []
    for first, second in requests:
        try:
            sides = [
                explain_prepared(a, [p.a for p in pairs], [first], targets, settings),
                explain_prepared(b, [p.b for p in pairs], [second], targets, settings),
            ]
        except OnnxvisError as error:
            if len(pairs) > 1:
                raise
            columns.append([str(error)])
            continue
        columns.append([(x[0][0], y[0][0]) for x, y in zip(*sides, strict=True)])
    return [((logits[0][i], logits[1][i]), [column[i] for column in columns], names) for i in range(len(pairs))]


def _logits(model: Model, prepared: Sequence[Prepared], settings: Settings) -> list[np.ndarray]:
    """Logits of each picture; pictures of one shape share a batch."""
    from onnxvis.prediction import same_shape

    name = model.logits.tensor
    found: dict[int, np.ndarray] = {}
    for group in same_shape([p.tensor for p in prepared]):
        x = np.concatenate([prepared[i].tensor for i in group])
        rows = logits_of(model, model.engine.forward(x, (name,), settings.batch_size), len(x))
        found.update(zip(group, rows, strict=True))
    return [found[i] for i in range(len(prepared))]
