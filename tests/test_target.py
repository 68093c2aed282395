"""What a target stands for, checked on logits whose order is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.nets import SmallNet, as_batch, noise
from support.references import relative_error

import onnxvis
from onnxvis.errors import TargetError, UsageError
from onnxvis.labels import load_labels
from onnxvis.target import is_several, resolve

LOGITS = np.array([0.5, -1.0, 3.0, 2.0, 0.0, 1.0], np.float32)
NAMES = ["cat", "dog", "tiger cat", "bull mastiff", "top hat", "T - shirt"]
LABELS = load_labels(NAMES, {}, None)
NET = SmallNet()


def one_hot(*indices: int) -> np.ndarray:
    return np.sum([np.eye(6)[i] for i in indices], axis=0)


def scores(spec: object) -> list:
    return resolve(spec, LOGITS, LABELS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "index"),
    [(3, 3), ("3", 3), (np.int64(3), 3), ("bull mastiff", 3), ("top1", 2), ("top hat", 4), ("T - shirt", 5)],
)
def test_one_class(spec: object, index: int) -> None:
    (score,) = scores(spec)
    assert score.index == index
    np.testing.assert_array_equal(score.cotangent, one_hot(index))
    assert score.value(LOGITS[None])[0] == LOGITS[index]
    assert score.name == NAMES[index]


def test_the_strongest_classes() -> None:
    assert [s.index for s in scores("top4")] == [2, 3, 5, 0]
    assert [s.index for s in scores("top6")] == [2, 3, 5, 0, 4, 1]


@pytest.mark.parametrize("spec", ["top3", "TOP2", "top-4"])
def test_several(spec: str) -> None:
    assert is_several(spec)


@pytest.mark.parametrize("spec", ["top1", "Top1", "top-1", "top hat", "top1 - top2", 3, "topknot", len])
def test_not_several(spec: object) -> None:
    assert not is_several(spec)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "first", "second"), [("tiger cat - dog", 2, 1), ("top1 - top2", 2, 3), ("0 - T - shirt", None, None)]
)
def test_contrast(spec: str, first: int | None, second: int | None) -> None:
    if first is None:
        with pytest.raises(TargetError):
            scores(spec)
        return
    (score,) = scores(spec)
    np.testing.assert_array_equal(score.cotangent, one_hot(first) - one_hot(second))
    assert score.value(LOGITS[None])[0] == pytest.approx(LOGITS[first] - LOGITS[second])


@pytest.mark.parametrize(
    "function",
    [
        lambda z: np.log(np.exp(z).sum(axis=1)),
        lambda z: torch.logsumexp(z, dim=1),
        lambda z: z.exp().sum(dim=1).log(),
    ],
    ids=["numpy", "torch", "tensor methods"],
)
def test_a_callable_has_its_derivative(function: object) -> None:
    (score,) = scores(function)
    expected = np.exp(LOGITS) / np.exp(LOGITS).sum()
    np.testing.assert_allclose(score.cotangent, expected, atol=1e-7)
    assert score.value(LOGITS[None])[0] == pytest.approx(np.log(np.exp(LOGITS).sum()), abs=1e-6)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dgo", "Did you mean 'dog'"),
        (6, "6 classes, 0 to 5"),
        (-1, "no class -1"),
        ("top7", "asks for 7"),
        ("top0", "asks for 0"),
        ("dog - dog", "with itself"),
        ("dog - mouse", "mouse"),
        (True, "a target is"),
        (1.5, "a target is"),
        (lambda z: z, "one number per image"),
        (lambda z: z[:, 99], "failed"),
    ],
)
def test_what_is_refused(spec: object, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        scores(spec)


@pytest.mark.parametrize(("method", "options"), [("grad-cam", {}), ("saliency", {}), ("occlusion", {"window": 9})])
def test_targets_of_a_batch(method: str, options: dict) -> None:
    model, images = onnxvis.load(NET.model(), labels=NAMES), as_batch(3, 3, 32, 32)
    precise = {} if method == "occlusion" else {"float64": True}

    def run(image: object, target: object) -> object:
        return onnxvis.explain(model, image, method, target, **options, **precise)  # type: ignore[arg-type]

    single = {(i, k): run(images[i], k).attribution for i in range(3) for k in range(6)}  # type: ignore[attr-defined]
    for i, one in enumerate(run(images, ["dog", 5, "top1"])):  # type: ignore[arg-type, var-annotated]
        index = [1, 5, int(NET.reference(images[2])[0].argmax())][i]
        assert one.target_index == index
        assert relative_error(one.attribution, single[i, index]) < 1e-5
    for i, several in enumerate(run(images, (0, "dog", "top2"))):  # type: ignore[arg-type, var-annotated]
        order = np.argsort(-NET.reference(images[i])[0])
        assert [e.target_index for e in several] == [0, 1, *order[:2]]
        for e in several:
            assert relative_error(e.attribution, single[i, e.target_index]) < 1e-5
    contrast = run(images[0], "tiger cat - dog")
    expected = single[0, 2].astype(np.float64) - single[0, 1]
    assert relative_error(contrast.attribution, expected) < 1e-5  # type: ignore[attr-defined]
    assert contrast.score == pytest.approx(float(np.diff(NET.reference(images[0])[0, [1, 2]])[0]), abs=1e-5)  # type: ignore[attr-defined]
    for function in (lambda z: z[:, 4], lambda z: torch.select(z, 1, 4)):
        assert relative_error(run(images[0], function).attribution, single[0, 4]) < 1e-4  # type: ignore[attr-defined]


def test_what_comes_back() -> None:
    model, images = onnxvis.load(NET.model(), labels=NAMES), as_batch(2, 3, 32, 32)
    explain = onnxvis.explain
    assert isinstance(explain(model, images[0], "saliency", "top hat"), onnxvis.Explanation)
    assert isinstance(explain(model, images[0], "saliency", "top1 - top2"), onnxvis.Explanation)
    assert [e.target for e in explain(model, images[0], "saliency", ("dog", "cat"))] == ["dog", "cat"]
    assert len(explain(model, images[0], "saliency", "top3")) == 3
    assert all(isinstance(e, onnxvis.Explanation) for e in explain(model, images, "saliency", "dog"))
    assert [len(e) for e in explain(model, images, "saliency", ["top2", ("dog",)])] == [2, 1]
    with pytest.raises(UsageError, match="3 targets were given for 2 pictures"):
        explain(model, images, "saliency", [0, 1, 2])
    with pytest.raises(UsageError, match="tuple"):
        explain(model, images[0], "saliency", [0])
    with pytest.raises(UsageError, match="batch size"):
        explain(model, images, "saliency", 0, batch_size=0)


def test_pictures_of_different_sizes_share_a_call() -> None:
    model = onnxvis.load(NET.model(["N", 3, "H", "W"]))
    sizes = [(32, 32), (20, 41), (32, 32), (9, 10), (20, 41)]
    images = [noise(1, 3, *size, seed=i) for i, size in enumerate(sizes)]
    for method in ("grad-cam", "saliency", "occlusion"):
        for image, found in zip(images, onnxvis.explain(model, images, method, "top1", batch_size=5), strict=True):
            alone = onnxvis.explain(onnxvis.load(NET.model(["N", 3, "H", "W"])), image, method, "top1")
            assert found.target_index == alone.target_index == NET.reference(image)[0].argmax()
            assert relative_error(found.attribution, alone.attribution) < 2e-5
