"""Occlusion against a slow double loop over windows, with the network computed in float64 by hand."""

from __future__ import annotations

import numpy as np
import pytest
from support.nets import SmallNet, as_batch, noise

import onnxvis
from onnxvis.errors import ModelError, UsageError

NET = SmallNet()
X = noise(1, 3, 32, 32)


def by_hand(
    x: np.ndarray, target: int, window: tuple[int, int], stride: tuple[int, int], baseline: np.ndarray
) -> np.ndarray:
    """Zeiler & Fergus: cover, look at the drop, give every covered pixel the mean drop of its windows."""
    height, width = x.shape[2:]
    total, count = np.zeros((height, width)), np.zeros((height, width))
    base = NET.reference(x)[0, target]
    y = 0
    while True:
        column = 0
        while True:
            covered = x.copy()
            area = np.s_[y : y + window[0], column : column + window[1]]
            covered[0][:, area[0], area[1]] = np.broadcast_to(baseline, x[0].shape)[:, area[0], area[1]]
            total[area] += base - NET.reference(covered)[0, target]
            count[area] += 1
            if column + window[1] >= width:
                break
            column += stride[1]
        if y + window[0] >= height:
            break
        y += stride[0]
    return total / count


@pytest.mark.parametrize(
    ("window", "stride"),
    [
        ((8, 8), (8, 8)),
        ((9, 14), (5, 11)),
        ((32, 32), (1, 1)),
        ((7, 32), (6, 3)),
        ((100, 5), (3, 4)),
        ((1, 32), (1, 1)),
    ],
)
@pytest.mark.parametrize("baseline", [0.0, -1.5])
def test_equals_the_double_loop(window: tuple[int, int], stride: tuple[int, int], baseline: float) -> None:
    found = onnxvis.explain(
        onnxvis.load(NET.model()), X, "occlusion", 1, window=window, stride=stride, baseline=baseline
    )
    expected = by_hand(X, 1, window, stride, np.array(baseline))
    np.testing.assert_allclose(found.attribution, expected, atol=2e-6)


def test_other_fillings() -> None:
    model = onnxvis.load(NET.model())
    mean = X[0].astype(np.float64).mean(axis=(1, 2), keepdims=True)
    colors = np.array([0.1, -0.2, 0.3]).reshape(3, 1, 1)
    picture = noise(3, 32, 32, seed=5)
    for given, used in (("mean", mean), ("Mean ", mean), ("0.5", np.array(0.5)), (colors, colors), (picture, picture)):
        found = onnxvis.explain(model, X, "occlusion", 3, window=11, stride=6, baseline=given)
        np.testing.assert_allclose(found.attribution, by_hand(X, 3, (11, 11), (6, 6), used), atol=2e-6)


def test_words_of_the_command_line() -> None:
    model = onnxvis.load(NET.model())
    text = onnxvis.explain(model, X, "occlusion", 3, window="9,14", stride="5,7")
    pair = onnxvis.explain(model, X, "occlusion", 3, window=(9, 14), stride=[5, 7])
    np.testing.assert_array_equal(text.attribution, pair.attribution)
    assert pair.parameters["window"] == [9, 14]
    assert pair.parameters["positions"] == 6 * 4


def test_the_batch_size_changes_nothing() -> None:
    images = as_batch(2, 3, 32, 32)
    maps = [
        onnxvis.explain(onnxvis.load(NET.model()), images, "occlusion", 3, window=9, batch_size=size)
        for size in (1, 3, 64)
    ]
    for other in maps[1:]:
        for a, b in zip(maps[0], other, strict=True):
            np.testing.assert_allclose(a.attribution, b.attribution, atol=1e-6)


def test_progress_counts_every_window() -> None:
    seen: list[tuple[str, int, int]] = []
    images = as_batch(2, 3, 32, 32)
    found = onnxvis.explain(
        onnxvis.load(NET.model()), images, "occlusion", 0, window=8, stride=8, batch_size=3,
        progress=lambda *step: seen.append(step),
    )  # fmt: skip
    assert seen[-1] == ("occlusion", 32, 32)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert all(one.parameters["positions"] == 16 for one in found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 4, "stride": 5}, "stride"),
        ({"window": 0}, "at least 1"),
        ({"window": (3, -1)}, "at least 1"),
        ({"window": "a"}, "at least 1"),
        ({"stride": (1, 2, 3)}, "at least 1"),
        ({"baseline": "grey"}, "'mean'"),
        ({"baseline": np.zeros((4, 32, 32))}, "does not fit"),
        ({"baseline": np.nan}, "NaN"),
        ({"windw": 3}, "Did you mean 'window'"),
    ],
)
def test_what_is_refused(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        onnxvis.explain(onnxvis.load(NET.model()), X, "occlusion", 1, **options)


def test_an_answer_that_is_not_finite_is_an_error_not_a_hole() -> None:
    from onnx import helper

    node = [helper.make_node("Log", ["image"], ["x"], "log")]
    model = onnxvis.load(NET.model(before=node))
    positive = np.abs(X) + 0.1
    onnxvis.explain(model, positive, "occlusion", 1, baseline=1.0)
    with pytest.raises(ModelError, match="NaN or infinity"):
        onnxvis.explain(model, positive, "occlusion", 1, baseline=-1.0)
