"""A small network, a small data set and stores of them; and stores that are made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

from onnxvis.model import Model, load
from support.graphs import Builder

__all__ = ["LAYERS", "PREPROCESSING", "MadeUpPlaces", "MadeUpRow", "MadeUpStore", "small_model", "write_photos"]

LAYERS = ("Relu1", "Relu4")
"""Two layers of the small network: 12 x 16 places of 6 units, and 5 x 7 places of 8 units."""
PREPROCESSING = {
    "resize": "longest",
    "resize_to": (24, 32),
    "pad_value": 60.0,
    "interpolation": "bilinear",
    "scale": 1 / 255,
    "mean": [0.5],
    "std": [0.25],
}
CLASSES = ("plain", "striped", "dotted")


def small_graph(bounded: bool = False) -> onnx.ModelProto:
    """Two convolutions with rectifiers and a max pool for pictures of 24 x 32; the second has no padding.

    Args:
        bounded: the first rectifier has an upper bound, which its strongest places reach.
    """
    b = Builder(["n", 3, 24, 32], seed=5)
    x = b.conv(b.name, 3, 6, 5, signed=True, strides=[2, 2], pads=[2, 2, 2, 2])
    limits = [b.constant(np.float32(v)) for v in (0.0, 1.5)]
    x = b.node("Clip", x, *limits) if bounded else b.node("Relu", x)
    x = b.node("MaxPool", x, kernel_shape=[2, 2], strides=[1, 1])
    x = b.conv(x, 6, 8, 3, signed=True, strides=[2, 2])
    x = b.node("Relu", x)
    flat = b.node("Flatten", b.node("GlobalAveragePool", x))
    return b.model(b.node("Gemm", flat, b.weight(8, 3, signed=True), b.weight(3, signed=True)))


def small_model(folder: Path, bounded: bool = False) -> Model:
    """The small network as a file, with its preprocessing and labels."""
    path = folder / "small.onnx"
    onnx.save(small_graph(bounded), path)
    return load(path, preprocessing=PREPROCESSING, labels=CLASSES)


def write_photos(folder: Path, count: int = 14, seed: int = 0) -> list[Path]:
    """Pictures of several sizes in two folders, with blobs and stripes; of a fixed seed."""
    rng = np.random.default_rng(seed)
    paths = []
    for k in range(count):
        kind = CLASSES[k % 2]
        height, width = int(rng.integers(20, 60)), int(rng.integers(20, 60))
        ys, xs = np.mgrid[:height, :width]
        wave = np.sin(xs * rng.uniform(0.2, 1.2) + ys * rng.uniform(-1, 1)) if k % 2 else np.hypot(ys - 9, xs - 14) / 30
        pixels = 127 + 90 * wave[..., None] * rng.uniform(-1, 1, 3) + rng.normal(0, 12, (height, width, 3))
        path = folder / kind / f"p{k:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
        paths.append(path)
    return sorted(paths)


@dataclass(frozen=True)
class MadeUpRow:
    """A picture of a made-up store."""

    id: int
    path: str = ""
    sha256: str = ""
    width: int = 32
    height: int = 24
    error: str = ""
    label: str | None = None
    top: tuple[tuple[int, str, float], ...] = ()


@dataclass(frozen=True, eq=False)
class MadeUpPlaces:
    """Places of a made-up layer."""

    values: NDArray[np.float32]
    picture: NDArray[np.int64]
    row: NDArray[np.int64]
    col: NDArray[np.int64]


@dataclass
class MadeUpStore:
    """Answers what it is told."""

    rows: Sequence[MadeUpRow]
    layers: tuple[str, ...] = ()
    embedding_layer: str = "embedding"
    manifest: Mapping[str, Any] = field(default_factory=dict)
    places: Mapping[str, MadeUpPlaces] = field(default_factory=dict)

    def pictures(self) -> Sequence[MadeUpRow]:
        return self.rows

    def top(self, layer: str) -> MadeUpPlaces:
        return self.places[layer]
