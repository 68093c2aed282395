"""`onnxvis replay`: compute a saved map again from its manifest, and say whether it agrees.

Everything a manifest states is held against what is there now: the model's fingerprint, the picture's, the
preprocessing, the answer, and the map itself. What differs is named. Works for the maps of ``onnxvis explain`` and for
the report of ``onnxvis audit``, which also keeps a fingerprint of every weight tensor and can say which one changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from onnxvis.audit.replay_compare import (
    Difference,
    compare_answers,
    compare_map,
    compare_model,
    compare_preprocessing,
    compare_statements,
    compare_versions,
)
from onnxvis.audit.replay_report import compare_metrics, compare_report
from onnxvis.audit.replay_setup import Found, Setup, Setups, find_picture
from onnxvis.errors import OnnxvisError, UsageError
from onnxvis.explaining import Settings, explain_prepared, request
from onnxvis.methods import get_method
from onnxvis.progress import Progress, silent

__all__ = [
    "AGREES",
    "DISAGREES",
    "GRADIENT_TOLERANCE",
    "IDENTICAL",
    "TOLERANCE",
    "UNREPEATABLE",
    "Replay",
    "Replayed",
    "replay",
]

TOLERANCE, GRADIENT_TOLERANCE = 1e-3, 1e-2
"""Largest distance of two maps that agree, as a part of the map's size (Euclidean norms), for methods that only run the
network and for those that differentiate it: where another batch size moves an activation across a kink, its float32
gradient changes by that much."""

# What plain data of a wrong type or size gives where it is used.
_DAMAGED = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError, MemoryError)

IDENTICAL, AGREES, DISAGREES, UNREPEATABLE = "identical", "agrees", "disagrees", "cannot be repeated"


@dataclass(frozen=True)
class Replayed:
    """What came of one manifest.

    Attributes:
        manifest: its path.
        title: method, target and picture, in words.
        outcome: "identical" (every bit of the map), "agrees" (within the tolerance), "disagrees" or "cannot be
            repeated".
        differences: what is not as it was recorded, the serious ones first.
        distance: Euclidean distance of the two maps as a part of the recorded one's norm; ``None`` where it was not
            computed.
        largest: largest difference as a part of the largest value.
        correlation: Pearson correlation of the two maps.
    """

    manifest: str
    title: str
    outcome: str
    differences: tuple[Difference, ...] = ()
    distance: float | None = None
    largest: float | None = None
    correlation: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "manifest": self.manifest,
            "title": self.title,
            "outcome": self.outcome,
            "differences": [vars(d) for d in self.differences],
            "distance": self.distance,
            "largest": self.largest,
            "correlation": self.correlation,
        }


@dataclass(frozen=True)
class Replay:
    """All that was repeated.

    Attributes:
        results: one for each manifest.
        in_all: how many manifests there were to choose from.
        report: what in a report does not follow from its own data.
        interrupted: whether it was stopped before all were repeated.
    """

    results: tuple[Replayed, ...]
    in_all: int
    report: tuple[Difference, ...] = ()
    interrupted: bool = False

    @property
    def agrees(self) -> bool:
        """Whether every map was repeated and agrees, and so does the report."""
        return not self.report and not self.interrupted and all(r.outcome in (IDENTICAL, AGREES) for r in self.results)

    @property
    def disagrees(self) -> bool:
        """Whether anything was found to differ."""
        return bool(self.report) or any(r.outcome == DISAGREES for r in self.results)

    def count(self, outcome: str) -> int:
        """How many came out so."""
        return sum(r.outcome == outcome for r in self.results)


def replay(
    what: str | Path,
    *,
    sample: int | None = None,
    model: str | Path | None = None,
    pictures: str | Path | None = None,
    preprocessing: str | None = None,
    labels: str | None = None,
    provider: str | None = None,
    gradients: str | None = None,
    tolerance: float | None = None,
    metrics: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Replay:
    """Repeat saved maps.

    Args:
        what: a ``manifest.json``, or a folder that holds some: of ``onnxvis explain``, or a report.
        sample: how many maps of a folder, drawn by the seed; ``None`` repeats all.
        model: the model where it lies now, or a copy to hold against the recorded one; else the recorded path.
        pictures: where the pictures lie now; they are found by their content.
        preprocessing: instead of the recorded one; that it differs is then said.
        labels: class names, where a target needs them and they do not lie beside the model.
        provider: execution provider; ``None`` takes the recorded one where it works here.
        gradients: "torch" or "onnx"; ``None`` takes what was asked for then.
        tolerance: largest distance of maps that agree, as a part of the map's size; ``None`` takes :data:`TOLERANCE`
            or :data:`GRADIENT_TOLERANCE`. Batches, threads and versions change the last bits of float32.
        metrics: measure the metrics of the maps again as well, where a report records some.
        seed: of the sample.
        progress: called with (stage, done, total).

    Returns:
        What was found; after an interruption (Ctrl-C) for the maps that were finished.

    Raises:
        UsageError: there is no manifest, or the tolerance, the sample or the seed is out of range.
        ModelError: the model cannot be read (a missing one is a result, not an error).
    """
    report = progress or silent
    if tolerance is not None and not tolerance >= 0:
        raise UsageError(f"the tolerance is a part of the map's size from 0, not {tolerance!r}.")
    if seed < 0 or (sample is not None and sample < 1):
        raise UsageError(f"a sample has at least 1 map and a seed from 0, not {sample} and {seed}.")
    paths, audit = _manifests(Path(what))
    chosen = paths
    if sample is not None and sample < len(paths):
        rows = np.sort(np.random.default_rng(seed).choice(len(paths), sample, replace=False))
        chosen = [paths[i] for i in rows]
    setups = Setups(audit, model, preprocessing, labels, provider, gradients)
    asked = _Asked(audit, setups, Path(pictures) if pictures is not None else None, tolerance, metrics)
    results: list[Replayed] = []
    try:
        for number, path in enumerate(chosen):
            report("maps", number, len(chosen))
            results.append(_one(path, asked))
        report("maps", len(chosen), len(chosen))
        stated = () if audit is None else compare_report(_folder(Path(what)), audit)
    except KeyboardInterrupt:
        return Replay(tuple(results), len(paths), interrupted=True)
    return Replay(tuple(results), len(paths), tuple(stated))


@dataclass(frozen=True, eq=False)
class _Asked:
    """What every manifest is held against, and how."""

    audit: Mapping[str, Any] | None
    setups: Setups
    root: Path | None
    tolerance: float | None
    metrics: bool


def _manifests(what: Path) -> tuple[list[Path], dict[str, Any] | None]:
    """The manifests, and the data of the report they belong to, if any."""
    if what.is_file():
        if what.name == "audit.json" or what.suffix == ".html":
            return _manifests(what.parent)
        return [what], None
    audit_file = what / "audit.json"
    if audit_file.is_file():
        audit = _read(audit_file)
        try:
            folders = [str(m["folder"]) for entry in audit["entries"] for m in entry["maps"]]
        except (KeyError, TypeError, AttributeError):
            raise UsageError(f"{audit_file} is not the data of an audit of onnxvis.") from None
        outside = next((name for name in folders if not _inside(name)), None)
        if outside is not None:
            raise UsageError(f"{audit_file} names a map outside of its folder ({outside[:80]!r}): it was changed.")
        paths = [what / name / "manifest.json" for name in folders]
    else:
        audit, paths = None, sorted(what.rglob("manifest.json"))
    if not paths:
        raise UsageError(f"{what} holds no manifest.json. Name one, or a folder of 'onnxvis explain' or 'audit'.")
    return paths, audit


def _folder(what: Path) -> Path:
    """The folder of a report that is named by one of its files."""
    return what.parent if what.is_file() else what


def _inside(name: str) -> bool:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return bool(parts) and parts[0] == "maps" and ".." not in parts


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read ({error}).") from None


def _one(path: Path, asked: _Asked) -> Replayed:
    try:
        manifest = _read(path)
        title = _title(manifest)
    except (UsageError, *_DAMAGED) as error:
        text = str(error) if isinstance(error, UsageError) else f"not a manifest of onnxvis (no {error})"
        return Replayed(str(path), path.parent.name, UNREPEATABLE, (Difference("manifest", text),))
    try:
        return _repeat(path, manifest, title, asked)
    except OnnxvisError as error:
        return Replayed(str(path), title, UNREPEATABLE, (Difference("run", str(error)),))
    except _DAMAGED as error:
        text = f"the manifest is damaged or of another version ({type(error).__name__}: {error})"
        return Replayed(str(path), title, UNREPEATABLE, (Difference("manifest", text),))


def _title(manifest: Mapping[str, Any]) -> str:
    picture = manifest["picture"]["name"] if manifest["picture"] else "an array"
    return f"{manifest['method']} of {manifest['target']['name']} on {picture}"


def _repeat(path: Path, manifest: Mapping[str, Any], title: str, asked: _Asked) -> Replayed:
    audit, setup = asked.audit, asked.setups.of(manifest)
    picture = find_picture(manifest, asked.root)
    differences = [*compare_model(manifest, setup.model, setup.weights), *setup.differences]
    differences += compare_preprocessing(manifest, setup.model, audit, given=setup.given)
    if picture.changed:
        differences.append(Difference("picture", picture.changed))
    explanation = _explained(manifest, setup, picture)
    same_inputs = not any(d.serious for d in differences)
    differences += compare_answers(manifest, explanation, same_inputs)
    usual = GRADIENT_TOLERANCE if get_method(manifest["method"]).needs_gradient else TOLERANCE
    bound = usual if asked.tolerance is None else asked.tolerance
    if same_inputs:
        differences += compare_statements(manifest, explanation, bool(len(setup.model.labels)))
        if asked.metrics and audit is not None:
            differences += compare_metrics(path, audit, setup.model, explanation)
    found = compare_map(path, manifest, audit, explanation.attribution, bound)
    differences += [*found.differences, *compare_versions(manifest)]
    differences.sort(key=lambda d: not d.serious)
    serious = any(d.serious for d in differences)
    outcome = DISAGREES if serious else IDENTICAL if found.identical else AGREES
    return Replayed(str(path), title, outcome, tuple(differences), found.distance, found.largest, found.correlation)


def _explained(manifest: Mapping[str, Any], setup: Setup, picture: Found) -> Any:
    model, parameters = setup.model, manifest["parameters"]
    method = get_method(manifest["method"])
    layer = manifest["layer"]["tensor"] if manifest["layer"] else None
    chosen = request(model, method.name, _options(method, parameters), layer if method.uses_layer else None)
    settings = Settings(setup.batch_size, bool(parameters.get("float64")), int(parameters.get("seed") or 0), True)
    prepared = model.prepare(picture.path)
    return explain_prepared(model, [prepared], [chosen], [(_target(manifest["target"]),)], settings)[0][0][0]


def _target(target: Mapping[str, Any]) -> str | int:
    """A class by its index, whatever word stood for it then ("top1", a label); else what was asked for."""
    spec, index = str(target["spec"]), target["index"]
    if spec.startswith("callable "):
        raise UsageError("the target was a function of a program; only that program can repeat it.")
    plain = index is not None and "@" not in str(target["name"]) and not _is_contrast(target)
    return int(index) if plain else spec


def _is_contrast(target: Mapping[str, Any]) -> bool:
    return " - " in str(target["spec"]) and " - " in str(target["name"])


def _options(method: Any, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The method's own options out of everything that was set or found."""
    from dataclasses import fields

    names = [f.name for f in fields(method.options) if f.name != "checkpoint" and parameters.get(f.name) is not None]
    if "baseline" in names and parameters["baseline"] == "array":
        raise UsageError("the baseline was an array given in Python, which a manifest does not hold.")
    return {name: _restored(parameters[name]) for name in names}


def _restored(value: Any) -> Any:
    return tuple(_restored(v) for v in value) if isinstance(value, Sequence) and not isinstance(value, str) else value
