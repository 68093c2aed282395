"""Segmenters that a user brings: a segmentation network as an ONNX file, or a Python function."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxvis.behaviour.gan.concepts import BUILT_IN, ColorSegmenter, Segmenter, built_in, color_clusters
from onnxvis.behaviour.gan.generator import Generator
from onnxvis.errors import ModelError, UsageError, did_you_mean
from onnxvis.kernels.upsample import upsample_bilinear

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["CallableSegmenter", "OnnxSegmenter", "chosen_segmenter", "load_callable"]

_MOST = 512
_FITTED_ON = 64
_FAR = 1 << 40
"""Samples from here on only serve to find color clusters, so that they are no others' test."""


class OnnxSegmenter:
    """A segmentation network: dense logits, one class for each pixel.

    Attributes:
        model: opened with :func:`onnxvis.load`, with its preprocessing.
        concepts: the classes, or those asked for.
    """

    def __init__(self, model: Model, concepts: Sequence[str] = ()) -> None:
        if model.logits.kind != "dense":
            raise ModelError(
                f"{model.name!r} is no segmentation network: its output {model.logits.tensor!r} is a "
                f"{model.logits.kind}'s. A segmenter answers with one map for each class."
            )
        self.model = model
        self._axis = model.logits.class_axis
        count = model.shapes[model.logits.tensor][self._axis]
        names = [model.labels.name(i) for i in range(count)] if count > 1 else [model.labels.name(0)]
        unknown = [name for name in concepts if name not in names]
        if unknown:
            raise UsageError(f"the segmenter has no class {unknown[0]!r}.{did_you_mean(unknown[0], names)}")
        self._classes = [names.index(name) for name in concepts] or list(range(count))
        self._count = count
        self.concepts = tuple(names[i] for i in self._classes)

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """Masks ``(N, K, H, W) bool``: the largest logit at each pixel, or above 0 where there is one map only."""
        prepared = [self.model.prepare(picture) for picture in pictures]
        x = np.concatenate([p.tensor for p in prepared])
        tensor = self.model.logits.tensor
        logits = np.moveaxis(self.model.engine.forward(x, (tensor,))[tensor], self._axis, 1)
        masks = []
        for one, form in zip(logits.astype(np.float32), prepared, strict=True):
            grid = upsample_bilinear(one, form.geometry.input_size[::-1])
            on_picture = np.stack([form.geometry.map_to_picture(m, fill=-np.inf) for m in grid])
            best = on_picture.argmax(axis=0)
            seen = np.isfinite(on_picture).all(axis=0)
            layers = [(best == c) & seen if self._count > 1 else on_picture[0] > 0 for c in self._classes]
            masks.append(np.stack(layers))
        return np.stack(masks)

    def describe(self) -> dict[str, Any]:
        """The file, and its classes."""
        return {
            "segmenter": f"ONNX file {self.model.name!r}, SHA-256 {self.model.sha256}",
            "concepts": dict.fromkeys(self.concepts, "a class of the segmenter"),
        }


