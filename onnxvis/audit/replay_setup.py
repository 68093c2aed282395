"""What a replay needs: the model as it was set up then, and the picture wherever it lies now."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxvis.audit.replay_compare import Difference
from onnxvis.audit.report_model import weight_digests
from onnxvis.errors import ModelError, OnnxvisError, PictureError, UsageError
from onnxvis.locations import is_container, is_location, location_name, read_location
from onnxvis.picture import MAX_FILE_BYTES
from onnxvis.preprocessing import Preprocessing

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["Found", "Setup", "Setups", "find_picture"]

_BATCH = 8


@dataclass(frozen=True, eq=False)
class Setup:
    """A model ready to repeat with.

    Attributes:
        model: set up as recorded.
        weights: fingerprints of the recorded model's weights, where they are known.
        given: whether the preprocessing was given now and not taken from the record.
        batch_size: of the recorded run, where it is known.
        differences: what could not be set up as recorded.
    """

    model: Model
    weights: Mapping[str, Mapping[str, Any]] | None
    given: bool
    batch_size: int
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Found:
    """A picture file, and what is wrong with it."""

    path: str
    changed: str = ""


class Setups:
    """Models by what manifests record of them; each is opened once.

    Args:
        audit: the data of the report, if the manifests belong to one.
        model: path that replaces the recorded one.
        preprocessing: replaces the recorded one.
        labels: class names.
        provider: replaces the recorded one.
        gradients: replaces the recorded choice.
    """

    def __init__(
        self,
        audit: Mapping[str, Any] | None,
        model: str | Path | None,
        preprocessing: str | None,
        labels: str | None,
        provider: str | None,
        gradients: str | None,
    ) -> None:
        self._audit = audit
        self._model = model
        self._preprocessing = preprocessing
        self._labels = labels
        self._provider = provider
        self._gradients = gradients
        self._kept: dict[str, Setup] = {}

    def of(self, manifest: Mapping[str, Any]) -> Setup:
        """The model of a manifest.

        Raises:
            OnnxvisError: it is missing or cannot be set up so.
        """
        recorded = manifest["provenance"]["model"]
        names = ("path", "sha256", "provider", "gradients")
        asked = manifest["explained"], manifest["provenance"].get("explained")
        key = json.dumps([[recorded.get(n) for n in names], manifest["preprocessing"], asked])
        if key not in self._kept:
            self._kept[key] = self._open(manifest, recorded)
        return self._kept[key]

    def _open(self, manifest: Mapping[str, Any], recorded: Mapping[str, Any]) -> Setup:
        from onnxvis.model import load

        if manifest["picture"] is None or manifest["picture"]["path"] is None:
            raise UsageError(
                "it explains an array or a picture of a program, not a file; only that program can repeat it."
            )
        path = self._path(recorded)
        spec = manifest["preprocessing"]
        if self._preprocessing is None and spec is None:
            raise UsageError("the manifest records no preprocessing: the input was a ready array.")
        chosen: Any = self._preprocessing or Preprocessing.from_dict(_plain_spec(spec), spec.get("source"))
        provider, differences = self._usable_provider(recorded)
        options: dict[str, Any] = {
            "labels": self._labels,
            "provider": provider,
            "gradients": self._gradients or recorded.get("gradients") or "auto",
            "inputs": _other_inputs(manifest["provenance"].get("explained") or {}),
        }
        model = load(path, preprocessing=chosen, **options)
        model, other = _same_output(
            model, manifest, lambda name: load(path, preprocessing=chosen, output=name, **options)
        )
        batch = self._audit["settings"]["batch_size"] if self._audit is not None else _BATCH
        given = self._preprocessing is not None
        return Setup(model, self._weights(recorded, model), given, int(batch), (*differences, *other))

    def _path(self, recorded: Mapping[str, Any]) -> Path:
        if self._model is not None:
            return Path(self._model)
        path = Path(recorded["path"]) if recorded["path"] else None
        if path is None or not path.is_file():
            raise ModelError(f"the model {path or '(in memory)'} is not there any more: say where it is with --model.")
        return path

    def _usable_provider(self, recorded: Mapping[str, Any]) -> tuple[str | None, list[Difference]]:
        if self._provider is not None:
            return self._provider, []
        from onnxvis.runtime.providers import choose_provider

        name = str(recorded["provider"])
        try:
            choose_provider(name)
        except OnnxvisError:
            return None, [Difference("versions", f"{name} is not usable here; another provider ran", serious=False)]
        return name, []

    def _weights(self, recorded: Mapping[str, Any], model: Model) -> Mapping[str, Mapping[str, Any]] | None:
        """Fingerprints of the recorded weights: from the report, or from the recorded file where it still lies."""
        if model.sha256 == recorded["sha256"]:
            return None
        if self._audit is not None:
            weights: Mapping[str, Mapping[str, Any]] = self._audit["model"]["weights"]
            return weights
        path = Path(recorded["path"] or "")
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != recorded["sha256"]:
            return None
        from onnxvis.model import load

        return weight_digests(load(path, preprocessing="none"))


def _plain_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in spec.items() if k not in ("source", "summary")}


def _other_inputs(explained: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What the model's other inputs were given."""
    found = {}
    for name, one in (explained.get("inputs") or {}).items():
        if "values" not in one:
            raise UsageError(
                f"the model's input {name!r} was given an array of {one['shape']}, which a manifest does not hold; "
                "only the program that gave it can repeat it."
            )
        found[name] = np.asarray(one["values"], np.dtype(one["type"])).reshape(one["shape"])
    return found


