"""Layouts in the plane, how far they can be trusted, and grids of pictures."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxvis.behaviour.image_grid import draw_grid, grid_places, grid_shape
from onnxvis.behaviour.projection import project, trustworthiness
from onnxvis.behaviour.thumbnails import Thumbnails
from onnxvis.errors import DependencyError, UsageError


def blobs(count: int = 90, classes: int = 3, size: int = 80) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(count) % classes
    return (rng.standard_normal((classes, size))[labels] * 3 + rng.standard_normal((count, size))).astype(
        np.float32
    ), labels


def test_tsne_keeps_clusters_and_is_repeatable() -> None:
    vectors, labels = blobs()
    found = project(vectors, "tsne", seed=3)
    again = project(vectors, "tsne", seed=3)
    np.testing.assert_array_equal(found.points, again.points)
    distances = np.linalg.norm(found.points[:, None] - found.points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (labels[distances.argmin(axis=1)] == labels).all()
    assert found.parameters["perplexity"] == pytest.approx(89 / 3)
    assert found.parameters["seed"] == 3
    assert any("perplexity 29.6667 instead of 30" in note for note in found.notes)
    assert any("80 to 50 principal components" in note for note in found.notes)
    assert 0.7 < found.trust <= 1


def test_pca_is_the_singular_value_decomposition() -> None:
    vectors, _ = blobs()
    found = project(vectors, "pca")
    centered = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, s, vt = np.linalg.svd(centered, full_matrices=False)
    np.testing.assert_allclose(np.abs(found.points), np.abs(centered @ vt[:2].T), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.parameters["explained_variance"], (s**2 / (s**2).sum())[:2], rtol=1e-6)


def test_trustworthiness_is_that_of_venna_and_kaski() -> None:
    from sklearn.manifold import trustworthiness as reference

    rng = np.random.default_rng(1)
    rows = rng.standard_normal((70, 9))
    for points in (rows[:, :2], rng.standard_normal((70, 2))):
        for k in (1, 5, 12):
            ours, measured = trustworthiness(rows, points, k)
            assert ours == pytest.approx(reference(rows, points, n_neighbors=k), abs=1e-12)
            assert measured == 70
    whole, _ = trustworthiness(rows, rows[:, :2], 5)
    parts = [trustworthiness(rows, rows[:, :2], 5, seed, most_rows=20) for seed in range(40)]
    assert {n for _, n in parts} == {20}
    assert np.mean([t for t, _ in parts]) == pytest.approx(whole, abs=0.01)


def test_what_cannot_be_laid_out_is_refused(monkeypatch: Any) -> None:
    vectors, _ = blobs(20)
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(DependencyError, match=r"onnxvis\[umap\]"):
        project(vectors, "umap")
    for arguments, words in (
        ((vectors, "tsn"), "Did you mean 'tsne'"),
        ((vectors[:3],), "at least 4"),
        ((vectors, "tsne", 20.0), "below the 20"),
        ((vectors, "pca", 5.0), "no perplexity"),
        ((np.ones((9, 4), np.float32),), "equal"),
        ((np.where(vectors > 5, np.nan, vectors),), "not finite"),
    ):
        with pytest.raises(UsageError, match=words):
            project(*arguments)


def test_umap_gets_its_neighbors_and_seed(monkeypatch: Any) -> None:
    asked: dict[str, Any] = {}

    class Reducer:
        def __init__(self, **options: Any) -> None:
            asked.update(options)

        def fit_transform(self, rows: np.ndarray) -> np.ndarray:
            return rows[:, :2]

    monkeypatch.setitem(sys.modules, "umap", type("umap", (), {"UMAP": Reducer}))
    found = project(blobs(10)[0], "umap", seed=4)
    assert (asked["n_neighbors"], asked["random_state"]) == (9, 4)
    assert found.parameters["n_neighbors"] == 9
    assert any("9 neighbors instead of 15" in note for note in found.notes)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.floats(0.3, 3), st.integers(0, 99))
def test_every_point_gets_a_cell_of_its_own(count: int, aspect: float, seed: int) -> None:
    from onnxvis.behaviour import image_grid

    points = np.random.default_rng(seed).standard_normal((count, 2))
    shape = grid_shape(count, aspect)
    assert shape[0] * shape[1] >= count
    for limit in (2000, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(image_grid, "EXACT_UP_TO", limit)
            places, how = grid_places(points, shape)
        assert len(set(places.tolist())) == count
        assert places.min() >= 0
        assert places.max() < shape[0] * shape[1]
        assert ("optimal" in how) == (limit == 2000)


def test_the_assignment_is_the_best_of_all() -> None:
    points = np.random.default_rng(7).uniform(0, 1, (6, 2))
    places, _ = grid_places(points, (2, 3))
    unit = (points - points.min(axis=0)) / np.ptp(points, axis=0)
    centers = np.array([[(c % 3 + 0.5) / 3, (c // 3 + 0.5) / 2] for c in range(6)])

    def cost(cells: Any) -> float:
        return float(((unit - centers[list(cells)]) ** 2).sum())

    assert cost(places) == pytest.approx(min(cost(p) for p in itertools.permutations(range(6))))
    with pytest.raises(UsageError, match="does not hold"):
        grid_places(points, (2, 2))


def test_the_grid_is_drawn_cell_by_cell() -> None:
    pixels = np.zeros((3, 4, 4, 3), np.uint8)
    pixels[:, :, :, 0] = np.array([50, 100, 150])[:, None, None]
    thumbnails = Thumbnails(np.arange(3), pixels, np.ones(3, bool))
    drawn = np.asarray(draw_grid(thumbnails, np.array([3, 0, 1]), (2, 2)))
    assert drawn.shape == (8, 8, 3)
    assert [drawn[y, x, 0] for y, x in ((0, 0), (0, 4), (4, 0), (4, 4))] == [100, 150, 255, 50]