class CallableSegmenter:
    """A Python function from pictures ``(N, H, W, 3) uint8`` to masks.

    It returns a mapping of names to ``(N, H, W) bool``; or ``(N, H, W)`` whole numbers, and then has an attribute
    ``concepts`` with a name for each number from 0.

    Attributes:
        concepts: their names.
    """

    def __init__(
        self, function: Callable[[np.ndarray], Any], probe: np.ndarray, name: str = "", concepts: Sequence[str] = ()
    ) -> None:
        """Try the function on some pictures, which tells the concepts.

        Args:
            function: the segmenter.
            probe: pictures to try it on.
            name: what to call it.
            concepts: which of its concepts to take; all without names.

        Raises:
            UsageError: what it returns is none of the above.
        """
        self.function = function
        self.name = name or getattr(function, "__name__", type(function).__name__)
        self._named = tuple(str(c) for c in getattr(function, "concepts", ()))
        found = self._call(probe)
        unknown = [c for c in concepts if c not in found]
        if unknown:
            raise UsageError(f"segmenter {self.name!r} has no concept {unknown[0]!r}.{did_you_mean(unknown[0], found)}")
        self.concepts = tuple(concepts) or tuple(found)

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """Masks ``(N, K, H, W) bool``."""
        found = self._call(pictures)
        missing = [c for c in self.concepts if c not in found]
        if missing:
            raise UsageError(f"segmenter {self.name!r} did not return {missing[0]!r} this time; every call must.")
        return np.stack([found[c] for c in self.concepts], axis=1)

    def _call(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        try:
            answer = self.function(pictures)
        except Exception as error:  # whatever the user's function raises is theirs to see
            raise UsageError(f"segmenter {self.name!r} failed: {type(error).__name__}: {error}.") from error
        shape = pictures.shape[:3]
        if isinstance(answer, Mapping):
            found = {str(name): np.asarray(mask) for name, mask in answer.items()}
            wrong = [name for name, mask in found.items() if mask.shape != shape or mask.dtype != np.bool_]
            if wrong or not found:
                what = f"{wrong[0]!r} is {found[wrong[0]].dtype} {found[wrong[0]].shape}" if wrong else "nothing came"
                raise UsageError(f"segmenter {self.name!r} must return bool masks of shape {shape}; {what}.")
            return found
        labels = np.asarray(answer)
        if labels.shape != shape or labels.dtype.kind not in "iu" or not self._named:
            raise UsageError(
                f"segmenter {self.name!r} must return a mapping of names to bool masks {shape}, or whole numbers of "
                f"that shape with names in its attribute 'concepts'; got {labels.dtype} {labels.shape}."
            )
        return {name: labels == number for number, name in enumerate(self._named)}

    def describe(self) -> dict[str, Any]:
        """The function's name, and its concepts."""
        return {
            "segmenter": f"Python function {self.name}",
            "concepts": dict.fromkeys(self.concepts, "as the function marks it"),
        }


def load_callable(text: str) -> Callable[[np.ndarray], Any]:
    """The function that ``module:function`` names; modules in the current folder are found too.

    Raises:
        UsageError: the module cannot be imported, or has no such function.
    """
    module_name, _, function_name = text.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises is theirs to see
        raise UsageError(f"--segmenter {text}: module {module_name!r} cannot be imported ({error}).") from error
    finally:
        sys.path.remove(here)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UsageError(f"--segmenter {text}: module {module_name!r} has no function {function_name!r}.")
    found: Callable[[np.ndarray], Any] = function
    return found


def chosen_segmenter(
    generator: Generator,
    segmenter: str | Callable[[np.ndarray], Any] | Segmenter | None = None,
    concepts: Sequence[str] = (),
    *,
    clusters: int = 0,
    preprocessing: str | None = None,
    labels: str | None = None,
    seed: int = 0,
) -> Segmenter:
    """The segmenter that a user means.

    Args:
        generator: whose pictures are marked.
        segmenter: an ONNX file, ``module:function``, a function, a segmenter; ``None`` takes the built-in masks.
        concepts: which concepts; all without names.
        clusters: for built-in masks: add so many clusters of colors, found on pictures of their own.
        preprocessing: of an ONNX file.
        labels: of an ONNX file.
        seed: of the clusters.

    Raises:
        UsageError: it is none of these, or has no such concept.
    """
    if segmenter is None:
        return _colors(generator, concepts, clusters, seed)
    if clusters:
        raise UsageError("color clusters belong to the built-in masks; leave the segmenter out.")
    if isinstance(segmenter, str) and (":" not in segmenter or Path(segmenter).exists()):
        from onnxvis.model import load

        return OnnxSegmenter(load(segmenter, preprocessing=preprocessing, labels=labels), concepts)
    if not isinstance(segmenter, str) and hasattr(segmenter, "describe"):
        ready: Any = segmenter
        return ready  # type: ignore[no-any-return]
    function = load_callable(segmenter) if isinstance(segmenter, str) else segmenter
    probe = generator.sample([0, 1], seed).pictures
    return CallableSegmenter(function, probe, segmenter if isinstance(segmenter, str) else "", concepts)


def _colors(generator: Generator, concepts: Sequence[str], clusters: int, seed: int) -> ColorSegmenter:
    found = built_in([c for c in concepts if not c.startswith("color-#")]) if concepts or not clusters else built_in()
    parts = found.parts if not concepts or any(c in BUILT_IN for c in concepts) else ()
    origin = found.origin
    if clusters:
        ids = range(_FAR, _FAR + _FITTED_ON)
        pictures = np.concatenate([s.pictures for s in generator.stream(ids, seed)])
        fitted = color_clusters(pictures, clusters, seed)
        wanted = [c for c in concepts if c.startswith("color-#")]
        parts += tuple(c for c in fitted if not wanted or c.name in wanted)
        origin += f"; {clusters} clusters of colors by k-means on {_FITTED_ON} other samples"
    if not parts:
        raise UsageError("no concept is left: name some with concepts=... (--concepts), or leave it out for all.")
    if len(parts) > _MOST:
        raise UsageError(f"at most {_MOST} concepts at once.")
    return ColorSegmenter(parts, origin)
