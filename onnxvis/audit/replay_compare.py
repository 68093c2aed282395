"""What a manifest states against what is found now, each difference with its name."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxvis._version import __version__
from onnxvis.audit.report_model import weight_changes
from onnxvis.errors import PreprocessingError
from onnxvis.preprocessing import Preprocessing
from onnxvis.provenance import versions

if TYPE_CHECKING:
    from onnxvis.explanation import Explanation
    from onnxvis.model import Model

__all__ = [
    "ComparedMap",
    "Difference",
    "compare_answers",
    "compare_map",
    "compare_model",
    "compare_preprocessing",
    "compare_statements",
    "compare_versions",
    "differing",
    "plain",
]

_ANSWER_TOLERANCE = 1e-3
_NUMBERS, _SMALL = 0.02, 1e-4


@dataclass(frozen=True)
class Difference:
    """Something that is not as recorded.

    Attributes:
        what: "model", "output", "picture", "preprocessing", "answer", "map", "file", "versions", "manifest", "metrics",
            "report" or "run".
        text: one sentence.
        serious: whether it makes the result disagree; other versions alone do not.
    """

    what: str
    text: str
    serious: bool = True


@dataclass(frozen=True)
class ComparedMap:
    """The recorded and the repeated map: equal in every bit, or how far apart."""

    identical: bool
    distance: float | None
    largest: float | None
    correlation: float | None
    differences: tuple[Difference, ...]


def compare_model(
    manifest: Mapping[str, Any], model: Model, weights: Mapping[str, Mapping[str, Any]] | None
) -> list[Difference]:
    """The model's fingerprint, and which weights changed where theirs are known."""
    recorded = manifest["provenance"]["model"]
    found = []
    if recorded["sha256"] != model.sha256:
        now, then = model.sha256[:12], recorded["sha256"][:12]
        text = f"{model.file.path} is not the recorded model: SHA-256 {now}..., recorded {then}..."
        if weights is not None:
            text += f"; {weight_changes(weights, model) or 'its weights are the same, something else changed'}"
        found.append(Difference("model", text))
    external = recorded.get("external_data") or {}
    changed = [name for name, digest in external.items() if model.file.external.get(name) != digest]
    if changed and recorded["sha256"] == model.sha256:
        found.append(Difference("model", f"its weights file {changed[0]} is not the recorded one"))
    return found


def compare_preprocessing(
    manifest: Mapping[str, Any], model: Model, audit: Mapping[str, Any] | None, given: bool
) -> list[Difference]:
    """The recorded preprocessing against the one given now, the one beside the model now, and the report's."""
    recorded = _fields(manifest["preprocessing"])
    found = []
    if given and model.preprocessing is not None:
        text = _field_differences(recorded, _fields(model.preprocessing.to_dict()))
        if text:
            found.append(Difference("preprocessing", f"the one given now is not the recorded one: {text}"))
    elif manifest["preprocessing"] is not None:
        text = _field_differences(recorded, _beside(model, str(manifest["preprocessing"].get("source", ""))))
        if text:
            found.append(
                Difference("preprocessing", f"what stands with the model now is not what was recorded: {text}")
            )
    if audit is not None and audit["settings"]["preprocessing"] is not None:
        text = _field_differences(_fields(audit["settings"]["preprocessing"]), recorded)
        if text:
            found.append(Difference("preprocessing", f"the manifest states another one than the report: {text}"))
    return found


def _fields(spec: Mapping[str, Any] | None) -> dict[str, Any]:
    return {k: v for k, v in (spec or {}).items() if k not in ("source", "summary")}


def _beside(model: Model, source: str) -> dict[str, Any] | None:
    """The preprocessing that stands with the model now, if the recorded one came from the same place."""
    from onnxvis.preprocessing.sources import find

    try:
        now = find(model.file.path, model.metadata)
    except PreprocessingError:
        return None
    return _fields(now.to_dict()) if now is not None and now.source == source else None


def _field_differences(first: Mapping[str, Any], second: Mapping[str, Any] | None) -> str:
    if second is None:
        return ""
    plain = {f: v for f, v in Preprocessing().to_dict().items() if f != "source"}
    a, b = {**plain, **first}, {**plain, **second}
    names = [n for n in {**a, **b} if a.get(n) != b.get(n)]
    return ", ".join(f"{n} {a.get(n)} became {b.get(n)}" for n in names)


def compare_answers(manifest: Mapping[str, Any], explanation: Explanation, same_inputs: bool) -> list[Difference]:
    """What the model answered then and now, and the explained score.

    Args:
        manifest: the recorded one.
        explanation: the repeated one.
        same_inputs: whether model, picture and preprocessing are the recorded ones: the reason lies elsewhere then.
    """
    then, now = manifest["prediction"]["top"], explanation.prediction.to_dict()["top"]
    size = max(*(abs(c["logit"]) for c in then), 1e-12)
    logits = {c["index"]: c["logit"] for c in now}
    common = [abs(c["logit"] - logits[c["index"]]) for c in then if c["index"] in logits]
    score = abs(manifest["target"]["score"] - explanation.score) / max(abs(manifest["target"]["score"]), size)
    moved = max([*common, 0.0]) / size
    if then[0]["index"] == now[0]["index"] and max(moved, score) <= _ANSWER_TOLERANCE:
        return []
    before, after = (f"{c[0]['label']} ({c[0]['logit']:.4g})" for c in (then, now))
    text = f"the model's answer was {before}, is {after}"
    if same_inputs:
        text += "; model and picture are the recorded ones, so the preprocessing, the settings or the libraries are not"
    return [Difference("answer", text)]


