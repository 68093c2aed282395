"""Embeddings laid out in the plane: t-SNE, PCA or UMAP, with a measure of how far the picture can be trusted.

t-SNE: van der Maaten & Hinton, JMLR 2008 (scikit-learn's Barnes-Hut form). It starts from the first two principal
components, so that the coarse layout is that of the data and not of chance (Kobak & Berens, Nature Communications
2019). UMAP: McInnes, Healy & Melville 2018, through the package umap-learn.

*Trustworthiness* (Venna & Kaski 2001) is 1 when the k nearest neighbors in the plane are also the nearest in the
embedding, and falls with the rank that wrong neighbors have there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxvis.errors import DependencyError, UsageError, did_you_mean
from onnxvis.progress import Progress, silent

__all__ = ["METHODS", "Projection", "project", "trustworthiness", "tsne_seconds"]

METHODS = ("tsne", "pca", "umap")
_COMPONENTS = 50
_PERPLEXITY = 30.0
_ROWS = 2000
_BLOCK = 1 << 24
_NEIGHBORS = 15
_SECONDS = 6e-4  # 172 s for 20,000 pictures, 31 s for 5,000, on a core of 2.5 GHz


@dataclass(frozen=True, eq=False)
class Projection:
    """Points in the plane.

    Attributes:
        points: ``(N, 2) float64``, in the method's own units, which mean nothing by themselves.
        method: "tsne", "pca" or "umap".
        parameters: everything that was set: perplexity, seed, what was done before, explained variance.
        trust: trustworthiness at ``trust_k`` neighbors, 0..1.
        trust_k: see :attr:`trust`.
        notes: what a reader must know, one sentence each.
    """

    points: NDArray[np.float64]
    method: str
    parameters: dict[str, Any]
    trust: float
    trust_k: int
    notes: tuple[str, ...] = field(default=())


def project(
    vectors: NDArray[np.float32],
    method: str = "tsne",
    perplexity: float | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Projection:
    """Lay out embeddings in the plane.

    Args:
        vectors: ``(N, D)``, finite.
        method: one of :data:`METHODS`.
        perplexity: of t-SNE, the number of neighbors that count, below N; UMAP takes it as its ``n_neighbors``.
            Left out: 30 (UMAP: 15), or less where there are few pictures, which a note says.
        seed: of everything random.
        progress: told what is being done; the methods themselves say nothing until they end.

    Raises:
        UsageError: fewer than 4 rows, values that are not finite, an unknown method, or a perplexity or seed out of
            range.
        DependencyError: UMAP is asked for and not installed.
    """
    if method not in METHODS:
        raise UsageError(f"there is no projection {method!r}; there are {', '.join(METHODS)}."
                         f"{did_you_mean(method, METHODS)}")  # fmt: skip
    if not 0 <= seed < 1 << 32:
        raise UsageError(f"a seed is a whole number from 0 to {(1 << 32) - 1}, not {seed}.")
    if vectors.ndim != 2 or len(vectors) < 4:
        raise UsageError(f"a projection needs at least 4 pictures; the store has {len(vectors)}.")
    if not np.isfinite(vectors).all():
        bad = int((~np.isfinite(vectors).all(axis=1)).sum())
        raise UsageError(f"{bad} embeddings hold values that are not finite; choose another embedding layer.")
    rows = vectors.astype(np.float64)
    notes: list[str] = []
    made = {"tsne": _tsne, "pca": _pca, "umap": _umap}[method]
    stage = f"{method} of {len(rows):,} pictures"
    progress(stage, 0, 1)
    points, parameters = made(rows, perplexity, seed, notes)
    progress(stage, 1, 1)
    k = min(12, max(1, (len(rows) - 1) // 2 - 1))
    progress("trustworthiness", 0, 1)
    trust, measured = trustworthiness(rows, points, k, seed)
    progress("trustworthiness", 1, 1)
    if measured < len(rows):
        notes.append(f"trustworthiness measured at {measured:,} of {len(rows):,} points, each against all")
    return Projection(points, method, {"method": method, **parameters}, trust, k, tuple(notes))


def tsne_seconds(count: int) -> float:
    """About how long t-SNE of so many pictures takes on one CPU; it grows as N log N."""
    return _SECONDS * count * math.log2(max(2, count))


def _reduced(rows: NDArray[np.float64], seed: int, notes: list[str]) -> NDArray[np.float64]:
    """At most 50 principal components: what t-SNE is commonly given, and much faster."""
    from sklearn.decomposition import PCA

    keep = min(_COMPONENTS, *rows.shape)
    if rows.shape[1] <= keep:
        return rows
    reduced = PCA(keep, svd_solver="full" if rows.size < 1 << 22 else "randomized", random_state=seed).fit(rows)
    share = float(reduced.explained_variance_ratio_.sum())
    notes.append(f"reduced from {rows.shape[1]} to {keep} principal components first ({share:.1%} of the variance)")
    return np.asarray(reduced.transform(rows))


def _tsne(
    rows: NDArray[np.float64], perplexity: float | None, seed: int, notes: list[str]
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    from sklearn.manifold import TSNE

    most = max(1.0, (len(rows) - 1) / 3)
    if perplexity is None:
        used = min(_PERPLEXITY, most)
        if used < _PERPLEXITY:
            notes.append(f"perplexity {used:g} instead of {_PERPLEXITY:g}: there are only {len(rows)} pictures")
    elif not 1 <= perplexity < len(rows):
        raise UsageError(f"the perplexity must be from 1 to below the {len(rows)} pictures, not {perplexity:g}.")
    else:
        used = float(perplexity)
    reduced = _reduced(rows, seed, notes)
    flat = bool(np.ptp(reduced, axis=0).max() == 0)
    if flat:
        raise UsageError("all embeddings are equal: there is nothing to lay out.")
    made = TSNE(2, perplexity=used, init="pca", learning_rate="auto", random_state=seed).fit(reduced)
    return np.asarray(made.embedding_, np.float64), {
        "perplexity": used, "seed": seed, "init": "pca", "kl_divergence": float(made.kl_divergence_)
    }  # fmt: skip


def _pca(
    rows: NDArray[np.float64], perplexity: float | None, seed: int, notes: list[str]
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    from sklearn.decomposition import PCA

    if perplexity is not None:
        raise UsageError("PCA has no perplexity: leave it out.")
    made = PCA(2, svd_solver="full" if rows.size < 1 << 22 else "randomized", random_state=seed).fit(rows)
    share = [float(v) for v in made.explained_variance_ratio_]
    notes.append(f"the two axes hold {share[0]:.1%} and {share[1]:.1%} of the variance")
    return np.asarray(made.transform(rows)), {"seed": seed, "explained_variance": share}


def _umap(
    rows: NDArray[np.float64], perplexity: float | None, seed: int, notes: list[str]
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    try:
        import umap
    except ImportError as error:
        raise DependencyError(
            f'UMAP needs the package umap-learn ({error}): pip install "onnxvis[umap]", or use --method tsne.'
        ) from error
    wanted = _NEIGHBORS if perplexity is None else round(perplexity)
    used = min(wanted, len(rows) - 1)
    if used < wanted:
        notes.append(f"{used} neighbors instead of {wanted}: there are only {len(rows)} pictures")
    reduced = _reduced(rows, seed, notes)
    made = umap.UMAP(n_neighbors=max(2, used), random_state=seed, n_jobs=1)
    return np.asarray(made.fit_transform(reduced), np.float64), {"n_neighbors": max(2, used), "seed": seed}


def trustworthiness(
    rows: NDArray[np.float64], points: NDArray[np.float64], k: int, seed: int = 0, most_rows: int = _ROWS
) -> tuple[float, int]:
    """How far neighbors in the plane are neighbors in the embedding (Venna & Kaski 2001).

        T = 1 - 2 / (n k (2 N - 3 k - 1)) * sum over i of sum over j in U_k(i) of (r(i, j) - k)

    U_k(i) are those of the k nearest points of i in the plane that are not among its k nearest in the embedding, and
    r(i, j) is the rank of j there. Ranks are counted against all N points, for at most ``most_rows`` points i drawn at
    random (n of them), so that memory stays bounded.

    Args:
        rows: ``(N, D)``.
        points: ``(N, 2)``.
        k: neighbors, below N / 2.
        seed: of the draw.
        most_rows: see above.

    Returns:
        T, and the number of points it was measured at.
    """
    count = len(rows)
    chosen = np.arange(count)
    if count > most_rows:
        chosen = np.sort(np.random.default_rng(seed).choice(count, most_rows, replace=False))
    penalty = 0.0
    step = max(1, _BLOCK // count)
    for start in range(0, len(chosen), step):
        part = chosen[start : start + step]
        far, near = _squared(rows, part), _squared(points, part)
        own = np.arange(len(part)), part
        far[own] = near[own] = np.inf
        neighbors = np.argpartition(near, k - 1, axis=1)[:, :k]
        ranks = np.empty(far.shape, np.int32)
        np.put_along_axis(ranks, np.argsort(far, axis=1), np.arange(1, count + 1, dtype=np.int32)[None], axis=1)
        excess = np.take_along_axis(ranks, neighbors, axis=1) - k
        penalty += float(np.maximum(excess, 0).sum())
    return 1.0 - penalty * 2.0 / (len(chosen) * k * (2.0 * count - 3.0 * k - 1.0)), len(chosen)


def _squared(rows: NDArray[np.float64], part: NDArray[np.int64]) -> NDArray[np.float64]:
    sums = np.square(rows).sum(axis=1)
    return np.asarray(sums[part, None] + sums[None] - 2 * rows[part] @ rows.T)
