"""The scale of a drawing: which value gets which color. It is data, saved with the result."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxvis.errors import UsageError

__all__ = ["Scale", "format_value", "nice_ticks"]


@dataclass(frozen=True)
class Scale:
    """Limits of the colors in the map's own units; never the minimum and maximum of the map behind your back.

    Attributes:
        lo: value of the first color: ``-hi`` on a diverging scale, 0 on a sequential one.
        hi: value of the last color, above ``lo``.
        kind: ``"diverging"`` (signed, zero in the middle) or ``"sequential"`` (unsigned, zero at the start).
        units: what is measured, for example ``"change of logit"``.
        note: what a reader must know: clipping, an all-zero map, values that are not finite; or empty.
        clipped_low: some values lie below ``lo`` and are drawn in its color.
        clipped_high: some values lie above ``hi`` and are drawn in its color.
    """

    lo: float
    hi: float
    kind: Literal["diverging", "sequential"]
    units: str
    note: str = ""
    clipped_low: bool = False
    clipped_high: bool = False

    def __post_init__(self) -> None:
        """Refuse limits that no color can be looked up with."""
        if not (math.isfinite(self.lo) and math.isfinite(self.hi) and self.lo < self.hi):
            raise UsageError(f"A scale needs finite limits with lo < hi; got {self.lo!r} and {self.hi!r}.")
        if self.kind == "diverging" and self.lo != -self.hi:
            raise UsageError(f"A diverging scale is symmetric around zero; got {self.lo!r} to {self.hi!r}.")
        if self.kind not in ("diverging", "sequential"):
            raise UsageError(f"A scale is 'diverging' or 'sequential'; got {self.kind!r}.")

    @property
    def limits(self) -> tuple[float, float]:
        """``(lo, hi)``."""
        return self.lo, self.hi

    @classmethod
    def for_maps(
        cls,
        maps: Iterable[NDArray[Any]],
        *,
        signed: bool,
        units: str,
        percentile: float | None = None,
    ) -> Scale:
        """One scale for all of these maps, so that their colors can be compared.

        Args:
            maps: arrays of any shape. NaN (not seen by the model) counts nowhere.
            signed: zero-centered limits ``-m..m``; otherwise ``0..m``.
            units: what the values mean, for the color bar.
            percentile: let ``m`` be this percentile of the absolute values instead of the largest. For
                pixel-gradient maps, in which a few values are so large that the rest would be invisible.
                The note then says how many values lie outside.

        Raises:
            UsageError: the percentile is not in (0, 100].
        """
        if percentile is not None and not 0 < percentile <= 100:
            raise UsageError(f"A percentile must be above 0 and at most 100; got {percentile!r}.")
        flat = [np.asarray(m, dtype=np.float64).ravel() for m in maps]
        values = np.concatenate(flat) if flat else np.zeros(0)
        values = values[~np.isnan(values)]
        infinite = int(np.isinf(values).sum())
        finite = values[np.isfinite(values)]
        if not signed and (finite < 0).any():
            raise UsageError(
                f"{int((finite < 0).sum())} of {finite.size} values are negative, which a scale from 0 would "
                "hide. Draw this map with signed=True, or take its absolute value first."
            )
        top, notes = _top(np.abs(finite), percentile)
        if infinite:
            notes.append(f"{infinite} values are infinite and drawn in the color of the nearest end")
        return cls(
            lo=-top if signed else 0.0,
            hi=top,
            kind="diverging" if signed else "sequential",
            units=units,
            note="; ".join(notes),
            clipped_low=bool((values < -top).any()),
            clipped_high=bool((values > top).any()),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they are saved in the manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> Scale:
        """The scale that :meth:`to_dict` saved."""
        return cls(**saved)


def _top(sizes: NDArray[np.float64], percentile: float | None) -> tuple[float, list[str]]:
    """The upper limit and what has to be said about it."""
    if sizes.size == 0:
        return 1.0, ["the map holds no finite value"]
    largest = float(sizes.max())
    if largest == 0:
        return 1.0, ["all values are 0"]
    # Below the smallest normal float32 the color look-up cannot tell values from zero.
    if percentile is None or percentile == 100:
        return max(largest, 1e-37), []
    top = float(np.percentile(sizes, percentile))
    if top == 0:
        return max(largest, 1e-37), [f"not clipped: the {_ordinal(percentile)} percentile of the absolute values is 0"]
    outside = float((sizes > top).mean())
    if outside == 0:
        return top, []
    note = f"clipped at the {_ordinal(percentile)} percentile: {_percent(outside)} of the values lie outside"
    return top, [f"{note} (largest: {largest:.3g})"]


def _percent(part: float) -> str:
    return f"{100 * part:.2g} %"


def _ordinal(number: float) -> str:
    text = f"{number:g}"
    tens = text[-2:] if "." not in text else ""
    ending = "th" if tens in ("11", "12", "13") else {"1": "st", "2": "nd", "3": "rd"}.get(text[-1], "th")
    return text + ending


def nice_ticks(lo: float, hi: float, count: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten inside ``[lo, hi]``, at most ``count`` where it can be."""
    span = hi - lo
    if not (math.isfinite(span) and span > 0):
        raise UsageError(f"Ticks need finite limits with lo < hi; got {lo!r} and {hi!r}.")
    power = math.floor(math.log10(span / max(count, 1)))
    for exponent in (power, power + 1):
        for factor in (1, 2, 5):
            step = factor * 10.0**exponent
            first, last = math.ceil(lo / step - 1e-9), math.floor(hi / step + 1e-9)
            if last - first + 1 <= max(count, 2):
                return [_multiple(k, factor, exponent) for k in range(first, last + 1)]
    return [lo, hi]


def _multiple(k: int, factor: int, exponent: int) -> float:
    # Through the decimal text, so that 3 * 0.1 is 0.3.
    return float(f"{k * factor}e{exponent}")


def format_value(value: float, *, signed: bool = False, digits: int = 3) -> str:
    """A number for people: ``0.25``, ``+1.5``, ``2e-05`` as ``2e-5``; minus is the real minus sign."""
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    text = f"{size:.{digits}g}"
    if "e" in text or size < 1e-3 or size >= 1e5:
        mantissa, exponent = f"{size:.{digits - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        text = f"{mantissa}e{int(exponent)}".replace("e-", "e\N{MINUS SIGN}")
    sign = "\N{MINUS SIGN}" if value < 0 else "+" if signed else ""
    return sign + text
