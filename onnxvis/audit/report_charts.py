"""The charts of an audit as numbers to draw: a dot with its interval for each method, and mean curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxvis.audit.report_unit import CONTROL
from onnxvis.render.scale import format_value, nice_ticks

__all__ = ["Curve", "CurveChart", "DotChart", "DotRow", "Tick", "curve_chart", "dot_chart"]

_LEFT, _RIGHT = 0.0, 300.0
_PLOT_W, _PLOT_H = 300.0, 170.0


@dataclass(frozen=True)
class Tick:
    """A place on an axis, in drawing units, and its label."""

    at: float
    label: str


@dataclass(frozen=True)
class DotRow:
    """A method: where its mean and interval lie, in drawing units."""

    method: str
    control: bool
    mean: float | None
    low: float | None
    high: float | None
    text: str
    missing: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class DotChart:
    """One metric with a row for each method; ``zero`` is where 0 lies, if it is in sight."""

    rows: Sequence[DotRow]
    ticks: Sequence[Tick]
    zero: float | None


@dataclass(frozen=True)
class Curve:
    """A line through ``points`` (SVG notation) with the method's name; ``number`` counts from 0."""

    method: str
    control: bool
    number: int
    points: str
    text: str


@dataclass(frozen=True)
class CurveChart:
    """Mean curves of one metric over the part of the pixels, 300 x 170 units."""

    curves: Sequence[Curve]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]


def dot_chart(metric: Mapping[str, Any], titles: Mapping[str, str]) -> DotChart | None:
    """The chart of one metric, ``None`` where no method has a value."""
    rows = metric["methods"]
    ends = [row[k] for row in rows for k in ("mean", "low", "high") if row[k] is not None]
    if not ends:
        return None
    low, high = min(ends), max(ends)
    if 0 < low < 0.6 * high or (low >= 0 and metric["units"] == "rate"):
        low = 0.0
    span = (high - low) or abs(high) or 1.0
    low, high = low - 0.04 * span * (low != 0), high + 0.04 * span

    def place(value: float | None) -> float | None:
        return None if value is None else round(_LEFT + (_RIGHT - _LEFT) * (value - low) / (high - low), 1)

    shown = [
        DotRow(
            titles.get(row["method"], row["method"]),
            row["method"] == CONTROL,
            place(row["mean"]),
            place(row["low"]),
            place(row["high"]),
            "no value" if row["mean"] is None else format_value(row["mean"]),
            row["missing"],
        )
        for row in rows
    ]
    ticks = [Tick(place(value) or 0.0, format_value(value)) for value in nice_ticks(low, high, 4)]
    return DotChart(shown, ticks, place(0.0) if low <= 0 <= high else None)


def curve_chart(metric: Mapping[str, Any], titles: Mapping[str, str]) -> CurveChart | None:
    """Mean curves of the methods, ``None`` where the metric has none."""
    rows = [row for row in metric["methods"] if row["curve"]]
    if not rows:
        return None
    values = [float(y) for row in rows for _, y in row["curve"]]
    low, high = min(0.0, *values), max(values)
    high = high if high > low else low + 1.0
    right = max(float(x) for row in rows for x, _ in row["curve"]) or 1.0

    def across(x: float) -> float:
        return round(_PLOT_W * x / right, 1)

    def down(y: float) -> float:
        return round(_PLOT_H * (1 - (y - low) / (high - low)), 1)

    curves = [
        Curve(
            titles.get(row["method"], row["method"]),
            row["method"] == CONTROL,
            number,
            " ".join(f"{across(x)},{down(y)}" for x, y in row["curve"]),
            format_value(row["mean"]) if row["mean"] is not None else "",
        )
        for number, row in enumerate(rows)
    ]
    x_ticks = [Tick(across(x), f"{100 * x:.0f} %") for x in (0.0, right / 2, right)]
    return CurveChart(curves, x_ticks, [Tick(down(y), format_value(y)) for y in nice_ticks(low, high, 4)])
