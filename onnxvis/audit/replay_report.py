"""Do the parts of a report agree with each other? The page, the data, and the manifests of the maps.

A map is repeated from its manifest. What the report says beyond that is derived: figures over pictures from those of
each picture, the page from the data. All of it is derived again here, so that a figure that somebody changed by hand
does not go with maps that agree.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxvis._version import __version__
from onnxvis.audit.metrics import measure
from onnxvis.audit.objects import Place
from onnxvis.audit.replay_compare import Difference, differing, plain
from onnxvis.audit.report_data import agreement_table, metric_table
from onnxvis.audit.report_page import page_pieces
from onnxvis.audit.report_state import FinishedFolder
from onnxvis.errors import OnnxvisError

if TYPE_CHECKING:
    from onnxvis.explanation import Explanation
    from onnxvis.model import Model

__all__ = ["compare_metrics", "compare_report"]

_SHARED = ("target", "parameters")
_SHOWN = 3
# Where the last bits of a map differ, pixels that are all but equal change places in its order.
_METRIC, _METRIC_LEAST = 0.02, 0.005
_PACKED = re.compile(rb'"data":"([A-Za-z0-9+/=]+)"')
_LARGEST_MAP = 256 * 256 + 1


def compare_report(folder: Path, audit: Mapping[str, Any]) -> list[Difference]:
    """What in a report does not follow from its own data.

    Args:
        folder: of the report.
        audit: its ``audit.json``.
    """
    found: list[Difference] = []
    for part in (_manifests, _figures, _page):
        try:
            found += part(folder, audit)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OnnxvisError) as error:
            text = f"audit.json is damaged or of another version: {type(error).__name__}: {error}"
            found.append(Difference("report", text))
    return list(dict.fromkeys(found))


def compare_metrics(path: Path, audit: Mapping[str, Any], model: Model, explanation: Explanation) -> list[Difference]:
    """The metrics of one map measured again.

    Args:
        path: of its manifest.
        audit: the data of the report.
        model: the recorded model.
        explanation: the map, repeated.
    """
    place = path.parent.as_posix()
    for entry in audit["entries"]:
        for one in entry["maps"]:
            if not place.endswith(one["folder"]):
                continue
            number = one["target"]["number"]
            for row in entry["metrics"]:
                if row["method"] == one["method"] and row["target"] == number:
                    return _measured_again(entry, row["values"], audit["settings"], model, explanation)
    return []


def _measured_again(
    entry: Mapping[str, Any],
    values: Mapping[str, Any],
    settings: Mapping[str, Any],
    model: Model,
    explanation: Explanation,
) -> list[Difference]:
    objects = entry.get("objects")
    where = None
    if objects is not None:
        boxes = tuple((float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in objects["boxes"])
        place = Place(boxes) if objects["mask"] is None else Place(mask=Path(objects["mask"]))
        if objects["mask"] is not None and place.digest() != objects["sha256"]:
            return [Difference("metrics", f"the mask {objects['mask']} is not the recorded one")]
        where = place.values()
    found = measure(
        model, [explanation], list(values), masks=None if where is None else [where],
        batch_size=settings["batch_size"], seed=settings["seed"], **settings["metric_options"],
    )[0]  # fmt: skip
    then = {name: one["value"] for name, one in values.items()}
    now = {name: one.value for name, one in found.items()}
    names = list(differing(then, now, "", _METRIC, _METRIC_LEAST))
    return [Difference("metrics", f"measured again they are others: {_list(names)}")] if names else []


def _manifests(folder: Path, audit: Mapping[str, Any]) -> Iterator[Difference]:
    """What audit.json says of a map and of its picture, against the manifest; a missing manifest is another matter."""
    for entry in audit["entries"]:
        for one in entry["maps"]:
            try:
                manifest = json.loads((folder / one["folder"] / "manifest.json").read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            stated = {name: one[name] for name in (*_SHARED, *manifest["map"]) if name in one}
            stated |= {"prediction": entry["prediction"], "geometry": entry["geometry"], "verified": one["verified"]}
            stated |= {"picture": {"sha256": entry["sha256"], "name": entry["name"]}}
            stated |= {"method": one["method"], "layer": one["layer"], "version": audit["settings"]["onnxvis"]}
            parity, layer = manifest["parity"], manifest["layer"]
            there = {**manifest, **manifest["map"], "verified": parity is None or parity["passed"]}
            there |= {"version": manifest["provenance"]["versions"]["onnxvis"]}
            there |= {"target": {"number": one["target"]["number"], **manifest["target"]}}
            names = list(differing(stated, {**there, "layer": layer["tensor"] if layer else None}))
            if names:
                where = f"{one['method']} on {entry['name']}"
                yield Difference("report", f"audit.json and the manifest of {where} differ: {_list(names)}")


def _figures(_: Path, audit: Mapping[str, Any]) -> Iterator[Difference]:
    """Figures over all pictures, against those of each."""
    entries = audit["entries"]
    names = [method["name"] for method in audit["methods"]]
    metrics = [metric["name"] for metric in audit["metrics"]]
    derived = {
        "metrics": metric_table(entries, names, metrics),
        "agreement": agreement_table(entries, names),
    }
    for name, now in derived.items():
        differences = list(differing(audit[name], plain(now)))
        if differences:
            yield Difference("report", f"{name} do not follow from those of each picture: {_list(differences)}")
    yield from _accuracy(audit)


def _accuracy(audit: Mapping[str, Any]) -> Iterator[Difference]:
    """Right answers of the shown pictures, where these are all that were labelled."""
    stated = audit["accuracy"]
    rows = [entry for entry in audit["entries"] if entry["truth"] is not None]
    if stated is None or len(rows) != stated["labelled"]:
        return
    hits = [entry["prediction"]["top"][0]["index"] == entry["truth"]["index"] for entry in rows]
    if not math.isclose(stated["top1"]["mean"], sum(hits) / len(hits), abs_tol=1e-9):
        text = f"{stated['top1']['mean']:.4g} of the answers are stated to be right, {sum(hits) / len(hits):.4g} are"
        yield Difference("report", text)


def _page(folder: Path, audit: Mapping[str, Any]) -> Iterator[Difference]:
    """The page, made again from audit.json; another version of onnxvis words it in another way."""
    if audit["settings"]["onnxvis"] != __version__:
        return
    try:
        stored = (folder / "index.html").read_bytes()
    except OSError as error:
        yield Difference("report", f"index.html cannot be read: {error.strerror or error}")
        return
    now = "".join(page_pieces(FinishedFolder(folder), audit)).encode("utf-8", "replace")
    if now != stored and _unpacked(now) != _unpacked(stored):
        text = "index.html is not the page that audit.json and the maps give: one of them was changed"
        yield Difference("report", text)


def _unpacked(page: bytes) -> bytes:
    """The page with what its maps hold in place of how they are packed, which differs between builds of zlib."""

    def content(found: re.Match[bytes]) -> bytes:
        try:
            levels = zlib.decompressobj().decompress(base64.b64decode(found[1]), _LARGEST_MAP)
        except (ValueError, zlib.error):
            return found[0]
        return hashlib.sha256(levels).digest()

    return _PACKED.sub(content, page)


def _list(names: Sequence[str]) -> str:
    return "; ".join(names[:_SHOWN]) + (f"; and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
