"""Maps for the page: small, exact enough to be looked at, and colored in the browser.

A map is brought to at most some pixels a side and 8 bits a value. Levels are spaced by the square root of the size,
so that a map with a few large values keeps its small ones: level ``q`` of a signed map stands for
``sign(s) * s**2 * most`` with ``s = (q - 128) / 127``; of an unsigned one for ``s**2 * most`` with
``s = (q - 1) / 254``. Level 0 stands for no value. Rows are stored as differences from the pixel before, deflated.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxvis.errors import OutputError
from onnxvis.preprocessing import Geometry

__all__ = ["entry_maps", "levels", "packed", "read_heat", "shared_limits", "shrunk", "values_of"]


def read_heat(file: Path, reduction: str) -> np.ndarray:
    """The drawn map ``(H, W)`` float32 of a saved ``attribution.npy``, channels reduced as it says.

    Raises:
        OutputError: the file is missing or damaged.
    """
    try:
        values = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise OutputError(
            f"the map {file} cannot be read ({error}). Run the audit again into another folder."
        ) from error
    if values.ndim == 2:
        return np.asarray(values)
    if reduction == "max-abs":
        return np.asarray(np.abs(values).max(axis=0))
    return np.asarray(values.sum(axis=0, dtype=np.float64).astype(np.float32))


def shrunk(heat: np.ndarray, geometry: Geometry, side: int) -> np.ndarray:
    """The part of a map that shows the picture, at most ``side`` pixels long: means of whole blocks."""
    x0, y0, x1, y1 = geometry.content_box
    content = heat[y0:y1, x0:x1].astype(np.float64)
    factor = -(-max(content.shape) // side)
    if factor <= 1:
        return content
    rows, columns = (np.arange(0, n, factor) for n in content.shape)
    sums = np.add.reduceat(np.add.reduceat(content, rows, axis=0), columns, axis=1)
    counts = np.minimum(factor, content.shape[0] - rows)[:, None] * np.minimum(factor, content.shape[1] - columns)
    return np.asarray(sums / counts)


def levels(values: np.ndarray, signed: bool) -> tuple[np.ndarray, float]:
    """A map as levels 0 to 255, uint8, and the size of its largest value."""
    finite = np.isfinite(values)
    most = float(np.abs(values[finite]).max()) if finite.any() else 0.0
    size = np.sqrt(np.clip(np.abs(np.nan_to_num(values, nan=0.0)) / (most or 1.0), 0.0, 1.0))
    found = 128 + np.rint(127 * size) * np.sign(np.nan_to_num(values)) if signed else 1 + np.rint(254 * size)
    return np.where(np.isnan(values), 0, found).astype(np.uint8), most


def values_of(found: np.ndarray, most: float, signed: bool) -> np.ndarray:
    """What levels stand for: the inverse of :func:`levels`, up to half a level."""
    s = (found.astype(np.float64) - 128) / 127 if signed else (found.astype(np.float64) - 1) / 254
    return np.where(found == 0, np.nan, np.sign(s) * s * s * most)


def packed(found: np.ndarray) -> str:
    """Levels ``(h, w)`` as text: differences along the rows, deflated, base64."""
    before = np.zeros_like(found)
    before[:, 1:] = found[:, :-1]
    return base64.b64encode(zlib.compress((found - before).tobytes(), 9)).decode("ascii")


def entry_maps(entry: Mapping[str, Any], folder: Path, side: int) -> list[dict[str, Any]]:
    """The maps of one picture as the page's script takes them; "content" holds the values that were packed.

    Raises:
        OutputError: a map is missing or damaged.
    """
    geometry = Geometry.from_dict(entry["geometry"])
    found = []
    for one in entry["maps"]:
        small = shrunk(read_heat(folder / one["folder"] / "attribution.npy", one["reduction"]), geometry, side)
        quantized, most = levels(small, one["drawn_signed"])
        height, width = small.shape
        found.append({"w": width, "h": height, "most": most, "data": packed(quantized), "content": small})
    return found


def shared_limits(entries: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> list[dict[str, Any]]:
    """For each method one scale for all pictures: the largest of the maps' own limits, and the units.

    A method whose maps have different units on different pictures has none (``limit`` is ``None``).
    """
    found = []
    for method in methods:
        maps = [m for entry in entries for m in entry["maps"] if m["method"] == method]
        units = sorted({m["units"] for m in maps})
        limit = max((m["scale"]["hi"] for m in maps), default=None) if len(units) == 1 else None
        found.append({"limit": limit, "units": units[0] if units else ""})
    return found
