"""Running several images at once on a graph that may have been exported for one.

Whatever the file says, a batch is believed only after it has given the same answers as the images one
by one: a graph with a baked Reshape can run on a batch without an error and return garbage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxvis.errors import OnnxvisError
from onnxvis.graph.batch import fixed_batch, free_batch
from onnxvis.graph.batch_edits import Edit
from onnxvis.runtime.baked import GROWTH
from onnxvis.runtime.rebatch import find_edits
from onnxvis.runtime.session import Sessions

__all__ = ["TOLERANCES", "BatchPlan", "Planner", "compare", "sample_images"]

Outputs = Mapping[str, np.ndarray]
TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "int8": 2e-2}
"""Largest difference of a batch from its images one by one, relative to the largest value of an output.

Kernels round in another order for another batch. In float32 that is about 1e-6; in float16 a few of its
steps of 1e-3; in a quantized file a value at the edge of a step may fall to the other side, which moves an
output by a few steps of 1/255.
"""

_IMAGES = 3
_DYNAMIC = ("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM")
_WORDS = {
    "free": "the file leaves the batch free",
    "freed": "the file fixes the batch at {fixed}; made free by editing the input",
    "repaired": "{before}; made free by rewriting {count} ({places})",
}


@dataclass(frozen=True)
class BatchPlan:
    """How batches run.

    Attributes:
        kind: ``free`` (the file allows them), ``freed`` (made free by editing the input), ``repaired`` (made
            free by rewriting constants that hold the batch size), or ``looped``.
        reason: one sentence for people.
        fixed: the batch size that the file fixes, 0 if none.
        edits: what was rewritten, where the kind is ``repaired``.
    """

    kind: str
    reason: str
    fixed: int
    edits: tuple[Edit, ...] = ()


@dataclass(frozen=True, eq=False)
class Planner:
    """Finds out how batches run on a graph: each way is tried, from the cheapest, until one is right.

    Attributes:
        plain: sessions of the deployed graph as it is.
        image_input: the input that takes images.
        precision: "float32", "float16" or "int8"; sets the tolerance.
        constants: values of the other inputs.
        canonical: the canonical form, asked for only when constants have to be rewritten.
        run: runs images at once in some sessions.
        singly: runs images one by one on the graph as it is.
    """

    plain: Sessions
    image_input: str
    precision: str
    constants: Mapping[str, np.ndarray]
    canonical: Callable[[], onnx.ModelProto]
    run: Callable[[Sessions, np.ndarray], Outputs]
    singly: Callable[[np.ndarray], Outputs]

    def plan(self, sample: np.ndarray) -> tuple[BatchPlan, Sessions]:
        """How batches run, and the sessions that run them.

        Args:
            sample: one image ``(1, ...)``; noisy and shifted copies of it are tried with it.
        """
        fixed = fixed_batch(self.plain.model, self.image_input)
        word = _WORDS["freed" if fixed else "free"].format(fixed=fixed)
        dynamic = next((n for n in self.plain.model.graph.node if n.op_type in _DYNAMIC), None)
        if dynamic is not None:
            return self._looped(
                fixed,
                f"{word}, but {dynamic.op_type} {dynamic.name or dynamic.output[0]!r} takes its scale from the whole "
                "batch, so an image's answer would depend on its neighbors",
            )
        images = sample_images(sample, _IMAGES)
        alone = self.singly(images)
        sessions = self._freed(()) if fixed else self.plain
        failure = self._failure(sessions, images, alone)
        if failure is None:
            return BatchPlan("freed" if fixed else "free", word, fixed), sessions
        before = f"the file fixes the batch at {fixed}" if fixed else f"{word}, but {failure}"
        try:
            edits = self.edits(sample)
            sessions = self._freed(edits)
        except OnnxvisError as error:
            return self._looped(fixed, f"{before}, and that cannot be rewritten: {error}")
        if not edits:
            return self._looped(fixed, f"{word}, but {failure}, and no baked constant explains it")
        repaired = _WORDS["repaired"].format(before=before, count=_plural(len(edits)), places=_places(edits))
        failure = self._failure(sessions, images, alone)
        if failure is not None:
            return self._looped(fixed, f"{repaired}, but {failure}")
        return BatchPlan("repaired", repaired, fixed, edits), sessions

    def edits(self, sample: np.ndarray) -> tuple[Edit, ...]:
        """What to rewrite in the canonical graph, and in the deployed one.

        Raises:
            ModelError: the graph cannot run batches; the node that stands in the way is named.
        """
        graph = self.canonical()
        images = sample_images(sample, GROWTH * max(1, fixed_batch(graph, self.image_input)))
        return find_edits(graph, self.image_input, images, self.constants)

    def _freed(self, edits: Sequence[Edit]) -> Sessions:
        plain = self.plain
        return Sessions(free_batch(plain.model, self.image_input, edits), plain.provider, plain.data_folder)

    def _failure(self, sessions: Sessions, images: np.ndarray, alone: Outputs) -> str | None:
        for count in (len(images), len(images) - 1):  # a baked batch fits one of the two at most
            try:
                together = self.run(sessions, images[:count])
            except OnnxvisError as error:
                return f"a batch of {count} fails ({str(error)[:160]})"
            expected = {name: array[: len(array) // len(images) * count] for name, array in alone.items()}
            failure = compare(together, expected, count, TOLERANCES[self.precision])
            if failure is not None:
                return failure
        return None

    def _looped(self, fixed: int, reason: str) -> tuple[BatchPlan, Sessions]:
        return BatchPlan("looped", f"{reason}: images run one by one", fixed), self.plain


def sample_images(sample: np.ndarray, count: int) -> np.ndarray:
    """``count`` different images ``(count, ...)``: the sample and noisy, shifted copies, in its own dtype."""
    rng = np.random.default_rng(0)
    images = [sample]
    spread = float(np.std(sample.astype(np.float64))) or 1.0
    for shift in range(1, count):
        noise = rng.normal(0.0, 0.5 * spread, sample.shape)
        moved = np.roll(sample, shift * 3, axis=-1).astype(np.float64) + noise
        if sample.dtype.kind in "ui":
            info = np.iinfo(sample.dtype)
            moved = np.clip(np.rint(moved), info.min, info.max)
        images.append(moved.astype(sample.dtype))
    return np.concatenate(images)


def compare(together: Outputs, alone: Outputs, count: int, tolerance: float) -> str | None:
    """Whether a batch gave what its images gave one by one.

    Args:
        together: what the batch gave, by output.
        alone: what the images gave one by one, joined.
        count: number of images.
        tolerance: largest difference relative to an output's largest value. Whole numbers (classes, indices)
            are not compared, since a tie may fall either way.

    Returns:
        ``None`` when they agree, else what happened.
    """
    for name, expected in alone.items():
        found = together[name]
        if found.shape != expected.shape:
            return f"a batch of {count} makes {list(found.shape)} of output {name!r} instead of {list(expected.shape)}"
        if expected.dtype.kind == "f":
            error = _difference(found, expected)
            if not error <= tolerance:
                return (
                    f"a batch of {count} answers differently from its images one by one (output {name!r}, relative "
                    f"error {error:.1e})"
                )
    return None


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    a, b = found.astype(np.float64), expected.astype(np.float64)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    scale = max(float(np.abs(b[np.isfinite(b)]).max(initial=0.0)), 1e-12)
    return float(np.abs(a - b)[np.isfinite(b)].max(initial=0.0)) / scale


def _plural(count: int) -> str:
    return "the constant that holds it" if count == 1 else f"the {count} constants that hold it"


def _places(edits: Sequence[Edit]) -> str:
    return ", ".join(f"{n} {op_type}" for op_type, n in sorted(Counter(edit.op_type for edit in edits).items()))
