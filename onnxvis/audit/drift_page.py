"""The page of a comparison: the two models, the figures, and the worst pictures with both maps on one scale.

One HTML file that loads nothing and runs only its own script, named by its hash; every string is text.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxvis.audit.drift import Comparison, PictureDrift
from onnxvis.audit.drift_pairs import Pair, explain_pairs, usable_methods
from onnxvis.explaining import Settings
from onnxvis.explanation import Explanation
from onnxvis.methods import get_method
from onnxvis.progress import Progress, silent
from onnxvis.render.html import house_style, html_environment, own_code, packaged
from onnxvis.render.overlay import heat_layer
from onnxvis.render.png import data_uri
from onnxvis.render.scale import format_value

if TYPE_CHECKING:
    from PIL import Image

    from onnxvis.model import Model

__all__ = ["DrawnPicture", "build_drift_page", "draw_worst", "verdict"]

_PIXELS = 288 * 288
_STYLE = """
.verdict { font-size: 17px; margin: 0 0 12px; padding: 10px 14px; border-left: 4px solid; background: var(--card); }
.verdict.good { border-color: var(--accent); }
.verdict.bad { border-color: var(--warn); color: var(--warn); background: var(--warn-paper); }
header .table { margin-top: 24px; }
.sides th, .summary th { white-space: nowrap; }
.sides td { width: 46%; }
.differs td, .differs th { font-weight: 600; }
.flip { color: var(--warn); font-size: 14px; margin-left: 8px; }
.pair { grid-template-columns: repeat(3, minmax(0, 1fr)); }
.pair > .cell:first-child:nth-last-child(2) { grid-column-start: 2; }
.limits { margin: 6px 0 0; font-size: 12px; color: var(--soft); }
.all td, .all th { font-size: 13px; padding-right: 10px; }
@media (max-width: 760px) {
  .pair { grid-template-columns: minmax(0, 1fr); }
  .pair > .cell:first-child:nth-last-child(2) { grid-column-start: 1; }
}
"""


@dataclass(frozen=True)
class DrawnPicture:
    """One picture's part of the page: finished drawings only."""

    name: str
    flipped: bool
    line: str
    width: int
    height: int
    uri: str
    groups: list[dict[str, Any]]


