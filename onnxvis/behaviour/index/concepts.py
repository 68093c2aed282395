"""How far the units of a layer agree with concepts that people marked, in whole-number counts.

Bau, Zhou, Khosla, Oliva & Torralba, "Network Dissection", CVPR 2017.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxvis.errors import UsageError

__all__ = ["ConceptCounts", "ConceptTally"]


@dataclass(frozen=True, eq=False)
class ConceptCounts:
    """Pixels in the masks of units, in the concepts, and in both, over all pictures with a label map.

    Pixels are those of the model's input grid.

    Attributes:
        names: of the K concepts; a concept's index is its value in the label maps.
        quantile: of each unit's activations over the data set, above which it is "on".
        thresholds: ``(U,)`` float32, the activation at that quantile.
        both: ``(U, K)`` int64.
        masked: ``(U,)`` int64, labeled pixels in the mask of a unit.
        labeled: ``(K,)`` int64.
        pictures: how many had a label map.
    """

    names: tuple[str, ...]
    quantile: float
    thresholds: NDArray[np.float32]
    both: NDArray[np.int64]
    masked: NDArray[np.int64]
    labeled: NDArray[np.int64]
    pictures: int

    @property
    def either(self) -> NDArray[np.int64]:
        """``(U, K)`` pixels in the mask of a unit or in the concept."""
        return self.masked[:, None] + self.labeled[None] - self.both

    def iou(self) -> NDArray[np.float64]:
        """``(U, K)`` intersection over union; NaN where both are empty."""
        either = self.either
        return np.asarray(np.divide(self.both, either, out=np.full(either.shape, np.nan), where=either > 0))


@dataclass
class ConceptTally:
    """The counts of some shards: by layer the arrays ``thresholds``, ``both``, ``masked`` and ``labeled``."""

    shards: frozenset[int]
    layers: dict[str, dict[str, NDArray[Any]]]
    pictures: int = 0

    def merge(self, other: ConceptTally) -> None:
        """Add other shards.

        Raises:
            UsageError: a shard is in both, or the thresholds differ.
        """
        if self.shards & other.shards:
            raise UsageError(f"shard {min(self.shards & other.shards)} would be counted twice.")
        for name, counts in other.layers.items():
            own = self.layers[name]
            if not np.array_equal(own["thresholds"], counts["thresholds"], equal_nan=True):
                raise UsageError(f"layer {name!r} was counted with other thresholds; index again.")
            for part in ("both", "masked", "labeled"):
                own[part] = own[part] + counts[part]
        self.shards |= other.shards
        self.pictures += other.pictures

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything as arrays."""
        arrays = {"shards": np.array(sorted(self.shards), np.int64), "pictures": np.array(self.pictures)}
        for number, name in enumerate(sorted(self.layers)):
            arrays[f"{number}.name"] = np.frombuffer(name.encode(), np.uint8)
            arrays |= {f"{number}.{part}": array for part, array in self.layers[name].items()}
        return arrays

    @classmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]]) -> ConceptTally:
        """The inverse of :meth:`state`."""
        made = cls(frozenset(int(s) for s in arrays["shards"]), {}, int(arrays["pictures"]))
        for key, name in arrays.items():
            number, _, part = key.partition(".")
            if part != "name":
                continue
            own = {p: arrays[f"{number}.{p}"].astype(np.int64) for p in ("both", "masked", "labeled")}
            made.layers[name.tobytes().decode()] = {**own, "thresholds": arrays[f"{number}.thresholds"]}
        return made
