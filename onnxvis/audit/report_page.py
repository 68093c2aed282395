"""The page of an audit: one HTML file that loads nothing and runs only its own script, named by its hash.

Every string from outside (labels, file names, metadata) is text and stays text: it is escaped in the page, and in the
data blocks the script reads it is JSON without any ``<``. The page is written picture by picture, so that its size
does not have to fit into memory.
"""

from __future__ import annotations

import base64
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxvis._version import __version__
from onnxvis.audit.report_charts import curve_chart, dot_chart
from onnxvis.audit.report_maps import entry_maps, shared_limits
from onnxvis.audit.report_state import FinishedFolder
from onnxvis.audit.report_unit import CONTROL, TRUTH
from onnxvis.audit.report_words import (
    OBJECTS,
    TESTS,
    correlation,
    counted,
    facts,
    findings,
    interval,
    percent,
    tiles,
    where,
)
from onnxvis.errors import OutputError
from onnxvis.render.colormap import DIVERGING, SEQUENTIAL
from onnxvis.render.html import house_style, html_environment, json_block, own_code, packaged, readable
from onnxvis.render.scale import format_value

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup

__all__ = ["PAGE_BYTES", "page_pieces", "write_page"]

PAGE_BYTES = 40_000_000
"""About the most that pictures and maps may take on the page; maps are shown smaller where they would take more."""

_HERE = "onnxvis.audit"
_SIDES = (256, 192, 128, 96, 64)
_SAMPLE = 6
_CHANCE = "Noise (chance)"
_PLACES = "Box or mask"


@dataclass(frozen=True, eq=False)
class _Card:
    """A picture as the template takes it."""

    number: int
    entry: Mapping[str, Any]
    right: bool | None
    confidence: float
    photo: str
    box: tuple[float, float, float, float]
    maps: list[dict[str, Any]]
    data: Markup


def write_page(folder: FinishedFolder, data: Mapping[str, Any]) -> Path:
    """Write ``index.html`` of an audit, whole or not at all.

    Args:
        folder: of the audit, with its maps.
        data: what ``audit.json`` holds.

    Raises:
        OutputError: a map is missing, or the page cannot be written.
    """
    target = folder.out / "index.html"
    partial: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=".index.", dir=folder.out)
        partial = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace", newline="\n") as stream:
            for piece in page_pieces(folder, data):
                stream.write(piece)
            stream.flush()
            os.fsync(stream.fileno())
        partial.chmod(0o644)
        partial.replace(target)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}. What is finished is kept.") from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)
    return target


def page_pieces(folder: FinishedFolder, data: Mapping[str, Any]) -> Iterator[str]:
    """The page in pieces, as it is written; the same data give the same page.

    Raises:
        OutputError: a map is missing.
    """
    return _environment().get_template("report_page.html").generate(_values(folder, data))


def _values(folder: FinishedFolder, data: Mapping[str, Any]) -> dict[str, Any]:
    titles = {m["name"]: m["title"] for m in data["methods"]} | {CONTROL: _CHANCE, OBJECTS: _PLACES}
    side = _map_side(folder, data)
    return {
        **own_code(house_style("report_page.css", _HERE), packaged("report_page.js", _HERE)),
        "title": f"Audit of {data['model']['name']}",
        "data": data,
        "titles": titles,
        "tiles": tiles(data),
        "findings": findings(data),
        "tests": TESTS,
        "facts": facts(data),
        "charts": [(m, dot_chart(m, titles), curve_chart(m, titles)) for m in data["metrics"]],
        "side": side,
        "cards": lambda: _cards(folder, data, side),
        "page_data": json_block(_page_data(data, titles)),
        "sorts": _sorts(data, titles),
        "measures": _measures(data, titles),
        "made": f"onnxvis {__version__}, {data['times']['started']}, {data['times']['seconds']:g} s in the last run",
    }


def _map_side(folder: FinishedFolder, data: Mapping[str, Any]) -> int:
    """The largest side at which the maps of all pictures fit, judged by the first ones."""
    entries = data["entries"]
    sample = entries[:_SAMPLE]
    if not sample:
        return _SIDES[0]
    pictures = sum(len(folder.picture(e["path"])) for e in sample) * 4 / 3
    for side in _SIDES:
        maps = sum(len(m["data"]) for e in sample for m in entry_maps(e, folder.out, side))
        if (maps + pictures) * len(entries) / len(sample) <= PAGE_BYTES:
            return side
    return _SIDES[-1]


