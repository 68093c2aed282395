"""The units of work of an audit: a few pictures in; answers, or maps with their figures, out. No file is touched.

What comes out depends on the model's file, on what is asked and on the pictures alone, not on which process does it or
on what it did before; so it may be done again, or elsewhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxvis.audit import metrics as measures
from onnxvis.audit.metrics.where import as_mask
from onnxvis.audit.objects import Place
from onnxvis.audit.report_outline import outline_of_boxes, outline_of_mask
from onnxvis.audit.report_state import FinishedMap, FinishedPicture, LostPicture, entry_name, map_folder, plain_json
from onnxvis.audit.report_words import OBJECTS
from onnxvis.audit.selection import Item
from onnxvis.errors import ModelError, OnnxvisError, ParityError, PictureError, TargetError, UsageError
from onnxvis.explaining import Request, Settings, explain_prepared
from onnxvis.explanation import Explanation
from onnxvis.prediction import Prediction, predict, settle_batches
from onnxvis.progress import StageClock

if TYPE_CHECKING:
    from onnxvis.model import Model
    from onnxvis.preprocessing import Prepared

__all__ = [
    "CONTROL",
    "CONTROLLED",
    "TRUTH",
    "Asked",
    "Group",
    "answer_group",
    "explain_group",
    "settle",
    "targets_of",
]

TRUTH = "truth"
"""The target that stands for the class a picture is said to show."""
CONTROL = "random"
"""Name of the map of noise that stands beside the methods, to show what chance gives."""
CONTROLLED = ("insertion", "deletion", "pointing-game", "energy-pointing-game", "localization-iou")
_PICTURE_SIDE = 512
_RECOVERABLE = (ParityError, ModelError, TargetError)


@dataclass(frozen=True)
class Asked:
    """What is asked of every picture of an audit; plain data, if the progress of the settings is.

    Attributes:
        requests: the methods.
        targets: as they were asked for; :data:`TRUTH` among them where pictures may be labelled.
        metrics: names; measured for the first target, or for all with ``full``.
        full: whether they are measured for every target.
        settings: shared by the methods.
        metric_options: for :func:`onnxvis.audit.metrics.measure`.
        facts: of the model, for the manifests, where they were found by another process; ``None`` asks the model.
        places: where the objects are, by path of the picture.
    """

    requests: Sequence[Request]
    targets: tuple[str, ...]
    metrics: tuple[str, ...]
    full: bool
    settings: Settings
    metric_options: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] | None = None
    places: Mapping[str, Place] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """Pictures that run together, whatever of them is finished: another composition could round otherwise.

    Attributes:
        items: the pictures.
        answers: on each of them.
        missing: places of those that are not finished.
    """

    items: tuple[Item, ...]
    answers: tuple[Mapping[str, Any], ...]
    missing: tuple[int, ...]


def targets_of(asked: Sequence[str], item: Item, answer: Mapping[str, Any]) -> tuple[str | int, ...]:
    """The targets of one picture: the true class where one is given and it is not what the model answered."""
    specs: list[str | int] = []
    for spec in asked:
        if spec != TRUTH:
            specs.append(spec)
        elif item.truth is not None and item.truth != answer["prediction"]["top"][0]["index"]:
            specs.append(item.truth)
    return tuple(specs)


def settle(model: Model, asked: Asked | None = None, first: tuple[Item, Mapping[str, Any]] | None = None) -> None:
    """Decide what a process decides once on the same data in every process, whatever it was given to do.

    Args:
        model: the model; how its batches run is found.
        asked: the methods; for those with gradients, the finite-difference check is made.
        first: the picture it is made on, the first of the chosen ones, and the answer on it.
    """
    settle_batches(model)
    if asked is None or first is None:
        return
    item, answer = first
    specs = targets_of(asked.targets, item, answer)[:1]
    for chosen in (request for request in asked.requests if request.method.needs_gradient):
        with contextlib.suppress(PictureError):  # a file that is gone by now decides nothing
            _tried(model, asked.settings, [model.prepare(item.opened)], [chosen], [specs], {})


# --- answers -------------------------------------------------------------------------------------


def answer_group(model: Model, items: Sequence[Item], batch_size: int) -> list[dict[str, Any]]:
    """What the model answers on some pictures, one record each; one that cannot be used has an "error" instead."""
    ready: list[tuple[str, Prepared]] = []
    records: dict[str, dict[str, Any]] = {}
    for item in items:
        try:
            ready.append((item.path, model.prepare(item.opened)))
        except PictureError as error:
            records[item.path] = {"path": item.path, "error": str(error)}
    for path, prepared, answer in _predicted(model, ready, batch_size):
        picture = prepared.picture
        assert picture is not None
        if isinstance(answer, OnnxvisError):
            records[path] = {"path": path, "error": str(answer)}
            continue
        stated = {"name": picture.name, "size": list(picture.size), "sha256": picture.sha256}
        records[path] = {"path": path, **stated, "prediction": answer.to_dict()}
    return [records[item.path] for item in items]


def _predicted(
    model: Model, ready: Sequence[tuple[str, Prepared]], batch_size: int
) -> Iterable[tuple[str, Prepared, Prediction | ModelError]]:
    try:
        answers = predict(model, [p.tensor for _, p in ready], 5, batch_size)
        return [(path, p, answer) for (path, p), answer in zip(ready, answers, strict=True)]
    except ModelError as error:
        if len(ready) == 1:
            return [(*ready[0], error)]
    return [found for one in ready for found in _predicted(model, [one], batch_size)]


# --- maps ----------------------------------------------------------------------------------------


def explain_group(
    model: Model, asked: Asked, group: Group, stages: dict[str, float] | None = None
) -> Iterator[FinishedPicture | LostPicture]:
    """Maps and metrics of the pictures of a group that are not finished, one after another.

    Args:
        model: the model.
        asked: what is asked of every picture.
        group: the pictures.
        stages: seconds by stage are added to it.
    """
    clock = StageClock(stages)
    rows: list[int] = []
    prepared: list[Prepared] = []
    for row, item in enumerate(group.items):
        try:
            prepared.append(model.prepare(item.opened))
            rows.append(row)
        except PictureError as error:
            if row in group.missing:
                yield LostPicture(item.path, str(error))
    clock.stop("reading")
    if not set(rows).intersection(group.missing):
        return
    targets = [targets_of(asked.targets, group.items[row], group.answers[row]) for row in rows]
    problems: dict[tuple[int, str], str] = {}
    columns = {r.method.name: _tried(model, asked.settings, prepared, [r], targets, problems) for r in asked.requests}
    clock.stop("explaining")
    for place, row in enumerate(rows):
        if row not in group.missing:
            continue
        by_method = {name: column[place] for name, column in columns.items() if column[place] is not None}
        failed = [{"method": name, "error": text} for (i, name), text in problems.items() if i == place]
        item, answer = group.items[row], group.answers[row]
        yield _finish(model, asked, item, answer, prepared[place], by_method, failed, clock)
        clock.start()


def _tried(
    model: Model,
    settings: Settings,
    prepared: Sequence[Prepared],
    requests: Sequence[Request],
    targets: Sequence[tuple[str | int, ...]],
    problems: dict[tuple[int, str], str],
) -> list[Any]:
    """The explanations of one method on some pictures; one that fails costs only itself."""
    name = requests[0].method.name
    try:
        return [rows[0] for rows in explain_prepared(model, prepared, requests, targets, settings)]
    except _RECOVERABLE as error:
        if len(prepared) == 1:
            problems[0, name] = str(error)
            return [None]
    found: list[Any] = []
    for row, one in enumerate(prepared):
        own: dict[tuple[int, str], str] = {}
        found += _tried(model, settings, [one], requests, [targets[row]], own)
        problems.update({(row, method): text for (_, method), text in own.items()})
    return found


def _finish(
    model: Model,
    asked: Asked,
    item: Item,
    answer: Mapping[str, Any],
    prepared: Prepared,
    by_method: Mapping[str, Sequence[Explanation]],
    problems: list[dict[str, str]],
    clock: StageClock,
) -> FinishedPicture:
    assert prepared.picture is not None
    where, objects = _objects(asked.places.get(item.path), prepared, problems)
    measured, agreement = _measured(model, asked, by_method, where), _agreement(by_method)
    clock.stop("measuring")
    maps, records = [], []
    for explanations in by_method.values():
        for number, explanation in enumerate(explanations):
            folder = map_folder(item.path, explanation, number)
            maps.append(_packed(explanation, folder, asked.facts))
            records.append(_map_record(explanation, number, folder))
    truth = None if item.truth is None else {"index": item.truth, "label": model.labels.name(item.truth)}
    entry = {
        "id": entry_name(item.path),
        "path": item.path,
        "name": prepared.picture.name,
        "size": list(prepared.picture.size),
        "sha256": prepared.picture.sha256,
        "truth": truth,
        "targets": [str(t) for t in targets_of(asked.targets, item, answer)],
        "prediction": answer["prediction"],
        "notes": list(prepared.notes),
        "geometry": prepared.geometry.to_dict(),
        "maps": records,
        "metrics": measured,
        "agreement": agreement,
        "problems": problems,
        **({"objects": objects} if asked.places else {}),
    }
    found = FinishedPicture(item.path, entry, _small_picture(prepared.picture.rgb()), tuple(maps))
    clock.stop("drawing")
    return found


def _packed(explanation: Explanation, folder: str, facts: Mapping[str, Any] | None) -> FinishedMap:
    """A map with its manifest, as ``onnxvis replay`` takes it."""
    if facts is not None:
        explanation = dataclasses.replace(explanation, provenance={**explanation.provenance, "model": facts})
    array = io.BytesIO()
    np.save(array, explanation.attribution)
    manifest = explanation.manifest()
    manifest["files"] = {"attribution.npy": hashlib.sha256(array.getvalue()).hexdigest()}
    return FinishedMap(folder, array.getvalue(), plain_json(manifest, 2))


def _map_record(explanation: Explanation, number: int, folder: str) -> dict[str, Any]:
    parity = explanation.parity
    manifest = explanation.manifest()
    return {
        "method": explanation.method,
        "target": {"number": number, **manifest["target"]},
        "folder": folder,
        **manifest["map"],
        "drawn_signed": explanation.drawn_signed,
        "layer": explanation.layer,
        "layer_reason": explanation.layer_reason,
        "parity": parity.sentence() if parity else None,
        "verified": parity is None or parity.passed,
        "parameters": manifest["parameters"],
        "notes": list(explanation.notes),
        "seconds": round(explanation.seconds, 4),
    }


def _objects(
    place: Place | None, prepared: Prepared, problems: list[dict[str, str]]
) -> tuple[np.ndarray | None, dict[str, Any] | None]:
    """Where the objects of a picture are, for metrics and for the page; what cannot be used joins the problems."""
    if place is None:
        return None, None
    try:
        values = place.values()
        _, boxes = as_mask(values, prepared.geometry)
        digest = place.digest()
    except UsageError as error:
        problems.append({"method": OBJECTS, "error": str(error)})
        return None, None
    outline = outline_of_boxes(boxes) if place.mask is None else outline_of_mask(values)
    mask = None if place.mask is None else str(place.mask)
    return values, {"boxes": [list(box) for box in boxes], "mask": mask, "sha256": digest, "outline": outline}


def _measured(
    model: Model, asked: Asked, by_method: Mapping[str, Sequence[Explanation]], where: np.ndarray | None
) -> list[dict[str, Any]]:
    """Metrics of every map of the first target (of all targets with ``full``), and of a map of noise."""
    if not asked.metrics:
        return []
    chosen = {name: list(found if asked.full else found[:1]) for name, found in by_method.items()}
    flat = [(name, k, e) for name, found in chosen.items() for k, e in enumerate(found)]
    records = _measure(model, asked, flat, asked.metrics, where)
    controlled = [name for name in CONTROLLED if name in asked.metrics]
    if flat and controlled:
        first = flat[0][2]
        picture = first.prepared.picture
        own = int(picture.sha256[:8], 16) if picture and picture.sha256 else 0  # else its maximum is always one place
        noise = np.random.default_rng([asked.settings.seed, own]).random(first.heat().shape).astype(np.float32)
        control = dataclasses.replace(first, attribution=noise, layer_map=None, signed=False, reduction="sum")
        records += _measure(model, asked, [(CONTROL, 0, control)], controlled, where)
    return records


def _measure(
    model: Model,
    asked: Asked,
    rows: Sequence[tuple[str, int, Explanation]],
    names: Sequence[str],
    where: np.ndarray | None,
) -> list[dict[str, Any]]:
    found = measures.measure(
        model,
        [explanation for _, _, explanation in rows],
        list(names),
        masks=None if where is None else [where] * len(rows),
        batch_size=asked.settings.batch_size,
        seed=asked.settings.seed,
        **asked.metric_options,
    )
    return [
        {"method": method, "target": number, "values": {n: _plain_measured(m) for n, m in values.items()}}
        for (method, number, _), values in zip(rows, found, strict=True)
    ]


def _plain_measured(measured: Any) -> dict[str, Any]:
    value = measured.value
    record: dict[str, Any] = {"value": float(value) if value is not None and np.isfinite(value) else None}
    if measured.note:
        record["note"] = measured.note
    if measured.curve is not None:
        record["curve"] = [[round(float(x), 5), round(float(y), 6)] for x, y in measured.curve if np.isfinite(y)]
    return record


def _agreement(by_method: Mapping[str, Sequence[Explanation]]) -> dict[str, Any] | None:
    if len(by_method) < 2:
        return None
    matrix = measures.agreement([found[0] for found in by_method.values()])
    rows = [[float(v) if np.isfinite(v) else None for v in row] for row in matrix]
    return {"methods": list(by_method), "matrix": rows}


def _small_picture(rgb: np.ndarray) -> bytes:
    from PIL import Image

    image = Image.fromarray(rgb)
    factor = min(1.0, _PICTURE_SIDE / max(image.size))
    if factor < 1:
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=80, method=4)
    return buffer.getvalue()
