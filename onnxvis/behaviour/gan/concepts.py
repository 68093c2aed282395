"""What is looked for in generated pictures, and the built-in answers: colors and places.

A concept is whatever a *segmenter* marks. The built-in concepts are no segmentation of objects and do not pretend to
be: each is a convex region of RGB (an intersection of half-spaces), or a part of the picture, or both. "skin-colored"
marks every pixel of a certain color, wood and sand included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from onnxvis.errors import UsageError, did_you_mean

__all__ = ["BUILT_IN", "ColorConcept", "ColorSegmenter", "Segmenter", "built_in", "color_clusters"]

_LUMA = np.array([0.299, 0.587, 0.114])
_CB = np.array([-0.168736, -0.331264, 0.5])
_CR = np.array([0.5, -0.418688, -0.081312])
_SOFTNESS = 8.0
_ROUNDS = 25


class Segmenter(Protocol):
    """Marks concepts in pictures."""

    @property
    def concepts(self) -> tuple[str, ...]:
        """Their names, K of them."""
        ...

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """Pictures ``(N, H, W, 3) uint8`` to masks ``(N, K, H, W) bool``; concepts may overlap."""
        ...

    def describe(self) -> dict[str, Any]:
        """Plain data for manifests: what it is and what each concept means."""
        ...


@dataclass(frozen=True, eq=False)
class ColorConcept:
    """A convex region of colors in a part of the picture.

    Attributes:
        name: one word.
        meaning: what is marked, in words.
        planes: ``(J, 3)``: a color c (0..255) is inside where ``planes @ c + offsets > 0`` in every row; the rows are
            scaled so that the value is a distance in gray levels or in RGB.
        offsets: ``(J,)``.
        part: (top, left, bottom, right) as fractions of the picture.
    """

    name: str
    meaning: str
    planes: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    offsets: np.ndarray = field(default_factory=lambda: np.zeros(0))
    part: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)

    def place(self, height: int, width: int) -> np.ndarray:
        """``(H, W) bool``: pixels whose center lies in the part."""
        top, left, bottom, right = self.part
        rows, cols = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
        return ((rows >= top) & (rows < bottom))[:, None] & ((cols >= left) & (cols < right))[None]

    def mask(self, pictures: np.ndarray) -> np.ndarray:
        """Pictures ``(N, H, W, 3)`` to ``(N, H, W) bool``."""
        inside = np.broadcast_to(self.place(*pictures.shape[1:3]), pictures.shape[:3]).copy()
        colors = pictures.astype(np.float32)
        for plane, offset in zip(self.planes.astype(np.float32), self.offsets.astype(np.float32), strict=True):
            inside &= colors @ plane + offset > 0
        return inside

    def soft(self, colors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A differentiable form, the product of the sigmoids of the distances over 8 gray levels, and its derivative.

        Args:
            colors: ``(N, H, W, 3)`` float, 0..255, not rounded.

        Returns:
            ``(N, H, W)`` in 0..1, and its derivative by each color value ``(N, H, W, 3)``; float32.
        """
        place = self.place(*colors.shape[1:3]).astype(np.float32)
        gates = [
            _sigmoid((colors @ plane.astype(np.float32) + np.float32(offset)) / np.float32(_SOFTNESS))
            for plane, offset in zip(self.planes, self.offsets, strict=True)
        ]
        score = np.broadcast_to(place, colors.shape[:3]).astype(np.float32)
        for gate in gates:
            score = score * gate
        slope = np.zeros(colors.shape, np.float32)
        for plane, gate in zip(self.planes, gates, strict=True):
            slope += ((1 - gate) * score / np.float32(_SOFTNESS))[..., None] * plane.astype(np.float32)
        return score, slope


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -60, 60))), np.float32)


