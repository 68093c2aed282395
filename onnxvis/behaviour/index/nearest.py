"""Nearest vectors: exactly, or among the candidates of an approximate index."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["build_index", "candidates", "exact_nearest", "matrix"]

_BLOCK = 1 << 22  # values compared at once
_PARTITION, _PROBES = 1024, 16
_METRICS = {"euclidean": "l2", "cosine": "cosine"}


def exact_nearest(
    ids: NDArray[np.int64], vectors: NDArray[np.float32], query: NDArray[np.float32], k: int, metric: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k nearest of ``vectors`` ``(N, D)``: their ids and distances in float64, ties by id."""
    distances = np.empty(len(ids))
    step = max(1, _BLOCK // max(1, query.size))
    for start in range(0, len(ids), step):
        distances[start : start + step] = _distance(vectors[start : start + step], query, metric)
    order = np.lexsort((ids, distances))[:k]
    return ids[order], distances[order]


def _distance(vectors: NDArray[np.float32], query: NDArray[np.float32], metric: str) -> NDArray[np.float64]:
    """Distance of each row to the query; a zero vector has cosine distance 1 to everything."""
    rows, one = vectors.astype(np.float64), query.astype(np.float64)
    if metric == "euclidean":
        return np.asarray(np.sqrt(np.square(rows - one).sum(axis=1)))
    lengths = np.sqrt(np.square(rows).sum(axis=1)) * np.sqrt(np.square(one).sum())
    cosine = np.divide(rows @ one, lengths, out=np.zeros(len(rows)), where=lengths > 0)
    return np.asarray(1 - np.clip(cosine, -1, 1))


def build_index(table: Any, vectors: int) -> dict[str, str]:
    """An approximate index of a Lance table's embeddings, for Euclidean distances.

    Returns:
        What it is, in words, by metric. Cosine distances are compared with every vector: Lance asks one index a column.
    """
    partitions = max(1, vectors // _PARTITION)
    table.create_index("embedding", "IVF_SQ", name="embedding", metric="l2", num_partitions=partitions, replace=True)
    return {
        "euclidean": f"Lance IVF_SQ, {partitions} partitions of which {min(_PROBES, partitions)} are searched, "
        "candidates compared exactly"
    }


def candidates(
    table: Any, query: NDArray[np.float32], k: int, metric: str
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """More than k candidates from a large table, with their vectors; from its index where it has one for the metric."""
    search = {
        "column": "embedding",
        "q": query,
        "k": max(4 * k, k + 32),
        "metric": _METRICS[metric],
        "nprobes": _PROBES,
        "refine_factor": 4,
    }
    found = table.to_table(columns=["id", "embedding", "_distance"], nearest=search).combine_chunks()
    ids = found["id"].to_numpy().astype(np.int64)
    return ids, matrix(found["embedding"], query.size)


def matrix(column: Any, size: int) -> NDArray[np.float32]:
    """An Arrow column of vectors without nulls as ``(N, size)``."""
    parts = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, size) for chunk in column.chunks]
    return np.concatenate(parts) if parts else np.zeros((0, size), np.float32)
