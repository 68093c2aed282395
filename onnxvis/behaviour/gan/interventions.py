"""Units of a generator switched off or set, in any part of the map: one edited graph serves every question.

Bau et al., ICLR 2019, section 3.2. With r the layer's activation, U the units and P the places,

    off:  r[U, P] = 0            on:  r[U, P] = k, the unit's mean activation where the concept is.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from onnxvis.behaviour.gan.generator import Generator
from onnxvis.behaviour.gan.layers import GeneratorLayer
from onnxvis.errors import ConversionError, ModelError, UsageError
from onnxvis.graph.intervene import Intervened, intervene
from onnxvis.runtime.session import Sessions

__all__ = ["WHOLE", "Interventions", "Region", "parse_region"]

_LARGEST_ROUNDING = 1e-3


@dataclass(frozen=True)
class Region:
    """A rectangle of the picture, as fractions of it.

    Attributes:
        top: upper edge.
        left: left edge.
        bottom: lower edge.
        right: right edge.
    """

    top: float = 0.0
    left: float = 0.0
    bottom: float = 1.0
    right: float = 1.0

    def __post_init__(self) -> None:
        """Refuse rectangles that are empty or reach out of the picture."""
        if not (0 <= self.top < self.bottom <= 1 and 0 <= self.left < self.right <= 1):
            raise UsageError(
                f"a region is TOP,LEFT,BOTTOM,RIGHT in 0..1 with top < bottom and left < right; got {self}."
            )

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        """``(h, w) bool``: places whose center lies inside; the nearest one where none does."""
        inside = []
        for first, last, count in ((self.top, self.bottom, size[0]), (self.left, self.right, size[1])):
            centers = (np.arange(count) + 0.5) / count
            found = (centers >= first) & (centers < last)
            if not found.any():
                found[int(np.abs(centers - (first + last) / 2).argmin())] = True
            inside.append(found)
        return np.asarray(inside[0][:, None] & inside[1][None])

    @property
    def whole(self) -> bool:
        """Whether it is the whole picture."""
        return self == WHOLE

    def __str__(self) -> str:
        return ",".join(f"{edge:g}" for edge in (self.top, self.left, self.bottom, self.right))


WHOLE = Region()
"""The whole picture."""


def parse_region(text: str | None) -> Region:
    """TOP,LEFT,BOTTOM,RIGHT as fractions; the whole picture for None.

    Raises:
        UsageError: something else.
    """
    if text is None:
        return WHOLE
    try:
        top, left, bottom, right = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"a region is TOP,LEFT,BOTTOM,RIGHT as fractions of the picture, not {text!r}.") from None
    return Region(top, left, bottom, right)


class Interventions:
    """One layer of a generator, ready to be intervened on.

    Attributes:
        generator: the generator.
        layer: the layer.
        edited: the edited graph.
        difference: largest difference of the edited graph with neutral inputs from the file, relative to the largest
            value; 0.0 means that every bit is the same.
        notes: what must be said, one sentence each.
    """

    def __init__(self, generator: Generator, layer: GeneratorLayer) -> None:
        self.generator = generator
        self.layer = layer
        self.notes: list[str] = []
        self.edited, folder = self._edit()
        self.sessions = Sessions(self.edited.model, generator.provider, folder)
        self.difference = self._neutral_difference()
        if self.difference == 0:
            self.notes.append("the edited graph with a neutral mask gives the file's own bits (checked on 3 samples)")
        elif self.difference <= _LARGEST_ROUNDING:
            self.notes.append(
                f"the edited graph with a neutral mask differs from the file by {self.difference:.1e} of the largest "
                "value: the new nodes end a fusion of onnxruntime's, which rounds in another order"
            )
        else:
            raise ModelError(
                f"the edited graph with a neutral mask differs from the file by {self.difference:.1e} at layer "
                f"{layer.tensor!r}: this onnxruntime changes the network when it is edited there. Choose another layer."
            )

        if (self.trunk(generator.feeds(range(3), 0)) < 0).any():
            self.notes.append("this layer has negative values too, so 0 is one value among others and not silence")

    def _edit(self) -> tuple[Intervened, Path | None]:
        generator, layer = self.generator, self.layer
        elem_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(layer.dtype))
        try:
            return intervene(
                generator.file.proto, layer.tensor, 4, elem_type, defaults=False
            ), generator.file.data_folder
        except ConversionError as error:
            canonical = generator.canonical
            if layer.tensor in canonical.twins or layer.dtype == "float16":
                raise
            self.notes.append(f"the canonical form of the file is edited, because {error}")
            return intervene(canonical.model, layer.tensor, 4, defaults=False), None

    def _neutral_difference(self) -> float:
        generator = self.generator
        feeds = generator.feeds(range(3), 0)
        name = generator.output
        before = generator.run(generator.sessions, feeds, (name,))[name]
        zero = np.zeros((1, self.layer.units, 1, 1), self.layer.dtype)
        after = self.raw(feeds, zero, np.full_like(zero, np.nan))
        if np.array_equal(before, after, equal_nan=before.dtype.kind == "f"):
            return 0.0
        largest = max(float(np.abs(before).max()), 1e-12)
        return float(np.abs(after.astype(np.float64) - before).max()) / largest

    # --- masks -----------------------------------------------------------------------------------

    def mask(self, units: Sequence[int], region: Region = WHOLE) -> np.ndarray:
        """``(1, U, h|1, w|1)``: 1 at these units and places.

        Raises:
            UsageError: a unit that the layer does not have.
        """
        wrong = [u for u in units if not 0 <= u < self.layer.units]
        if wrong:
            raise UsageError(f"layer {self.layer.tensor!r} has units 0 to {self.layer.units - 1}, not {wrong[0]}.")
        chosen = np.zeros((1, self.layer.units, 1, 1), self.layer.dtype)
        chosen[:, list(units)] = 1
        if region.whole:
            return chosen
        return np.asarray(chosen * region.mask(self.layer.size).astype(self.layer.dtype))

    def values(self, per_unit: np.ndarray | float = 0.0) -> np.ndarray:
        """``(1, U, 1, 1)`` from one number for each unit, or one for all."""
        found = np.broadcast_to(np.asarray(per_unit, np.float64), (self.layer.units,))
        return np.ascontiguousarray(found.reshape(1, -1, 1, 1)).astype(self.layer.dtype)

    # --- running ---------------------------------------------------------------------------------

    def raw(self, feeds: Mapping[str, np.ndarray], mask: np.ndarray, value: np.ndarray) -> np.ndarray:
        """The generator's raw output under an intervention, from its inputs.

        Args:
            feeds: inputs of the generator.
            mask: ``(1, U, h|1, w|1)``, 0 (leave) to 1 (force); or ``(N, ...)``, one for each sample.
            value: ``(1, U, h|1, w|1)`` or ``(N, ...)``.

        Raises:
            UsageError: masks or values are neither one nor as many as samples.
        """
        forced = {self.edited.mask: self.layer.in_layout(mask), self.edited.value: self.layer.in_layout(value)}
        return self._chunked(dict(feeds), forced, ())

    def trunk(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        """The layer's own activation ``(N, U, h, w)``, of the unedited file."""
        found = self.generator.run(self.generator.sessions, feeds, (self.layer.tensor,))[self.layer.tensor]
        return self.layer.units_first(found)

    def tail(
        self, activation: np.ndarray, feeds: Mapping[str, np.ndarray], mask: np.ndarray, value: np.ndarray
    ) -> np.ndarray:
        """The raw output from the layer's activation: the part before the layer does not run again.

        Args:
            activation: ``(N, U, h, w)`` from :meth:`trunk`.
            feeds: inputs of the generator, for those that the part behind the layer reads too.
            mask: as for :meth:`raw`.
            value: likewise.
        """
        forced = {self.edited.mask: self.layer.in_layout(mask), self.edited.value: self.layer.in_layout(value)}
        rows = {**{n: feeds[n] for n in self.read_behind}, self.edited.before: self.layer.in_layout(activation)}
        return self._chunked(rows, forced, (self.edited.before,))

    @functools.cached_property
    def read_behind(self) -> tuple[str, ...]:
        """Inputs of the generator that the part behind the layer reads as well."""
        from onnxvis.graph.cut import needed_nodes

        nodes = needed_nodes(self.edited.model.graph, [self.edited.before], [self.generator.output])
        read = {name for node in nodes for name in node.input}
        inner = any(a.HasField("g") for node in nodes for a in node.attribute)
        return tuple(s.name for s in self.generator.sources if s.name in read or inner)

    def _chunked(self, rows: dict[str, np.ndarray], forced: dict[str, np.ndarray], cuts: tuple[str, ...]) -> np.ndarray:
        generator, name = self.generator, self.generator.output
        shared = {s.name for s in generator.sources if not s.batched}
        count = max(len(a) for n, a in rows.items() if n not in shared)
        rows |= {n: a for n, a in forced.items() if len(a) > 1}
        forced = {n: a for n, a in forced.items() if len(a) == 1}
        wrong = [n for n in (self.edited.mask, self.edited.value) if n in rows and len(rows[n]) != count]
        if wrong:
            raise UsageError(
                f"{len(rows[wrong[0]])} masks or values were given for {count} samples: give one, or as many."
            )
        parts = []
        for start in range(0, count, generator.batch):
            part = {n: a if n in shared else a[start : start + generator.batch] for n, a in rows.items()}
            size = min(generator.batch, count - start)
            if generator.fixed > size:
                missing = generator.fixed - size
                part = {
                    n: a if n in shared else np.concatenate([a, np.repeat(a[-1:], missing, axis=0)])
                    for n, a in part.items()
                }
            parts.append(self.sessions.run({**part, **forced}, (name,), cuts)[name][:size])
        return np.concatenate(parts)

    def pictures(
        self, ids: Sequence[int], seed: int, mask: np.ndarray, value: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pictures before and after ``(N, H, W, 3) uint8``, both through the edited graph from its inputs."""
        feeds = self.generator.feeds(ids, seed)
        before = self.raw(feeds, np.zeros_like(mask), value)
        return self.generator.to_pictures(before), self.generator.to_pictures(self.raw(feeds, mask, value))
