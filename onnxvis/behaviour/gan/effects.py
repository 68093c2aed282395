"""How much units cause a concept: presence with them off, as they are, and on.

Bau et al., ICLR 2019, equations 4 and 5. With s_c(x) the part of the pixels of the region P that the segmenter marks
as c, x_a a picture with units U off in P and x_i one with them on (at k, the mean activation where c is), the average
causal effect of U on c is

    ACE = E[s_c(x_i)] - E[s_c(x_a)].

Every sample is its own control, so standard errors are those of paired differences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxvis.behaviour.gan.concepts import Segmenter
from onnxvis.behaviour.gan.interventions import WHOLE, Interventions, Region
from onnxvis.errors import UsageError, did_you_mean
from onnxvis.progress import Progress, silent

__all__ = [
    "Effects",
    "Trunks",
    "UnitEffects",
    "averaged",
    "mean_and_error",
    "measure",
    "presence",
    "random_effects",
    "trunks",
    "unit_effects",
]


_KEPT_BYTES = 1 << 29


@dataclass(frozen=True, eq=False)
class Trunks:
    """Activations of some samples, computed once for many interventions where they fit into half a gigabyte.

    Attributes:
        feeds: per batch, what the generator was fed.
        activations: per batch, ``(n, U, h, w)`` in the file's own type; None where they would be too large together,
            and are computed again each time.
        base: ``(N, K)`` presence of each concept without an intervention.
        region: where presence is measured.
    """

    feeds: list[dict[str, np.ndarray]]
    activations: list[np.ndarray | None]
    base: np.ndarray
    region: Region


@dataclass(frozen=True, eq=False)
class Effects:
    """Presence of every concept with a set of units off and on.

    Attributes:
        units: the set.
        concepts: K names.
        region: where units were forced and presence measured.
        base: ``(N, K)`` presence (part of the region's pixels) as it is.
        off: ``(N, K)`` with the units off.
        on: ``(N, K)`` with them on; None where they were not inserted.
    """

    units: tuple[int, ...]
    concepts: tuple[str, ...]
    region: Region
    base: np.ndarray
    off: np.ndarray
    on: np.ndarray | None = None

    def place(self, concept: str) -> int:
        """The column of a concept.

        Raises:
            UsageError: the segmenter has none of that name.
        """
        return _column(self.concepts, concept)

    def drop(self, concept: str) -> tuple[float, float]:
        """Mean loss of presence by ablation, and its standard error."""
        return mean_and_error((self.base - self.off)[:, self.place(concept)])

    def gain(self, concept: str) -> tuple[float, float]:
        """Mean gain of presence by insertion, and its standard error."""
        return mean_and_error((self._inserted() - self.base)[:, self.place(concept)])

    def ace(self, concept: str) -> tuple[float, float]:
        """Average causal effect, and its standard error."""
        return mean_and_error((self._inserted() - self.off)[:, self.place(concept)])

    def _inserted(self) -> np.ndarray:
        if self.on is None:
            raise UsageError("these units were only ablated; measure them with values to insert.")
        return self.on

    def to_dict(self) -> dict[str, Any]:
        """Plain data for manifests."""
        rows = {}
        for name in self.concepts:
            k = self.concepts.index(name)
            row = {"presence": float(self.base[:, k].mean()), "drop": list(self.drop(name))}
            if self.on is not None:
                row |= {"gain": list(self.gain(name)), "ace": list(self.ace(name))}
            rows[name] = row
        return {
            "units": list(self.units),
            "region": str(self.region),
            "samples": len(self.base),
            "pairs": "[mean, standard error] over samples",
            "concepts": rows,
        }


@dataclass(frozen=True, eq=False)
class UnitEffects:
    """Effects of every unit alone, ``(U, K)`` each: means over samples and their standard errors."""

    concepts: tuple[str, ...]
    drop: np.ndarray
    drop_error: np.ndarray
    ace: np.ndarray
    ace_error: np.ndarray

    def ranked(self, concept: str, by: str = "ace") -> list[int]:
        """Units by their effect on a concept, the strongest first.

        Raises:
            UsageError: ``by`` is neither "ace" nor "drop".
        """
        if by not in ("ace", "drop"):
            raise UsageError(f"units are ranked by 'ace' or 'drop', not {by!r}.")
        values = (self.ace if by == "ace" else self.drop)[:, _column(self.concepts, concept)]
        return [int(u) for u in np.argsort(-values, kind="stable")]


def _column(concepts: Sequence[str], name: str) -> int:
    if name not in concepts:
        raise UsageError(f"the segmenter marks {', '.join(concepts)}, not {name!r}.{did_you_mean(name, concepts)}")
    return list(concepts).index(name)


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean over samples and its standard error."""
    count = len(values)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan")


def trunks(
    interventions: Interventions, segmenter: Segmenter, ids: Sequence[int], seed: int, region: Region = WHOLE
) -> Trunks:
    """Run the part before the layer once for some samples, and mark their unchanged pictures.

    Args:
        interventions: on a layer.
        segmenter: marks the concepts.
        ids: the samples.
        seed: of the samples.
        region: where presence is measured.
    """
    generator = interventions.generator
    step = max(generator.batch, 1)
    feeds: list[dict[str, np.ndarray]] = []
    activations: list[np.ndarray | None] = []
    base = []
    for start in range(0, len(ids), step):
        fed = generator.feeds(ids[start : start + step], seed)
        found = interventions.trunk(fed)
        raw = interventions.tail(found, fed, interventions.mask(()), interventions.values())
        feeds.append(fed)
        activations.append(found if found.nbytes / len(found) * len(ids) <= _KEPT_BYTES else None)
        base.append(presence(segmenter(generator.to_pictures(raw)), region))
    return Trunks(feeds, activations, np.concatenate(base), region)


def presence(masks: np.ndarray, region: Region) -> np.ndarray:
    """Part of the region's pixels that is marked: ``(N, K, H, W) bool`` to ``(N, K)`` float64."""
    inside = region.mask((masks.shape[2], masks.shape[3]))
    return np.asarray(masks[:, :, inside].mean(axis=2))


def measure(
    interventions: Interventions,
    segmenter: Segmenter,
    units: Sequence[int],
    samples: Trunks,
    values: np.ndarray | None = None,
) -> Effects:
    """Presence of every concept with these units off, and, if values are given, on.

    Args:
        interventions: on a layer.
        segmenter: the one that the samples were marked with.
        units: the set U.
        samples: from :func:`trunks`, with the region P.
        values: ``(U,)`` what every unit of the layer is inserted at, k.
    """
    mask = interventions.mask(units, samples.region)
    off = _forced(interventions, segmenter, samples, mask, interventions.values())
    on = None if values is None else _forced(interventions, segmenter, samples, mask, interventions.values(values))
    return Effects(tuple(units), tuple(segmenter.concepts), samples.region, samples.base, off, on)


def _forced(
    interventions: Interventions, segmenter: Segmenter, samples: Trunks, mask: np.ndarray, value: np.ndarray
) -> np.ndarray:
    found = []
    for feeds, activation in zip(samples.feeds, samples.activations, strict=True):
        kept = interventions.trunk(feeds) if activation is None else activation
        raw = interventions.tail(kept, feeds, mask, value)
        found.append(presence(segmenter(interventions.generator.to_pictures(raw)), samples.region))
    return np.concatenate(found)


def unit_effects(
    interventions: Interventions,
    segmenter: Segmenter,
    samples: Trunks,
    values: np.ndarray,
    progress: Progress = silent,
) -> UnitEffects:
    """The effect of every unit alone, on every concept.

    Args:
        interventions: on a layer.
        segmenter: the one that the samples were marked with.
        samples: from :func:`trunks`.
        values: ``(U,)``, or ``(U, K)`` for values that differ between concepts: each concept's ACE is then measured
            at its own, which takes a run for each.
        progress: told of every unit.
    """
    units, count = interventions.layer.units, len(segmenter.concepts)
    table = np.broadcast_to(values if values.ndim == 2 else values[:, None], (units, count))
    one_value = bool((table == table[:, :1]).all())
    rows: list[list[tuple[np.ndarray, np.ndarray]]] = []
    for unit in range(units):
        mask = interventions.mask([unit], samples.region)
        off = _forced(interventions, segmenter, samples, mask, interventions.values())
        if one_value:
            on = _forced(interventions, segmenter, samples, mask, interventions.values(table[:, 0]))
        else:
            columns = [
                _forced(interventions, segmenter, samples, mask, interventions.values(table[:, k]))[:, k]
                for k in range(count)
            ]
            on = np.stack(columns, axis=1)
        rows.append([_columns(samples.base - off), _columns(on - off)])
        progress("units", unit + 1, units)
    (drop, drop_error), (ace, ace_error) = (
        tuple(np.stack([row[i][j] for row in rows]) for j in (0, 1)) for i in (0, 1)
    )
    return UnitEffects(tuple(segmenter.concepts), drop, drop_error, ace, ace_error)


def _columns(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pairs = [mean_and_error(column) for column in values.T]
    return np.array([m for m, _ in pairs]), np.array([e for _, e in pairs])


def random_effects(
    interventions: Interventions,
    segmenter: Segmenter,
    units: Sequence[int],
    samples: Trunks,
    values: np.ndarray | None = None,
    *,
    sets: int = 8,
    seed: int = 0,
) -> list[Effects]:
    """What as many random other units do: the effects of several random sets; :func:`averaged` makes one of them.

    Args:
        interventions: on a layer.
        segmenter: the one that the samples were marked with.
        units: the set to compare with; none of them is drawn.
        samples: from :func:`trunks`.
        values: as for :func:`measure`.
        sets: how many random sets.
        seed: of the sets.

    Raises:
        UsageError: the layer has not as many other units.
    """
    found = list(_random_sets(interventions.layer.units, units, sets, seed))
    return [measure(interventions, segmenter, chosen, samples, values) for chosen in found]


def averaged(each: Sequence[Effects]) -> Effects:
    """Presence per sample averaged over sets of units, measured on the same samples."""
    first = each[0]
    off = np.mean([e.off for e in each], axis=0)
    inserted = [e.on for e in each if e.on is not None]
    on = np.mean(inserted, axis=0) if len(inserted) == len(each) else None
    return Effects((), first.concepts, first.region, first.base, off, on)


def _random_sets(layer_units: int, units: Sequence[int], sets: int, seed: int) -> Iterator[list[int]]:
    others = np.setdiff1d(np.arange(layer_units), np.asarray(units, np.int64))
    if len(others) < len(units) or sets < 1:
        raise UsageError(f"the layer has {len(others)} other units, too few to draw {len(units)} at random.")
    rng = np.random.default_rng(seed)
    for _ in range(sets):
        yield sorted(int(u) for u in rng.choice(others, len(units), replace=False))
