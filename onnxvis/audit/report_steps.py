"""The long work of an audit, in pieces that are kept as they are finished: answers on all pictures, maps of the chosen.

Pictures run in the same groups whether an audit ran through or was interrupted, so that both give the same numbers.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxvis.audit import metrics as measures
from onnxvis.audit.report_state import ReportFolder, entry_name
from onnxvis.audit.selection import Item
from onnxvis.errors import ModelError, OnnxvisError, ParityError, PictureError, TargetError
from onnxvis.explaining import Request, Settings, explain_prepared
from onnxvis.explanation import Explanation
from onnxvis.prediction import Prediction, predict
from onnxvis.progress import Progress

if TYPE_CHECKING:
    from onnxvis.model import Model
    from onnxvis.preprocessing import Prepared

__all__ = ["CONTROL", "CONTROLLED", "TRUTH", "Work", "answer_all", "explain_chosen", "targets_of"]

TRUTH = "truth"
"""The target that stands for the class a picture is said to show."""
CONTROL = "random"
"""Name of the map of noise that stands beside the methods, to show what chance gives."""
CONTROLLED = ("insertion", "deletion")
_PICTURE_SIDE = 512
_ANSWERS = 16
_RECOVERABLE = (ParityError, ModelError, TargetError)


@dataclass(frozen=True)
class Work:
    """What every picture of an audit gets.

    Attributes:
        model: the audited model.
        folder: where results go.
        requests: the methods.
        targets: as they were asked for; :data:`TRUTH` among them where pictures may be labelled.
        metrics: names; measured for the first target, or for all with ``full``.
        full: whether they are measured for every target.
        settings: shared by the methods.
        metric_options: for :func:`onnxvis.audit.metrics.measure`.
    """

    model: Model
    folder: ReportFolder
    requests: Sequence[Request]
    targets: tuple[str, ...]
    metrics: tuple[str, ...]
    full: bool
    settings: Settings
    metric_options: Mapping[str, Any] = field(default_factory=dict)


def answer_all(
    model: Model, items: Sequence[Item], folder: ReportFolder, batch_size: int, progress: Progress
) -> dict[str, dict[str, Any]]:
    """What the model answers on every picture, by path; a picture that cannot be read has an "error" instead."""
    known = folder.answers()
    for start in range(0, len(items), _ANSWERS):
        progress("predictions", start, len(items))
        group = items[start : start + _ANSWERS]
        if all(item.path in known for item in group):
            continue
        records = _answers(model, group, batch_size)
        folder.add_answers(records)
        known.update({record["path"]: record for record in records})
    progress("predictions", len(items), len(items))
    return {item.path: known[item.path] for item in items}


def _answers(model: Model, items: Sequence[Item], batch_size: int) -> list[dict[str, Any]]:
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


def explain_chosen(
    work: Work, items: Sequence[Item], answers: Mapping[str, Mapping[str, Any]], progress: Progress
) -> list[str]:
    """Maps and metrics of the chosen pictures; each is on disk when it is finished.

    Returns:
        Paths of the pictures that are finished, in the given order.
    """
    step = work.settings.batch_size
    finished: list[str] = []
    if any(not _finished(work, item, answers) for item in items):
        _warm_up(work, items, answers)
    for start in range(0, len(items), step):
        progress("pictures", start, len(items))
        group = items[start : start + step]
        missing = [item for item in group if not _finished(work, item, answers)]
        if missing:
            _explain_group(work, group, missing, answers)
        finished += [item.path for item in group if _finished(work, item, answers)]
    progress("pictures", len(items), len(items))
    return finished


def targets_of(work_targets: Sequence[str], item: Item, answer: Mapping[str, Any]) -> tuple[str | int, ...]:
    """The targets of one picture: the true class where one is given and it is not what the model answered."""
    specs: list[str | int] = []
    for spec in work_targets:
        if spec != TRUTH:
            specs.append(spec)
        elif item.truth is not None and item.truth != answer["prediction"]["top"][0]["index"]:
            specs.append(item.truth)
    return tuple(specs)


def _finished(work: Work, item: Item, answers: Mapping[str, Mapping[str, Any]]) -> bool:
    found = work.folder.entry(item.path)
    return (
        found is not None
        and found["sha256"] == answers[item.path]["sha256"]
        and found["targets"] == [str(t) for t in targets_of(work.targets, item, answers[item.path])]
    )


def _warm_up(work: Work, items: Sequence[Item], answers: Mapping[str, Mapping[str, Any]]) -> None:
    """Gradients are compared with finite differences once, on the first picture: on the same one in every run."""
    gradients = [r for r in work.requests if r.method.needs_gradient]
    for item in items[:1]:
        specs = targets_of(work.targets, item, answers[item.path])[:1]
        for chosen in gradients:
            _tried(work, [work.model.prepare(item.opened)], [chosen], [specs], {})


def _explain_group(
    work: Work, group: Sequence[Item], missing: Sequence[Item], answers: Mapping[str, Mapping[str, Any]]
) -> None:
    """The whole group runs, also what is finished of it: another composition could round otherwise."""
    prepared = [work.model.prepare(item.opened) for item in group]
    targets = [targets_of(work.targets, item, answers[item.path]) for item in group]
    problems: dict[tuple[int, str], str] = {}
    columns = {r.method.name: _tried(work, prepared, [r], targets, problems) for r in work.requests}
    for row, item in enumerate(group):
        if item not in missing:
            continue
        by_method = {name: column[row] for name, column in columns.items() if column[row] is not None}
        failed = [{"method": name, "error": text} for (i, name), text in problems.items() if i == row]
        _keep(work, item, answers[item.path], prepared[row], by_method, failed)


def _tried(
    work: Work,
    prepared: Sequence[Prepared],
    requests: Sequence[Request],
    targets: Sequence[tuple[str | int, ...]],
    problems: dict[tuple[int, str], str],
) -> list[Any]:
    """The explanations of one method on some pictures; one that fails costs only itself."""
    name = requests[0].method.name
    try:
        return [rows[0] for rows in explain_prepared(work.model, prepared, requests, targets, work.settings)]
    except _RECOVERABLE as error:
        if len(prepared) == 1:
            problems[0, name] = str(error)
            return [None]
    found: list[Any] = []
    for row, one in enumerate(prepared):
        own: dict[tuple[int, str], str] = {}
        found += _tried(work, [one], requests, [targets[row]], own)
        problems.update({(row, method): text for (_, method), text in own.items()})
    return found


def _keep(
    work: Work,
    item: Item,
    answer: Mapping[str, Any],
    prepared: Prepared,
    by_method: Mapping[str, Sequence[Explanation]],
    problems: list[dict[str, str]],
) -> None:
    assert prepared.picture is not None
    maps = []
    for explanations in by_method.values():
        for number, explanation in enumerate(explanations):
            folder = work.folder.save_map(item.path, explanation, number)
            maps.append(_map_record(explanation, number, folder))
    truth = None if item.truth is None else {"index": item.truth, "label": work.model.labels.name(item.truth)}
    entry = {
        "id": entry_name(item.path),
        "path": item.path,
        "name": prepared.picture.name,
        "size": list(prepared.picture.size),
        "sha256": prepared.picture.sha256,
        "truth": truth,
        "targets": [str(t) for t in targets_of(work.targets, item, answer)],
        "prediction": answer["prediction"],
        "notes": list(prepared.notes),
        "geometry": prepared.geometry.to_dict(),
        "maps": maps,
        "metrics": _measured(work, by_method),
        "agreement": _agreement(by_method),
        "problems": problems,
    }
    work.folder.save_entry(item.path, entry, _small_picture(prepared.picture.rgb()))


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


def _measured(work: Work, by_method: Mapping[str, Sequence[Explanation]]) -> list[dict[str, Any]]:
    """Metrics of every map of the first target (of all targets with ``full``), and of a map of noise."""
    if not work.metrics:
        return []
    chosen = {name: list(found if work.full else found[:1]) for name, found in by_method.items()}
    flat = [(name, k, e) for name, found in chosen.items() for k, e in enumerate(found)]
    records = _measure(work, flat, work.metrics)
    controlled = [name for name in CONTROLLED if name in work.metrics]
    if flat and controlled:
        first = flat[0][2]
        noise = np.random.default_rng(work.settings.seed).random(first.heat().shape).astype(np.float32)
        control = dataclasses.replace(first, attribution=noise, layer_map=None, signed=False, reduction="sum")
        records += _measure(work, [(CONTROL, 0, control)], controlled)
    return records


def _measure(work: Work, rows: Sequence[tuple[str, int, Explanation]], names: Sequence[str]) -> list[dict[str, Any]]:
    found = measures.measure(
        work.model,
        [explanation for _, _, explanation in rows],
        list(names),
        batch_size=work.settings.batch_size,
        seed=work.settings.seed,
        **work.metric_options,
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