@dataclass(frozen=True, eq=False)
class ColorSegmenter:
    """Built-in concepts as a segmenter.

    Attributes:
        parts: the concepts.
        origin: where they come from, one sentence.
    """

    parts: tuple[ColorConcept, ...]
    origin: str

    @property
    def concepts(self) -> tuple[str, ...]:
        """Names of the concepts."""
        return tuple(part.name for part in self.parts)

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """Masks ``(N, K, H, W) bool``."""
        return np.stack([part.mask(pictures) for part in self.parts], axis=1)

    def soft(self, concept: str, colors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The differentiable form of one concept; see :meth:`ColorConcept.soft`."""
        return self.parts[self.concepts.index(concept)].soft(colors)

    def describe(self) -> dict[str, Any]:
        """What it is, and what each concept means."""
        return {"segmenter": self.origin, "concepts": {part.name: part.meaning for part in self.parts}}


Rows = Sequence[tuple[np.ndarray, float]]
_WHOLE = (0.0, 0.0, 1.0, 1.0)
_MAIN = {"red": (0, 1, 2), "green": (1, 0, 2), "blue": (2, 0, 1)}


def _concept(
    name: str, meaning: str, rows: Rows = (), part: tuple[float, float, float, float] = _WHOLE
) -> ColorConcept:
    planes = np.array([plane for plane, _ in rows], np.float64).reshape(-1, 3)
    return ColorConcept(name, meaning, planes, np.array([offset for _, offset in rows], np.float64), part)


def _more_of(color: str, margin: float) -> Rows:
    main, *others = _MAIN[color]
    unit = np.eye(3)
    return [(unit[main] - unit[other], -margin) for other in others]


_DARK: Rows = [(-_LUMA, 40.0)]
_SKIN: Rows = [(_CB, 51.0), (-_CB, -1.0), (_CR, -5.0), (-_CR, 45.0), (_LUMA, -40.0)]
_BUILT_IN = (
    _concept("dark", "luma (BT.601) below 40 of 255: shadows, dark hair, black ground", _DARK),
    _concept("bright", "luma (BT.601) above 200 of 255: bright skin, sky, highlights", [(_LUMA, -200.0)]),
    _concept(
        "skin-colored",
        "77 < Cb < 127 and 133 < Cr < 173 (Chai & Ngan 1999) and luma above 40: anything of such a color",
        _SKIN,
    ),
    _concept("green", "G above R and above B by more than 12", _more_of("green", 12)),
    _concept("blue", "B above R and above G by more than 12", _more_of("blue", 12)),
    _concept("red", "R above G and above B by more than 60", _more_of("red", 60)),
    _concept("dark-top", "dark, in the upper half: in portraits mostly hair", _DARK, (0.0, 0.0, 0.5, 1.0)),
    _concept("top", "the upper half of the picture", part=(0.0, 0.0, 0.5, 1.0)),
    _concept("bottom", "the lower half", part=(0.5, 0.0, 1.0, 1.0)),
    _concept("left", "the left half", part=(0.0, 0.0, 1.0, 0.5)),
    _concept("right", "the right half", part=(0.0, 0.5, 1.0, 1.0)),
    _concept("center", "the middle half in both directions", part=(0.25, 0.25, 0.75, 0.75)),
)
BUILT_IN: Mapping[str, ColorConcept] = {concept.name: concept for concept in _BUILT_IN}
"""Concepts that need no segmenter, by name."""


def built_in(names: Sequence[str] = ()) -> ColorSegmenter:
    """The built-in concepts of these names; all of them without names.

    Raises:
        UsageError: there is none of that name.
    """
    unknown = [name for name in names if name not in BUILT_IN]
    if unknown:
        raise UsageError(
            f"there is no built-in concept {unknown[0]!r}; there are {', '.join(BUILT_IN)}, and clusters of colors "
            f"(--clusters).{did_you_mean(unknown[0], BUILT_IN)}"
        )
    chosen = tuple(BUILT_IN[name] for name in dict.fromkeys(names)) or tuple(BUILT_IN.values())
    return ColorSegmenter(chosen, "built-in masks of color and place; no objects")


def color_clusters(pictures: np.ndarray, count: int, seed: int = 0) -> tuple[ColorConcept, ...]:
    """Concepts from the colors of pictures: k-means in RGB, each cluster the colors nearest to its center.

    Seeded: k-means++ (Arthur & Vassilvitskii 2007) and 25 rounds of Lloyd on at most 20,000 pixels.

    Args:
        pictures: ``(N, H, W, 3) uint8``.
        count: number of clusters, 2 to 64.
        seed: of the choice of pixels and first centers.

    Raises:
        UsageError: the count is out of range, or there are fewer colors than clusters.
    """
    if not 2 <= count <= 64:
        raise UsageError(f"color clusters are 2 to 64, not {count!r}.")
    rng = np.random.default_rng(seed)
    pixels = pictures.reshape(-1, 3).astype(np.float64)
    pixels = pixels[rng.permutation(len(pixels))[:20_000]]
    centers = pixels[:1]
    while len(centers) < count:
        near = _distances(pixels, centers).min(axis=1)
        if near.sum() == 0:
            raise UsageError(f"the pictures have fewer than {count} colors.")
        centers = np.vstack([centers, pixels[rng.choice(len(pixels), p=near / near.sum())]])
    for _ in range(_ROUNDS):
        nearest = _distances(pixels, centers).argmin(axis=1)
        sums = np.stack([np.bincount(nearest, pixels[:, c], count) for c in range(3)], axis=1)
        sizes = np.bincount(nearest, minlength=count)
        centers = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centers)
    return tuple(_cluster(number, centers) for number in np.argsort(centers @ _LUMA, kind="stable"))


def _distances(pixels: np.ndarray, centers: np.ndarray) -> np.ndarray:
    return np.asarray(((pixels[:, None] - centers[None]) ** 2).sum(axis=2))


def _cluster(number: int, centers: np.ndarray) -> ColorConcept:
    """The region nearest to one center is cut out by the planes halfway to each of the others."""
    own = centers[number]
    rows = []
    for other in np.delete(centers, number, axis=0):
        gap = own - other
        length = float(np.sqrt(gap @ gap))
        if length > 0:
            rows.append((gap / length, float((other @ other - own @ own) / (2 * length))))
    name = "color-#" + "".join(f"{round(c):02x}" for c in own)
    return _concept(name, f"pixels nearer to this color than to the {len(centers) - 1} others", rows)
