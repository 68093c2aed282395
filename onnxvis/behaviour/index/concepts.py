"""How far the units of a layer agree with concepts that people marked, in whole-number counts.

Bau, Zhou, Khosla, Oliva & Torralba, "Network Dissection", CVPR 2017.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxvis.errors import UsageError

__all__ = ["ConceptCounts", "ConceptTally"]

_COUNTS = ("both", "masked", "labeled")


@dataclass(frozen=True, eq=False)
class ConceptCounts:
    """Pixels in the masks of units, in the concepts, and in both, over all pictures with a label map.

    Pixels are those of the model's input grid.

    Attributes:
        names: of the K concepts.
        quantile: of each unit's activations over the data set, above which it is "on".
        thresholds: ``(U,)`` float32, the activation at that quantile.
        both: ``(U, K)`` int64.
        masked: ``(U,)`` int64, labeled pixels in the mask of a unit.
        labeled: ``(K,)`` int64.
        pictures: how many were counted.
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
    """The counts of some shards.

    Attributes:
        shards: which.
        layers: by layer the arrays ``thresholds``, ``both``, ``masked`` and ``labeled``; the last of their K + 1
            columns is "no concept".
        pictures: how many were counted.
        errors: by number of the picture, why its label map was not.
    """

    shards: frozenset[int]
    layers: dict[str, dict[str, NDArray[Any]]]
    pictures: int = 0
    errors: dict[int, str] = field(default_factory=dict)

    def merge(self, other: ConceptTally) -> None:
        """Add other shards. The result does not depend on the order, bit for bit.

        Raises:
            UsageError: a shard is in both, or the thresholds differ.
        """
        if self.shards & other.shards:
            raise UsageError(f"shard {min(self.shards & other.shards)} would be counted twice.")
        for name, counts in other.layers.items():
            own = self.layers[name]
            if not np.array_equal(own["thresholds"], counts["thresholds"]):
                raise UsageError(f"layer {name!r} was counted with other thresholds; index again.")
            for part in _COUNTS:
                own[part] = own[part] + counts[part]
        self.shards |= other.shards
        self.pictures += other.pictures
        self.errors |= other.errors

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything as arrays."""
        errors = json.dumps(sorted(self.errors.items())).encode()
        arrays: dict[str, NDArray[Any]] = {
            "shards": np.array(sorted(self.shards), np.int64),
            "pictures": np.array(self.pictures),
            "errors": np.frombuffer(errors, np.uint8),
        }
        for number, name in enumerate(sorted(self.layers)):
            arrays[f"{number}.name"] = np.frombuffer(name.encode(), np.uint8)
            arrays |= {f"{number}.{part}": array for part, array in self.layers[name].items()}
        return arrays

    @classmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]]) -> ConceptTally:
        """The inverse of :meth:`state`."""
        errors = {int(number): str(text) for number, text in json.loads(arrays["errors"].tobytes())}
        made = cls(frozenset(int(s) for s in arrays["shards"]), {}, int(arrays["pictures"]), errors)
        for key, name in arrays.items():
            number, _, part = key.partition(".")
            if part != "name":
                continue
            own = {p: arrays[f"{number}.{p}"].astype(np.int64) for p in _COUNTS}
            made.layers[name.tobytes().decode()] = {**own, "thresholds": arrays[f"{number}.thresholds"]}
        return made
