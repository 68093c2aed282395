"""Pictures that the network takes for alike: nearest neighbors, duplicates and outliers in the embedding.

Krizhevsky, Sutskever & Hinton, "ImageNet Classification with Deep Convolutional Neural Networks" (2012), figure 4
right: pictures whose last hidden activations are close show the same things, though they are far apart in pixels. So
the neighbors in pixels stand beside those in the embedding.

Outliers: the distance to the k-th neighbor (Ramaswamy, Rastogi & Shim, SIGMOD 2000) and the local outlier factor
(Breunig, Kriegel, Ng & Sander, SIGMOD 2000), from exact neighbors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxvis.behaviour.stored import Row
from onnxvis.behaviour.thumbnails import Thumbnails
from onnxvis.errors import UsageError
from onnxvis.progress import Progress, silent

__all__ = [
    "DUPLICATE_PIXELS",
    "DUPLICATE_SHARE",
    "METRICS",
    "DuplicateGroup",
    "Metric",
    "Outlier",
    "duplicates",
    "nearest_neighbors",
    "outliers",
    "pixel_distances",
    "pixel_nearest",
]

Metric = Literal["euclidean", "cosine"]
METRICS: tuple[Metric, ...] = ("euclidean", "cosine")
DUPLICATE_SHARE = 0.2
"""Pictures closer than this part of the median distance to a nearest neighbor are taken for near-duplicates."""
DUPLICATE_PIXELS = 20.0
"""... if their thumbnails differ by less than this, root mean square, of 255."""

_BLOCK = 1 << 22
_ROWS = 1024
_NEIGHBORS_LOOKED_AT = 8
_NO_DISTANCE = 1e-10
"""Added to mean distances, as scikit-learn does: equal pictures have a finite density."""


def nearest_neighbors(
    vectors: NDArray[np.float32], k: int, metric: Metric = "euclidean", progress: Progress = silent
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k nearest other rows of every row, exactly: places and distances ``(N, k)``, nearest first.

    Every row is compared with every other, some at a time, so memory stays bounded and ``progress`` hears of it.

    Raises:
        UsageError: fewer than two rows, or rows that are not finite.
    """
    from sklearn.neighbors import NearestNeighbors

    if len(vectors) < 2 or not np.isfinite(vectors).all():
        raise UsageError("neighbors need at least two pictures whose embeddings are all finite.")
    k = min(k, len(vectors) - 1)
    found = NearestNeighbors(n_neighbors=k + 1, metric=metric, algorithm="brute").fit(vectors)
    places = np.empty((len(vectors), k), np.int64)
    exact = np.empty(places.shape)
    rows = vectors.astype(np.float64)
    step = max(1, min(_ROWS, _BLOCK // max(1, k * rows.shape[1])))
    for start in range(0, len(rows), step):
        progress("neighbors of every picture", start, len(rows))
        part = slice(start, start + step)
        near = found.kneighbors(vectors[part], return_distance=False)
        others = near != np.arange(start, start + len(near))[:, None]
        others[others.all(axis=1), -1] = False  # itself is not among them where more than k rows are equal
        places[part] = near[others].reshape(len(near), k)
        # scikit-learn's own distances lose digits where rows are nearly equal
        exact[part] = _paired(rows[part, None], rows[places[part]], metric)
    progress("neighbors of every picture", len(rows), len(rows))
    order = np.lexsort((places, exact), axis=1)
    return np.take_along_axis(places, order, axis=1), np.take_along_axis(exact, order, axis=1)


def _paired(a: NDArray[np.float64], b: NDArray[np.float64], metric: Metric) -> NDArray[np.float64]:
    if metric == "euclidean":
        return np.asarray(np.sqrt(np.square(a - b).sum(axis=-1)))
    lengths = np.sqrt(np.square(a).sum(axis=-1) * np.square(b).sum(axis=-1))
    dot = (a * b).sum(axis=-1)
    return np.asarray(np.maximum(0.0, 1 - np.divide(dot, lengths, out=np.zeros_like(dot), where=lengths > 0)))


def pixel_distances(thumbnails: Thumbnails, query: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Root mean square difference of every thumbnail from ``query`` ``(side, side, 3)``, on the scale 0..255.

    Infinite where a picture could not be opened. Read in blocks, so memory stays bounded.
    """
    one = query.astype(np.float32).reshape(-1)
    found = np.empty(len(thumbnails.ids))
    step = max(1, _BLOCK // one.size)
    for start in range(0, len(found), step):
        block = np.asarray(thumbnails.pixels[start : start + step], np.float32).reshape(-1, one.size)
        found[start : start + step] = np.sqrt(np.square(block - one, dtype=np.float64).mean(axis=1))
    found[~thumbnails.good] = np.inf
    return found


def pixel_nearest(
    thumbnails: Thumbnails, query: NDArray[np.uint8], k: int, without: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k pictures nearest to ``query`` in pixels, nearest first: ids and :func:`pixel_distances`.

    Args:
        thumbnails: of the store.
        query: ``(side, side, 3) uint8``.
        k: how many.
        without: a picture to leave out: the query itself.
    """
    distances = pixel_distances(thumbnails, query)
    kept = np.flatnonzero(np.isfinite(distances) & (thumbnails.ids != (-1 if without is None else without)))
    order = kept[np.lexsort((thumbnails.ids[kept], distances[kept]))][:k]
    return thumbnails.ids[order], distances[order]


@dataclass(frozen=True)
class DuplicateGroup:
    """Pictures that are the same or nearly so.

    Attributes:
        ids: numbers of the pictures, ascending.
        identical: all of them are the same file, byte for byte.
        distance: largest embedding distance of the pairs that joined them.
        pixels: largest root mean square difference of their thumbnails, of 255.
    """

    ids: tuple[int, ...]
    identical: bool
    distance: float
    pixels: float


def duplicates(
    rows: Sequence[Row],
    ids: NDArray[np.int64],
    vectors: NDArray[np.float32],
    thumbnails: Thumbnails,
    share: float = DUPLICATE_SHARE,
    most_pixels: float = DUPLICATE_PIXELS,
    progress: Progress = silent,
) -> tuple[list[DuplicateGroup], float]:
    """Groups of identical and nearly identical pictures.

    A pair belongs together when the files are equal; or when one is among the other's eight nearest, their Euclidean
    embedding distance is at most ``share`` of the median distance to a nearest neighbor, *and* their thumbnails
    differ by at most ``most_pixels``. Pairs that share a picture make one group.

    Args:
        rows: of the store.
        ids: of the vectors.
        vectors: ``(N, D)``.
        thumbnails: of the same ids, in any order.
        share: see above.
        most_pixels: root mean square, of 255.
        progress: told how many pictures have been compared with all others.

    Returns:
        The groups, the closest first, and the embedding distance used as the limit.
    """
    places, distances = nearest_neighbors(vectors, _NEIGHBORS_LOOKED_AT, progress=progress)
    limit = share * float(np.median(distances[:, 0]))
    sums = {row.id: row.sha256 for row in rows}
    where = {int(id): k for k, id in enumerate(thumbnails.ids)}
    pairs: list[tuple[int, int, float, float]] = []
    for a, b, distance in _pairs(ids, places, distances, limit, sums):
        pixels = _difference(thumbnails, where[a], where[b])
        if sums[a] == sums[b] or pixels <= most_pixels:
            pairs.append((a, b, distance, pixels))
    groups = []
    joined = _joined(pairs)
    number_of = {member: number for number, members in enumerate(joined) for member in members}
    inside: list[list[tuple[float, float]]] = [[] for _ in joined]
    for a, _, distance, pixels in pairs:
        inside[number_of[a]].append((distance, pixels))
    for members, inner in zip(joined, inside, strict=True):
        same = len({sums[m] for m in members}) == 1
        groups.append(DuplicateGroup(tuple(sorted(members)), same, max(d for d, _ in inner), max(p for _, p in inner)))
    return sorted(groups, key=lambda g: (not g.identical, g.distance, g.ids)), limit


def _pairs(
    ids: NDArray[np.int64],
    places: NDArray[np.int64],
    distances: NDArray[np.float64],
    limit: float,
    sums: dict[int, str],
) -> list[tuple[int, int, float]]:
    close = {
        (int(min(ids[i], ids[j])), int(max(ids[i], ids[j]))): float(d)
        for i, (row, far) in enumerate(zip(places, distances, strict=True))
        for j, d in zip(row, far, strict=True)
        if d <= limit
    }
    by_file: dict[str, list[int]] = {}
    for id in ids:
        by_file.setdefault(sums[int(id)], []).append(int(id))
    for members in by_file.values():
        for other in members[1:]:
            close.setdefault((members[0], other), 0.0)
    return [(a, b, d) for (a, b), d in sorted(close.items())]


def _difference(thumbnails: Thumbnails, a: int, b: int) -> float:
    if not (thumbnails.good[a] and thumbnails.good[b]):
        return float("inf")
    one, other = (np.asarray(thumbnails.pixels[k], np.float64) for k in (a, b))
    return float(np.sqrt(np.square(one - other).mean()))


def _joined(pairs: Sequence[tuple[int, int, float, float]]) -> list[set[int]]:
    """Connected components."""
    groups: dict[int, set[int]] = {}
    for a, b, _, _ in pairs:
        merged = groups.get(a, {a}) | groups.get(b, {b})
        for member in merged:
            groups[member] = merged
    return list({id(group): group for group in groups.values()}.values())


@dataclass(frozen=True)
class Outlier:
    """A picture far from the others: distance to its k-th neighbor, and its local outlier factor (1 is usual)."""

    id: int
    distance: float
    factor: float


def outliers(
    ids: ArrayLike,
    vectors: NDArray[np.float32],
    k: int = 10,
    metric: Metric = "euclidean",
    progress: Progress = silent,
) -> list[Outlier]:
    """All pictures, the largest local outlier factor first.

        reach(p, o) = max(distance of o to its k-th neighbor, d(p, o));  density(p) = 1 / mean of reach over neighbors
        factor(p) = mean density of its neighbors / density(p)

    Args:
        ids: ``(N,)``.
        vectors: ``(N, D)`` finite.
        k: neighbors that make the neighborhood; fewer where there are fewer pictures.
        metric: of the distances.
        progress: told how many pictures have been compared with all others.

    Raises:
        UsageError: fewer than three pictures, or an embedding that is not finite.
    """
    numbers = np.asarray(ids, np.int64)
    if len(vectors) < 3:
        raise UsageError(f"outliers need at least three pictures; the store has {len(vectors)}.")
    k = min(k, len(vectors) - 1)
    places, distances = nearest_neighbors(vectors, k, metric, progress)
    reach = np.maximum(distances[places, -1], distances)
    density = 1 / (reach.mean(axis=1) + _NO_DISTANCE)
    factors = density[places].mean(axis=1) / density
    order = np.lexsort((numbers, -distances[:, -1], -factors))
    return [Outlier(int(numbers[i]), float(distances[i, -1]), float(factors[i])) for i in order]
