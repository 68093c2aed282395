"""Dissecting a layer of a generator: which unit draws what.

Bau et al., "GAN Dissection: Visualizing and Understanding Generative Adversarial Networks", ICLR 2019, section 3.1.
Three passes over samples, none of which keeps a picture: quantiles of every unit; counts at every quantile, which
choose a threshold for each unit and concept; and the agreement there on held-out samples, beside that of shuffled ones.
"""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxvis.behaviour.gan.concepts import Segmenter
from onnxvis.behaviour.gan.dissection import Dissection
from onnxvis.behaviour.gan.generator import Generator
from onnxvis.behaviour.gan.information import LEVELS, JointCounts, QuantileEdges
from onnxvis.behaviour.gan.layers import GeneratorLayer
from onnxvis.errors import OutputError, UsageError
from onnxvis.files import write_atomic
from onnxvis.kernels.topk import TopK
from onnxvis.methods.checkpoint import fingerprint
from onnxvis.progress import Progress, silent

__all__ = ["conditional_means", "dissect"]

_FOR_EDGES = 256
_SECONDS = 15.0
_LARGEST_SIDE = 128
_PARTS = 4  # intersection and union, with the sample's own masks and with another's


@dataclass(eq=False)
class _Progressing:
    """Everything that grows: counts of whole pixels and sums, so that a run can stop and go on."""

    counts: JointCounts
    sums: np.ndarray
    products: np.ndarray
    weighted: np.ndarray
    weights: np.ndarray
    total: np.ndarray
    places: np.ndarray
    marked: np.ndarray
    top: TopK
    done: np.ndarray = field(default_factory=lambda: np.zeros(2, np.int64))
    previous: np.ndarray = field(default_factory=lambda: np.zeros((0,), bool))
    changed: np.ndarray = field(default_factory=lambda: np.zeros((0,), bool))

    @classmethod
    def start(cls, edges: np.ndarray, concepts: int, top: int) -> _Progressing:
        units = len(edges)
        return cls(
            JointCounts(edges, concepts),
            np.zeros((_PARTS, units, concepts)),
            np.zeros((_PARTS, _PARTS, units, concepts)),
            np.zeros((units, concepts)),
            np.zeros(concepts),
            np.zeros(units),
            np.zeros(1),
            np.zeros(concepts, np.int64),
            TopK(units, top),
            changed=np.zeros(concepts, bool),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it by name; the arrays are the live ones."""
        own = ("sums", "products", "weighted", "weights", "total", "places", "marked", "done", "previous", "changed")
        found = {name: getattr(self, name) for name in own}
        found |= {f"counts_{n}": getattr(self.counts, n) for n in ("both", "above", "marked")}
        found["counts_pixels"] = np.array(self.counts.pixels)
        return found | {f"top_{n}": getattr(self.top, n) for n in ("values", "images", "places")}

    def restore(self, stored: Any) -> None:
        for name in self.arrays():
            owner: Any = self
            part, _, rest = name.partition("_")
            if part in ("counts", "top"):
                owner, name_there = getattr(self, part), rest
            else:
                name_there = name
            value = stored[name]
            setattr(owner, name_there, int(value) if name == "counts_pixels" else value)


class _Store:
    """The unfinished run on disk; without a folder it does nothing."""

    def __init__(self, folder: str | Path | None, key: str) -> None:
        self.path = None if folder is None else Path(folder) / f".dissection-{key[:16]}.npz"
        self._saved = time.monotonic()

    def load(self, state: _Progressing) -> None:
        if self.path is None or not self.path.exists():
            return
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in state.arrays()}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            self.path.unlink(missing_ok=True)  # damaged: nothing of it can be used, and the run starts over
            return
        state.restore(arrays)

    def save(self, state: _Progressing, now: bool = False) -> None:
        if self.path is None or not (now or time.monotonic() - self._saved > _SECONDS):
            return
        self._saved = time.monotonic()
        buffer = io.BytesIO()
        np.savez(buffer, **state.arrays())  # type: ignore[arg-type]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, buffer.getvalue())
        except OSError as error:
            raise OutputError(f"cannot write to {self.path.parent}: {error.strerror or error}.") from error

    def remove(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def dissect(
    generator: Generator,
    segmenter: Segmenter,
    layer: str | None = None,
    *,
    samples: int = 1000,
    seed: int = 0,
    top: int = 12,
    folder: str | Path | None = None,
    progress: Progress = silent,
) -> Dissection:
    """Find which unit of a layer agrees with which concept.

    Memory holds one batch of pictures, and counts whose size depends on units and concepts only.

    Args:
        generator: whose layer.
        segmenter: marks the concepts.
        layer: its tensor; chosen by structure when left out.
        samples: how many; the first half chooses thresholds, the second half is the test.
        seed: of the samples.
        top: for the gallery: how many strongest samples to remember for each unit.
        folder: where an interrupted run leaves what it has, and finds it again.
        progress: told of every batch.

    Raises:
        UsageError: fewer than 8 samples.
        LayerError: there is no such layer.
    """
    if samples < 8:
        raise UsageError(f"a dissection needs at least 8 samples, not {samples!r}; hundreds tell something.")
    chosen = generator.layer(layer)
    first, second = range(samples // 2), range(samples // 2, samples)
    edges = _edges(generator, chosen, first, seed, progress)
    state = _Progressing.start(edges, len(segmenter.concepts), min(top, len(second)))
    key = fingerprint(
        [generator.describe()["sha256"], str(generator.sources), generator.truncation, chosen.tensor, samples, seed,
         top, segmenter.describe(), edges]
    )  # fmt: skip
    store = _Store(folder, key)
    store.load(state)
    try:
        _choose(generator, chosen, segmenter, first, seed, state, store, progress)
        levels, quality = state.counts.best_levels()
        _test(generator, chosen, segmenter, second, seed, state, store, levels, progress)
    except BaseException:
        store.save(state, now=True)
        raise
    facts = {
        "kind": "dissection",
        "generator": generator.describe(),
        "layer": {"tensor": chosen.tensor, "units": chosen.units, "size": list(chosen.size), "reason": chosen.reason},
        "segmenter": segmenter.describe(),
        "seed": seed,
        "samples": {"thresholds": [first.start, first.stop], "held_out": [second.start, second.stop]},
        "counted": "every pixel" if _every(generator.size) == 1 else f"one pixel of {_every(generator.size)} each way",
    }
    found = _result(chosen.tensor, segmenter.concepts, facts, edges, levels, quality, state, len(second))
    store.remove()
    return found


def _edges(generator: Generator, layer: GeneratorLayer, ids: range, seed: int, progress: Progress) -> np.ndarray:
    few = ids[: min(len(ids), _FOR_EDGES)]
    quantiles = QuantileEdges(layer.units, len(few))
    for number, activations, _ in _batches(generator, layer, None, few, seed):
        quantiles.add(activations)
        progress("quantiles", number, len(few))
    return quantiles.edges()


def _batches(
    generator: Generator, layer: GeneratorLayer, segmenter: Segmenter | None, ids: range, seed: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(samples done, activations ``(N, U, h, w)``, masks ``(N, K, H, W)``), batch by batch."""
    done = 0
    for batch in generator.stream(ids, seed, (layer.tensor,)):
        done += len(batch.ids)
        masks = _thinned(segmenter(batch.pictures)) if segmenter is not None else np.zeros((0,), bool)
        yield done, layer.units_first(batch.tensors[layer.tensor]), masks


def _every(size: tuple[int, int]) -> int:
    return -(-max(size) // _LARGEST_SIDE)


def _thinned(masks: np.ndarray) -> np.ndarray:
    """Masks of large pictures at every second, third, ... pixel, so that counting does not outlast generating."""
    every = _every((masks.shape[2], masks.shape[3]))
    return masks[:, :, every // 2 :: every, every // 2 :: every]


def _choose(
    generator: Generator, layer: GeneratorLayer, segmenter: Segmenter, ids: range, seed: int, state: _Progressing,
    store: _Store, progress: Progress,
) -> None:  # fmt: skip
    begun = int(state.done[0])
    for done, activations, masks in _batches(generator, layer, segmenter, ids[begun:], seed):
        state.counts.add(activations, masks)
        _add_means(state, activations, masks)
        state.done[0] = begun + done
        store.save(state)
        progress("thresholds", begun + done, len(ids))


def _add_means(state: _Progressing, activations: np.ndarray, masks: np.ndarray) -> None:
    weighted, weights = conditional_means(activations, masks)
    state.weighted += weighted
    state.weights += weights
    state.total += activations.sum(axis=(0, 2, 3), dtype=np.float64)
    state.places += activations.shape[0] * activations.shape[2] * activations.shape[3]


def conditional_means(activations: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums behind E[u | c]: each place of the layer counts by the part of its pixels that is marked.

    Args:
        activations: ``(N, U, h, w)``.
        masks: ``(N, K, H, W) bool``.

    Returns:
        The weighted sums of activations ``(U, K)`` and the weights ``(K,)``.
    """
    height, width = activations.shape[2:]
    cells = _cells(masks, height, width)
    weighted = np.einsum("nup,nkp->uk", activations.reshape(*activations.shape[:2], -1).astype(np.float64), cells)
    return weighted, cells.sum(axis=(0, 2))


def _cells(masks: np.ndarray, height: int, width: int) -> np.ndarray:
    """Part of each of ``height x width`` cells that is marked, ``(N, K, h w)``."""
    rows, cols = (_averaging(n, m) for n, m in zip(masks.shape[2:], (height, width), strict=True))
    cells = np.matmul(np.matmul(rows, masks.astype(np.float64)), cols.T)
    return np.asarray(cells.reshape(*masks.shape[:2], -1))


def _averaging(pixels: int, cells: int) -> np.ndarray:
    """``(cells, pixels)``: how much of each cell each pixel covers."""
    edges = np.arange(cells + 1) * (pixels / cells)
    low = np.maximum(edges[:-1, None], np.arange(pixels)[None])
    high = np.minimum(edges[1:, None], np.arange(pixels)[None] + 1)
    return np.asarray(np.maximum(high - low, 0) * (cells / pixels))


def _test(
    generator: Generator, layer: GeneratorLayer, segmenter: Segmenter, ids: range, seed: int, state: _Progressing,
    store: _Store, levels: np.ndarray, progress: Progress,
) -> None:  # fmt: skip
    begun = int(state.done[1])
    for done, activations, masks in _batches(generator, layer, segmenter, ids[begun:], seed):
        others = np.concatenate([state.previous[None] if state.previous.size else masks[-1:], masks[:-1]])
        for maps, own, other in zip(activations, masks, others, strict=True):
            _add_sample(state, maps, own, other, levels)
        state.changed |= (masks != others).any(axis=(0, 2, 3))
        state.previous = masks[-1]
        _add_means(state, activations, masks)
        state.top.add(activations, np.asarray(ids[begun + done - len(masks) : begun + done]))
        state.done[1] = begun + done
        store.save(state)
        progress("held-out", begun + done, len(ids))


def _add_sample(state: _Progressing, maps: np.ndarray, own: np.ndarray, other: np.ndarray, levels: np.ndarray) -> None:
    count = len(own)
    above, both = state.counts.count(maps, np.concatenate([own, other]))
    masked = np.take_along_axis(above, levels, axis=1)
    values = []
    for part, marks in ((both[:, :, :count], own), (both[:, :, count:], other)):
        inside = np.take_along_axis(part, levels[:, None], axis=1)[:, 0]
        values += [inside, masked + marks.reshape(count, -1).sum(axis=1) - inside]
    sample = np.stack(values).astype(np.float64)
    state.sums += sample
    state.products += sample[:, None] * sample[None]
    state.marked += own.reshape(count, -1).sum(axis=1)


def _result(
    tensor: str, concepts: tuple[str, ...], facts: dict[str, Any], edges: np.ndarray, levels: np.ndarray,
    quality: np.ndarray, state: _Progressing, held_out: int,
) -> Dissection:  # fmt: skip
    iou, error = _ratio(state, held_out, (0, 1))
    chance, _ = _ratio(state, held_out, (2, 3))
    margin_error = _error(state, held_out, _slopes(state, (0, 1)) - _slopes(state, (2, 3)))
    pixels = held_out * state.counts.pixels / max(int(state.done[0]), 1)
    area = state.marked / pixels
    both, either = state.sums[0], state.sums[1]
    mask_area = (either + both - state.marked) / pixels
    together = mask_area * area
    independent = np.divide(together, mask_area + area - together, out=np.zeros_like(iou), where=mask_area + area > 0)
    varies = state.changed
    with np.errstate(invalid="ignore", divide="ignore"):
        conditional = state.weighted / state.weights
    return Dissection(
        tensor, concepts, facts, np.take_along_axis(edges, levels, axis=1), np.asarray(LEVELS)[levels], quality,
        iou, error, np.where(varies, chance, independent), np.where(varies, margin_error, error), conditional,
        state.total / state.places, area, varies, state.top.values, state.top.images,
    )  # fmt: skip


def _slopes(state: _Progressing, parts: tuple[int, int]) -> np.ndarray:
    """Derivative of a ratio of sums by each of the four sums, ``(4, U, K)``."""
    slopes = np.zeros_like(state.sums)
    inside, union = state.sums[parts[0]], state.sums[parts[1]]
    safe = np.maximum(union, 1)
    slopes[parts[0]] = 1 / safe
    slopes[parts[1]] = -inside / safe**2
    return slopes


def _ratio(state: _Progressing, count: int, parts: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    inside, union = state.sums[parts[0]], state.sums[parts[1]]
    ratio = np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)
    return ratio, _error(state, count, _slopes(state, parts))


def _error(state: _Progressing, count: int, slopes: np.ndarray) -> np.ndarray:
    """Standard error of a function of sums over samples, by its linear form (the delta method)."""
    means = state.sums / count
    spread = state.products / count - means[:, None] * means[None]
    variance = np.einsum("auk,abuk,buk->uk", slopes, spread, slopes) * count * count / max(count - 1, 1)
    return np.asarray(np.sqrt(np.maximum(variance, 0)))
