"""What a pass counts: for each layer the strongest places and a histogram of each unit, in mergeable form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxvis.errors import UsageError
from onnxvis.kernels.sketch import Sketch
from onnxvis.kernels.topk import COMPILED_FROM, TopK

__all__ = ["COLUMNS", "LayerTally", "Tally", "TopPlaces"]

COLUMNS = 1 << 31
"""A place is stored as ``row * COLUMNS + column``, so that maps of different widths share one order."""


@dataclass(frozen=True, eq=False)
class TopPlaces:
    """The strongest place of each picture, for the K pictures that excite a unit most.

    Attributes:
        values: ``(U, K)`` float32 activations, descending; -inf where there are fewer pictures.
        picture: ``(U, K)`` int64 numbers of pictures; -1 where there are fewer.
        row: ``(U, K)`` int32 row in the layer's map; -1 where there are fewer.
        col: ``(U, K)`` int32 column in the layer's map; -1 where there are fewer.
    """

    values: NDArray[np.float32]
    picture: NDArray[np.int64]
    row: NDArray[np.int32]
    col: NDArray[np.int32]


class LayerTally:
    """The units of one layer over some pictures.

    Args:
        units: number of units U.
        k: pictures to keep for each unit.
        accuracy: relative error of quantiles.
        compiled: gather maps until the numba kernels pay, which take a second or two to load; the counts are the same.
    """

    def __init__(self, units: int, k: int, accuracy: float, *, compiled: bool = False) -> None:
        self._compiled = compiled
        self._top = TopK(units, k)
        self._sketch = Sketch(units, accuracy)
        self._gathered: list[tuple[NDArray[np.float32], NDArray[np.int64]]] = []

    @property
    def top(self) -> TopK:
        """The strongest places, as ``row * COLUMNS + column``."""
        self.count()
        return self._top

    @property
    def sketch(self) -> Sketch:
        """The histograms of the units."""
        self.count()
        return self._sketch

    def add(self, maps: NDArray[np.float32], pictures: NDArray[np.int64]) -> None:
        """Take in the maps ``(N, U, h, w)`` of pictures with these numbers ``(N,)``."""
        if self._gathered and self._gathered[0][0].shape[1:] != maps.shape[1:]:
            self.count()
        self._gathered.append((maps, pictures))
        if not self._compiled or sum(known.size for known, _ in self._gathered) >= COMPILED_FROM:
            self.count()

    def count(self) -> None:
        """Count what was gathered; whoever asks for the counts need not call it."""
        if not self._gathered:
            return
        maps, pictures = self._gathered[0]
        if len(self._gathered) > 1:
            maps, pictures = (np.concatenate(part) for part in zip(*self._gathered, strict=True))
        self._gathered = []
        self._sketch.add(maps, compiled=self._compiled or None)
        self._top.add(maps, pictures, grid=(maps.shape[3], COLUMNS), compiled=self._compiled or None)

    def merge(self, other: LayerTally) -> None:
        """Add what was counted on other pictures."""
        self.top.merge(other.top)
        self.sketch.merge(other.sketch)

    def places(self) -> TopPlaces:
        """The strongest places."""
        top, seen = self.top, self.top.places >= 0
        row, col = (np.where(seen, part, -1).astype(np.int32) for part in np.divmod(top.places, COLUMNS))
        return TopPlaces(top.values, top.images, row, col)

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything as arrays, in one form for equal contents."""
        top: dict[str, NDArray[Any]] = {"values": self.top.values, "images": self.top.images, "places": self.top.places}
        return top | {f"sketch.{name}": array for name, array in self.sketch.state().items()}

    @classmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]]) -> LayerTally:
        """The inverse of :meth:`state`."""
        units, k = arrays["values"].shape
        made = cls(units, k, accuracy=0.1)
        made._top.values = arrays["values"].astype(np.float32)
        made._top.images, made._top.places = (arrays[n].astype(np.int64) for n in ("images", "places"))
        prefix = "sketch."
        made._sketch = Sketch.from_state({n[len(prefix) :]: a for n, a in arrays.items() if n.startswith(prefix)})
        return made


@dataclass
class Tally:
    """Everything counted over a set of shards.

    Attributes:
        shards: numbers of the shards that are in it; no shard is ever in it twice.
        layers: by layer name.
    """

    shards: frozenset[int] = frozenset()
    layers: dict[str, LayerTally] = field(default_factory=dict)

    def merge(self, other: Tally) -> None:
        """Add other shards. The result does not depend on the order, bit for bit.

        Raises:
            UsageError: a shard is in both, or the layers differ.
        """
        twice = self.shards & other.shards
        if twice:
            raise UsageError(f"shard {min(twice)} would be counted twice.")
        if self.layers and other.layers and set(self.layers) != set(other.layers):
            raise UsageError("only tallies of the same layers add up.")
        for name, layer in other.layers.items():
            if name in self.layers:
                self.layers[name].merge(layer)
            else:
                self.layers[name] = LayerTally.from_state(layer.state())
        self.shards |= other.shards

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything as arrays, in one form for equal contents."""
        arrays = {"shards": np.array(sorted(self.shards), np.int64)}
        for number, name in enumerate(sorted(self.layers)):
            arrays[f"{number}.name"] = np.frombuffer(name.encode(), np.uint8)
            arrays |= {f"{number}.{part}": array for part, array in self.layers[name].state().items()}
        return arrays

    @classmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]]) -> Tally:
        """The inverse of :meth:`state`."""
        made = cls(frozenset(int(s) for s in arrays["shards"]))
        for key, array in arrays.items():
            number, _, part = key.partition(".")
            if part == "name":
                own = {k.partition(".")[2]: a for k, a in arrays.items() if k.startswith(f"{number}.")}
                made.layers[array.tobytes().decode()] = LayerTally.from_state(own)
        return made

    @classmethod
    def of(cls, parts: Iterable[Tally]) -> Tally:
        """The sum of several."""
        whole = cls()
        for part in parts:
            whole.merge(part)
        return whole