def _cards(folder: FinishedFolder, data: Mapping[str, Any], side: int) -> Iterator[_Card]:
    order = {m["name"]: k for k, m in enumerate(data["methods"])}
    for number, entry in enumerate(data["entries"]):
        x0, y0, x1, y1 = _visible(entry)
        maps = []
        for stored, small in zip(entry["maps"], entry_maps(entry, folder.out, side), strict=True):
            scale = stored["scale"]
            maps.append(
                {
                    "m": order[stored["method"]],
                    "t": stored["target"]["number"],
                    "name": readable(stored["target"]["name"]),
                    "score": format_value(stored["target"]["score"], signed=True),
                    "signed": stored["drawn_signed"],
                    "limit": scale["hi"],
                    "units": readable(stored["units"]),
                    "about": where(small.pop("content")),
                    **small,
                }
            )
        first = entry["prediction"]["top"][0]
        yield _Card(
            number,
            entry,
            None if entry["truth"] is None else entry["truth"]["index"] == first["index"],
            float(first["logit"] if first["probability"] is None else first["probability"]),
            "data:image/webp;base64," + base64.b64encode(folder.picture(entry["path"])).decode("ascii"),
            (x0, y0, x1, y1),
            maps,
            json_block({"box": [x0, y0, x1, y1], "maps": maps}),
        )


def _visible(entry: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """The part of the picture that the model saw, as parts of its width and height."""
    from onnxvis.preprocessing import Geometry

    geometry = Geometry.from_dict(entry["geometry"])
    width, height = geometry.picture_size
    x0, y0, x1, y1 = geometry.visible_box
    return (
        round(max(0.0, x0 / width), 5), round(max(0.0, y0 / height), 5),
        round(min(1.0, x1 / width), 5), round(min(1.0, y1 / height), 5),
    )  # fmt: skip


def _page_data(data: Mapping[str, Any], titles: Mapping[str, str]) -> dict[str, Any]:
    """What the script needs of all pictures: names to search, numbers to sort by, colors, shared limits."""
    rows = []
    for entry in data["entries"]:
        first = entry["prediction"]["top"][0]
        truth = entry["truth"]
        words = [entry["name"], *(c["label"] for c in entry["prediction"]["top"]), truth["label"] if truth else ""]
        pairs = entry["agreement"]["matrix"] if entry["agreement"] else []
        others = [v for i, row in enumerate(pairs) for v in row[i + 1 :] if v is not None]
        rows.append(
            {
                "id": entry["id"],
                "words": readable(" ".join(words), 1000).lower(),
                "confidence": first["logit"] if first["probability"] is None else first["probability"],
                "right": None if truth is None else truth["index"] == first["index"],
                "problems": len(entry["problems"]),
                "agreement": sum(others) / len(others) if others else None,
                "metrics": {
                    f"{row['method']} {name}": value["value"]
                    for row in entry["metrics"]
                    if row["target"] == 0
                    for name, value in row["values"].items()
                },
            }
        )
    colors = {m.name: base64.b64encode(m.lut.tobytes()).decode("ascii") for m in (DIVERGING, SEQUENTIAL)}
    methods = [{"name": m["name"], "title": m["title"]} for m in data["methods"]]
    shared = shared_limits(data["entries"], [m["name"] for m in data["methods"]])
    return {"methods": methods, "targets": _targets(data), "shared": shared, "colors": colors, "entries": rows}


def _targets(data: Mapping[str, Any]) -> list[str]:
    """What the first, second ... map of a picture explains, in words."""
    names: list[str] = []
    for spec in data["settings"]["targets"]:
        several = re.fullmatch(r"top-?(\d+)", str(spec), re.IGNORECASE)
        if spec == TRUTH:
            names.append("the labelled class, where the answer is another")
        elif several:
            names += ["the answer", *(f"answer {k}" for k in range(2, int(several[1]) + 1))]
        else:
            names.append(readable(spec))
    most = max((m["target"]["number"] + 1 for e in data["entries"] for m in e["maps"]), default=0)
    return names[:most]


def _sorts(data: Mapping[str, Any], titles: Mapping[str, str]) -> list[tuple[str, str]]:
    """Orders that the page offers: a key for the script ("-" in front: the largest first), and words."""
    found = [
        ("", "as given"),
        ("confidence", "confidence, lowest first"),
        ("-confidence", "confidence, highest first"),
    ]
    if data["agreement"] is not None:
        found.append(("agreement", "methods agree least"))
    for metric in data["metrics"]:
        for method in metric["methods"]:
            if method["method"] != CONTROL and metric["better"]:
                sign = "-" if metric["better"] == "lower" else ""
                words = f"{metric['title']} of {titles[method['method']]}, worst first"
                found.append((f"{sign}metrics.{method['method']} {metric['name']}", words))
    return found


def _measures(data: Mapping[str, Any], titles: Mapping[str, str]) -> list[tuple[str, str]]:
    """Numbers of a picture that the page can be narrowed by: a key for the script, and words."""
    found = [("confidence", "confidence")]
    if data["agreement"] is not None:
        found.append(("agreement", "agreement of the methods"))
    return found + [
        (f"metrics.{row['method']} {metric['name']}", f"{metric['title']} of {titles[row['method']]}")
        for metric in data["metrics"]
        for row in metric["methods"]
    ]


def _environment() -> jinja2.Environment:
    return html_environment(
        _HERE, percent=percent, value=format_value, interval=interval, counted=counted, correlation=correlation
    )
