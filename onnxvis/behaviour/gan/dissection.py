"""What dissecting a generator found: for each unit and concept a threshold, an agreement, and what chance gives."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from onnxvis.errors import OutputError, UsageError, did_you_mean
from onnxvis.files import write_atomic

__all__ = ["Dissection", "RankedUnit"]

_ARRAYS = (
    "thresholds", "levels", "quality", "iou", "iou_error", "chance", "margin_error", "conditional_mean", "mean",
    "area", "varies", "top_values", "top_ids",
)  # fmt: skip


@dataclass(frozen=True)
class RankedUnit:
    """One line of a ranking.

    Attributes:
        unit: its number.
        iou: agreement on the held-out samples, 0..1.
        chance: what it would be by chance.
        z: how many standard errors lie between the two.
        threshold: of its activation.
        quantile: at which the threshold lies.
        quality: information quality ratio there, on the samples that chose it.
        above_chance: whether the difference stands after correction for all units and concepts.
    """

    unit: int
    iou: float
    chance: float
    z: float
    threshold: float
    quantile: float
    quality: float
    above_chance: bool


@dataclass(frozen=True, eq=False)
class Dissection:
    """A dissected layer. U units, K concepts; arrays are ``(U, K)`` unless said otherwise.

    Attributes:
        layer: the tensor.
        concepts: names.
        facts: plain data: generator, layer, segmenter, samples, seed.
        thresholds: of the activation; the mask is where the enlarged activation is above.
        levels: the quantiles at which they lie.
        quality: information quality ratio, on the samples that chose the thresholds.
        iou: intersection over union on held-out samples.
        iou_error: its standard error over samples.
        chance: the same with another sample's concept; for concepts that are alike in all pictures (a place) what
            independent masks of the same areas give.
        margin_error: standard error of ``iou - chance``.
        conditional_mean: mean activation where the concept is, E[u | c], which insertion uses.
        mean: ``(U,)`` mean activation.
        area: ``(K,)`` part of all held-out pixels that is marked.
        varies: ``(K,) bool``: whether the concept differs from picture to picture.
        top_values: ``(U, n)`` largest activations over held-out samples, one for each sample.
        top_ids: ``(U, n)`` those samples.
    """

    layer: str
    concepts: tuple[str, ...]
    facts: Mapping[str, Any]
    thresholds: np.ndarray
    levels: np.ndarray
    quality: np.ndarray
    iou: np.ndarray
    iou_error: np.ndarray
    chance: np.ndarray
    margin_error: np.ndarray
    conditional_mean: np.ndarray
    mean: np.ndarray
    area: np.ndarray
    varies: np.ndarray
    top_values: np.ndarray
    top_ids: np.ndarray

    @property
    def units(self) -> int:
        """Number of units."""
        return len(self.iou)

    @property
    def z(self) -> np.ndarray:
        """Standard errors between agreement and chance; 0 where there is no difference."""
        margin = self.iou - self.chance
        return np.asarray(np.divide(margin, self.margin_error, out=np.zeros_like(margin), where=self.margin_error > 0))

    @property
    def needed_z(self) -> float:
        """Above this a difference stands at the 1 % level, corrected (Bonferroni) for U x K questions."""
        return NormalDist().inv_cdf(1 - 0.01 / max(self.iou.size, 1))

    @property
    def above_chance(self) -> np.ndarray:
        """Whether the agreement is above chance, and the concept appeared at all."""
        return np.asarray((self.z > self.needed_z) & (self.area > 0))

    def concept(self, name: str) -> int:
        """The place of a concept.

        Raises:
            UsageError: there is none of that name.
        """
        if name not in self.concepts:
            raise UsageError(
                f"concept {name!r} was not dissected; there are {', '.join(self.concepts)}."
                f"{did_you_mean(name, self.concepts)}"
            )
        return self.concepts.index(name)

    def ranked(self, concept: str, count: int | None = None) -> list[RankedUnit]:
        """Units by their agreement with a concept, those above chance first."""
        k = self.concept(concept)
        above, z = self.above_chance[:, k], self.z[:, k]
        order = np.lexsort((np.arange(self.units), -self.iou[:, k], ~above))[:count]
        return [
            RankedUnit(
                int(u), float(self.iou[u, k]), float(self.chance[u, k]), float(z[u]), float(self.thresholds[u, k]),
                float(self.levels[u, k]), float(self.quality[u, k]), bool(above[u]),
            )
            for u in order
        ]  # fmt: skip

    def values(self, concept: str) -> np.ndarray:
        """``(U,)`` what every unit is inserted at for a concept: its mean activation where the concept is.

        Raises:
            UsageError: the concept never appeared.
        """
        found = self.conditional_mean[:, self.concept(concept)]
        if not np.isfinite(found).all():
            raise UsageError(f"concept {concept!r} never appeared in the samples, so nothing can be inserted for it.")
        return np.asarray(found)

    def top_units(self, concept: str, count: int) -> list[int]:
        """Numbers of the first units of the ranking."""
        return [row.unit for row in self.ranked(concept, count)]

    def labels(self) -> list[tuple[int, str]]:
        """For each unit with an agreement above chance the concept of the largest margin: (unit, concept)."""
        margin = np.where(self.above_chance, self.iou - self.chance, -np.inf)
        best = margin.argmax(axis=1)
        return [(u, self.concepts[best[u]]) for u in range(self.units) if np.isfinite(margin[u, best[u]])]

    # --- saving ----------------------------------------------------------------------------------

    def manifest(self, count: int = 10) -> dict[str, Any]:
        """Plain data: the facts, and the first units of each concept."""
        labels = self.labels()
        return {
            **self.facts,
            "above_chance_from_z": self.needed_z,
            "labeled_units": len(labels),
            "concepts": {
                name: {
                    "meaning": self.facts["segmenter"]["concepts"].get(name, ""),
                    "area": float(self.area[k]),
                    "chance": "other samples' concept" if self.varies[k] else "independent masks of the same areas",
                    "units_above_chance": int(self.above_chance[:, k].sum()),
                    "ranked": [_finite(vars(row)) for row in self.ranked(name, count)],
                }
                for k, name in enumerate(self.concepts)
            },
        }

    def save(self, folder: str | Path) -> Path:
        """Write ``dissection.npz`` (every number) and ``dissection.json``; each appears whole or not at all.

        Raises:
            OutputError: the folder cannot be written.
        """
        out = Path(folder)
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _ARRAYS}
        np.savez_compressed(
            buffer, layer=np.array(self.layer), concepts=np.array(self.concepts),
            facts=np.array(json.dumps(self.facts)),
            **arrays,
        )  # fmt: skip
        text = json.dumps(self.manifest(), indent=2, ensure_ascii=False, allow_nan=False)
        try:
            out.mkdir(parents=True, exist_ok=True)
            write_atomic(out / "dissection.npz", buffer.getvalue())
            write_atomic(out / "dissection.json", text.encode("utf-8", "surrogatepass"))
        except OSError as error:
            raise OutputError(f"cannot write to {out}: {error.strerror or error}.") from error
        return out

    @classmethod
    def load(cls, path: str | Path) -> Dissection:
        """Read what :meth:`save` wrote: the folder, or the file ``dissection.npz``.

        Raises:
            UsageError: it is not there or not readable.
        """
        file = Path(path)
        file = file / "dissection.npz" if file.is_dir() else file
        try:
            with np.load(file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in _ARRAYS}
                concepts = tuple(str(c) for c in stored["concepts"])
                return cls(str(stored["layer"]), concepts, json.loads(str(stored["facts"])), **arrays)
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise UsageError(
                f"{file} is no dissection ({error}). `onnxvis gan dissect GENERATOR --out FOLDER` makes one."
            ) from error


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
