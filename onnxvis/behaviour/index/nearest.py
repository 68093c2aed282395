"""Nearest vectors: exactly, or among the candidates of an approximate index."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["exact_nearest", "indexed_candidates"]

_BLOCK = 1 << 22  # values compared at once
_METRICS = {"euclidean": "l2", "cosine": "cosine"}


def exact_nearest(
    ids: NDArray[np.int64], vectors: NDArray[np.float32], query: NDArray[np.float32], k: int, metric: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k nearest of ``vectors`` ``(N, D)``: their ids and distances in float64, ties by id."""
    distances = np.empty(len(ids))
    step = max(1, _BLOCK // max(1, query.size))
    for start in range(0, len(ids), step):
        distances[start : start + step] = distance(vectors[start : start + step], query, metric)
    order = np.lexsort((ids, distances))[:k]
    return ids[order], distances[order]


def distance(vectors: NDArray[np.float32], query: NDArray[np.float32], metric: str) -> NDArray[np.float64]:
    """Distance of each row to the query; a zero vector has cosine distance 1 to everything."""
    rows, one = vectors.astype(np.float64), query.astype(np.float64)
    if metric == "euclidean":
        return np.asarray(np.sqrt(np.square(rows - one).sum(axis=1)))
    lengths = np.sqrt(np.square(rows).sum(axis=1)) * np.sqrt(np.square(one).sum())
    cosine = np.divide(rows @ one, lengths, out=np.zeros(len(rows)), where=lengths > 0)
    return np.asarray(1 - np.clip(cosine, -1, 1))


def indexed_candidates(
    table: Any, query: NDArray[np.float32], k: int, metric: str
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """More than k candidates from the store's approximate index for this metric, with their vectors."""
    search = {
        "column": f"embedding_{metric}" if f"embedding_{metric}" in table.schema.names else "embedding",
        "q": query,
        "k": max(4 * k, k + 32),
        "metric": _METRICS[metric],
        "nprobes": 32,
        "refine_factor": 4,
    }
    found = table.to_table(columns=["id", "embedding", "_distance"], nearest=search).combine_chunks()
    vectors = found["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return found["id"].to_numpy().astype(np.int64), vectors.reshape(-1, query.size)