def compare_statements(manifest: Mapping[str, Any], explanation: Explanation, labelled: bool) -> list[Difference]:
    """Everything else that a manifest says of a map: target, units, scale, layer, geometry, probabilities, parity.

    Args:
        manifest: the recorded one.
        explanation: the repeated one, of the same model, picture and preprocessing.
        labelled: whether the class names are known now.
    """
    now = plain(explanation.manifest())
    same_version = (manifest["provenance"].get("versions") or {}).get("onnxvis") == __version__
    names = ["target", "map", "layer", "geometry", "prediction"]
    pairs = {name: (manifest[name], now[name]) for name in names}
    pairs["picture"] = (_only(manifest["picture"], ("size",)), now["picture"])
    pairs["parity"] = (_only(manifest["parity"], ("passed",)), now["parity"])
    left_out = {"spec", "number", "sha256", "reason"} | (set() if labelled else {"name", "label"})
    left_out |= set() if same_version else {"units", "note"}
    found = [
        text
        for name, (then, there) in pairs.items()
        for text in differing(_without(then, left_out), _without(there, left_out), name, _NUMBERS, _SMALL)
    ]
    text = f"it states something else than is found now: {'; '.join(found[:3])}"
    return [Difference("manifest", text)] if found else []


def _only(section: Mapping[str, Any] | None, names: Sequence[str]) -> dict[str, Any] | None:
    return None if section is None else {name: section[name] for name in names}


def _without(value: Any, names: set[str]) -> Any:
    if isinstance(value, Mapping):
        return {k: _without(v, names) for k, v in value.items() if k not in names}
    return [_without(v, names) for v in value] if isinstance(value, list) else value


def differing(then: Any, now: Any, name: str = "", relative: float = 1e-9, absolute: float = 1e-12) -> Iterator[str]:
    """Where two pieces of plain data differ, by name; what only ``now`` has does not count.

    Args:
        then: recorded.
        now: found now.
        name: of the whole.
        relative: by how much numbers may differ, as a part of the larger one.
        absolute: by how much at least.
    """
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for key, value in then.items():
            if key not in now:
                yield f"{name} {key} ({_short(value)} stated, nothing found)".strip()
            else:
                yield from differing(value, now[key], f"{name} {key}".strip(), relative, absolute)
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for number, (a, b) in enumerate(zip(then, now, strict=True), 1):
            yield from differing(a, b, f"{name} {number}", relative, absolute)
    elif _is_number(then) and _is_number(now):
        if not math.isclose(then, now, rel_tol=relative, abs_tol=absolute):
            yield f"{name} ({then:.6g} stated, {now:.6g} found)"
    elif then != now:
        yield f"{name} ({_short(then)} stated, {_short(now)} found)"


def plain(data: Any) -> Any:
    """The same as it comes back from JSON."""
    return json.loads(json.dumps(data, default=str))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:59] + "\N{HORIZONTAL ELLIPSIS}"


def compare_map(
    path: Path, manifest: Mapping[str, Any], audit: Mapping[str, Any] | None, values: np.ndarray, tolerance: float
) -> ComparedMap:
    """The map computed now against the recorded fingerprint, and where that differs against the saved values."""
    recorded = manifest["map"]["sha256"]
    found = []
    if audit is not None and recorded != _in_report(path, audit):
        found.append(Difference("file", "the manifest and audit.json record different maps: one of them was changed"))
    saved, problem = _saved(path.parent / "attribution.npy", manifest)
    if problem:
        found.append(Difference("file", problem))
    if hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest() == recorded:
        return ComparedMap(True, 0.0, 0.0, 1.0, tuple(found))
    if saved is None:
        text = "the map computed now is another one; by how much cannot be said without attribution.npy"
        return ComparedMap(False, None, None, None, (*found, Difference("map", text)))
    if saved.shape != values.shape:
        text = f"the map has the shape {values.shape} now, recorded {saved.shape}"
        return ComparedMap(False, None, None, None, (*found, Difference("map", text)))
    a, b = values.astype(np.float64).ravel(), saved.astype(np.float64).ravel()
    distance = float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-37))
    largest = float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-37))
    correlation = _correlation(a, b)
    if not distance <= tolerance:
        text = (
            f"it differs by {distance:.2g} of its size (tolerance {tolerance:g}), at most by {largest:.2g} of its "
            f"largest value; correlation {correlation:.4f}"
        )
        found.append(Difference("map", text))
    return ComparedMap(False, distance, largest, correlation, tuple(found))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else float(np.array_equal(a, b))


def _in_report(path: Path, audit: Mapping[str, Any]) -> str | None:
    folder = path.parent.as_posix()
    for entry in audit["entries"]:
        for one in entry["maps"]:
            if folder.endswith(one["folder"]):
                return str(one["sha256"])
    return None


def _saved(file: Path, manifest: Mapping[str, Any]) -> tuple[np.ndarray | None, str]:
    """The saved values and what is wrong with their file."""
    try:
        data = file.read_bytes()
    except OSError:
        return None, f"{file} is missing"
    expected = (manifest.get("files") or {}).get("attribution.npy")
    try:
        values = np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
    except (ValueError, MemoryError, EOFError):
        return None, f"{file} is damaged"
    if expected is not None and hashlib.sha256(data).hexdigest() != expected:
        return values, f"{file} was changed after it was written"
    return values, ""


def compare_versions(manifest: Mapping[str, Any]) -> list[Difference]:
    """Libraries of other versions: stated, but no reason to disagree by itself."""
    then, now = manifest["provenance"].get("versions") or {}, versions()
    names = [n for n in {**then, **now} if then.get(n) != now.get(n)]
    if not names:
        return []
    text = ", ".join(f"{n} {then.get(n, 'absent')} then, {now.get(n, 'absent')} now" for n in names)
    return [Difference("versions", text, serious=False)]