def _same_output(model: Model, manifest: Mapping[str, Any], other: Any) -> tuple[Model, list[Difference]]:
    """The model with the output that was explained, and what to say where it has none.

    Manifests that do not name the tensor are of an earlier version: there the output is the one whose reason reads as
    recorded.
    """
    recorded = manifest["provenance"].get("explained")
    if recorded is not None:
        return _recorded_output(model, str(recorded["tensor"]), str(recorded["output"]), other)
    if model.logits.reason == manifest["explained"] or len(model.outputs) == 1:
        return model, []
    for spec in model.outputs:
        candidate: Model = other(spec.name)
        if candidate.logits.reason == manifest["explained"]:
            return candidate, []
    text = "no output of the model is explained for the recorded reason, so the one that is chosen now was explained"
    return model, [Difference("output", text)]


def _recorded_output(model: Model, tensor: str, output: str, other: Any) -> tuple[Model, list[Difference]]:
    if model.logits.tensor == tensor:
        return model, []
    names = [spec.name for spec in model.outputs]
    if output in names and model.logits.output != output:
        model = other(output)
    if model.logits.tensor == tensor:
        return model, []
    lost = "" if output in names else f", and it has no output {output!r}"
    return model, [Difference("output", f"{tensor!r} was explained then, {model.logits.tensor!r} is now{lost}")]


def find_picture(manifest: Mapping[str, Any], root: Path | None) -> Found:
    """The picture where it was, else under ``root`` by its name and content, else by its content alone.

    Raises:
        PictureError: it is nowhere.
    """
    recorded = manifest["picture"]
    place = str(recorded["path"])
    if root is not None:
        if not root.is_dir() and not is_container(str(root)):
            raise PictureError(
                f"{root} is not a folder: --pictures names the folder or archive that the pictures lie in now."
            )
        by_digest = _digests(str(root))
        if recorded["sha256"] in by_digest:
            return Found(by_digest[recorded["sha256"]])
        named = [p for p in by_digest.values() if location_name(p) == recorded["name"]]
        if not named:
            raise PictureError(f"no picture under {root} has the content or the name of {recorded['name']!r}.")
        return Found(named[0], _changed(named[0], recorded))
    if not is_location(place) and not Path(place).is_file():
        raise PictureError(f"the picture {place} is not there any more: say where it is with --pictures FOLDER.")
    same = _digest(place) == recorded["sha256"]
    return Found(place, "" if same else _changed(place, recorded))


def _changed(path: str, recorded: Mapping[str, Any]) -> str:
    digest = _digest(path)
    return f"{path} is not the recorded picture: SHA-256 {digest[:12]}..., recorded {recorded['sha256'][:12]}..."


@functools.lru_cache(maxsize=4)
def _digests(root: str) -> dict[str, str]:
    """Path of each picture below a folder, by the fingerprint of its bytes."""
    from onnxvis.picture_files import picture_files

    return {_digest(path): path for path in picture_files([root])}


def _digest(path: str) -> str:
    try:
        data = read_location(path, MAX_FILE_BYTES) if is_location(path) else Path(path).read_bytes()
        return hashlib.sha256(data).hexdigest()
    except OSError as error:
        raise PictureError(f"{path} cannot be read ({error.strerror or error}).") from error