def draw_worst(
    a: Model,
    b: Model,
    comparison: Comparison,
    count: int,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Iterator[DrawnPicture]:
    """Explain the worst pictures again and draw them, one after another.

    Args:
        a: the first model.
        b: the second.
        comparison: of the two.
        count: how many pictures.
        seed: as for the comparison.
        progress: called with (stage, done, total).
    """
    report = progress or silent
    requests, _ = usable_methods(a, b, comparison.methods)
    chosen = [row for row in comparison.pictures if row.path][:count]
    settings = Settings(1, seed=seed, allow_unverified=True)
    for number, row in enumerate(chosen):
        report("worst pictures", number, len(chosen))
        pair = Pair.prepare(a, b, row.path)
        for _, result in explain_pairs(a, b, [pair], requests, settings):
            if not isinstance(result, str):
                yield _drawn(row, pair, result[1])
    report("worst pictures", len(chosen), len(chosen))


def _drawn(row: PictureDrift, pair: Pair, maps: Sequence[tuple[Explanation, Explanation] | str]) -> DrawnPicture:
    from PIL import Image

    image = None
    groups = []
    for drift, found in zip(row.maps, maps, strict=True):
        numbers = f"rank correlation {_figure(drift.rank)}, SSIM {_figure(drift.ssim)}"
        cells: list[dict[str, str]] = []
        if not isinstance(found, str):
            image = found[0].drawable(_PIXELS)[0]
            cells = _cells(found)
        groups.append({"title": get_method(drift.method).title, "numbers": numbers, "note": drift.note, "cells": cells})
    if image is None:
        image = pair.a.display()
        groups = groups or [{"title": "Picture", "numbers": "", "note": "", "cells": []}]
    height, width = image.shape[:2]
    return DrawnPicture(
        row.name, row.flipped, _line(row), width, height, _photo(Image.fromarray(image)), groups
    )  # fmt: skip


def _photo(image: Image.Image) -> str:
    """The picture as a JPEG: a photo as PNG would be most of the page."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _cells(found: tuple[Explanation, Explanation]) -> list[dict[str, str]]:
    a, b = found
    same = a.units == b.units
    shared = a.scale([b]) if same else None
    cells = []
    for side, explanation in zip("AB", found, strict=True):
        scale = shared or explanation.scale()
        limits = f"{format_value(scale.lo)} to {format_value(scale.hi)}, {scale.units}" + (
            "" if same else " (own scale)"
        )
        layer = heat_layer(explanation.drawable(_PIXELS)[1], scale)
        title = f"{side}: {explanation.target}"
        score = f"{explanation.score:+.3f}"
        cells.append({"title": title, "score": score, "uri": data_uri(layer), "limits": limits})
    return cells


def _line(row: PictureDrift) -> str:
    (_, first), (_, second) = row.top1
    chances = [_percent(p) for p in row.probability]
    answer = f"A answers {first!r}, B {second!r}" if row.flipped else f"both answer {first!r}"
    return (
        f"{answer}; A's class has {chances[0]} in A and {chances[1]} in B; {100 * row.top5_overlap:.0f} % of the five "
        f"strongest classes are common; logits differ by at most {row.logit_max:.3g} ({_percent(row.logit_relative)})"
    )


def verdict(comparison: Comparison) -> str:
    """One sentence on the whole comparison."""
    rows = comparison.pictures
    if not rows:
        return "No picture could be compared."
    summary = comparison.summary()
    flips = summary["flips"]
    parts = [f"The answer flips on {comparison.flips} of {len(rows)} pictures"]
    if flips.mean is not None and flips.low is not None and flips.high is not None:
        parts[0] += f" ({_percent(flips.mean)}; 95 % interval {_percent(flips.low)} to {_percent(flips.high)})"
    largest = max(row.logit_relative for row in rows)
    parts.append(f"logits differ by at most {100 * largest:.3g} % of the largest")
    for method in comparison.methods:
        ranks = [m.rank for row in rows for m in row.maps if m.method == method and m.rank is not None]
        if ranks:
            mean = sum(ranks) / len(ranks)
            parts.append(f"{method} maps correlate by {mean:.3f} on average and {min(ranks):.3f} at worst")
    return "; ".join(parts) + "."


def build_drift_page(
    comparison: Comparison, pictures: Sequence[DrawnPicture], broken: Sequence[str] = (), made: str = ""
) -> str:
    """The page as one string of HTML, to be written as UTF-8.

    Args:
        comparison: what was found.
        pictures: the worst ones, drawn.
        broken: which limits were broken, one sentence each.
        made: when and with what.
    """
    backgrounds = [f".picture-{k} {{ background-image: url({p.uri}); }}" for k, p in enumerate(pictures)]
    page = html_environment("onnxvis.audit").get_template("drift_page.html")
    return page.render(
        **own_code("\n".join([house_style(), _STYLE, *backgrounds]), packaged("page.js")),
        title=f"{comparison.a['name']} (A) and {comparison.b['name']} (B)",
        verdict=verdict(comparison),
        broken=list(broken),
        sides=_sides(comparison),
        summary=_summary(comparison),
        count=len(comparison.pictures),
        notes=comparison.notes,
        failures=comparison.failures,
        methods=comparison.methods,
        rows=[_row(row) for row in comparison.pictures],
        pictures=pictures,
        made=made,
    )


def _sides(comparison: Comparison) -> list[tuple[str, str, str]]:
    a, b = comparison.a, comparison.b

    def pair(name: str, key: str) -> tuple[str, str, str]:
        values = [side[key] for side in (a, b)]
        texts = [", ".join(map(str, v)) if isinstance(v, list) else str(v if v is not None else "none") for v in values]
        return name, texts[0], texts[1]

    return [
        pair("File", "path"),
        pair("SHA-256", "sha256"),
        pair("Producer", "producer"),
        pair("Opset", "opset"),
        pair("Precision", "precision"),
        pair("Input", "inputs"),
        pair("Preprocessing", "preprocessing_summary"),
        pair("Compared output", "explained"),
        pair("Layer of maps", "layer"),
        pair("Provider", "provider"),
        pair("onnxruntime", "onnxruntime"),
    ]


def _summary(comparison: Comparison) -> list[dict[str, str]]:
    rows = []
    for name, found in comparison.summary().items():
        values = {key: _figure(getattr(found, key)) for key in ("mean", "low", "high")}
        rows.append({"name": name, "method": found.method, **values})
    return rows


def _row(row: PictureDrift) -> dict[str, Any]:
    return {
        "name": row.name,
        "flipped": row.flipped,
        "a": row.top1[0][1],
        "b": row.top1[1][1],
        "pa": _percent(row.probability[0]),
        "pb": _percent(row.probability[1]),
        "top5": f"{100 * row.top5_overlap:.0f} %",
        "logits": f"{100 * row.logit_relative:.2f} %",
        "maps": [_figure(m.rank) for m in row.maps],
    }


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
