"""Two models side by side: figures made by hand, refusals, failures that cost only themselves, and the page."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image
from support.graphs import Builder
from support.hand_models import SIDE, linear_model, small_net

import onnxvis
from onnxvis.audit.drift import Comparison, PictureDrift, compare, worst_first
from onnxvis.audit.drift_page import build_drift_page, draw_worst, verdict
from onnxvis.audit.metrics.similarity import rank_correlation, ssim
from onnxvis.errors import UsageError

SPEC: dict[str, Any] = {"resize": "stretch", "size": 16, "scale": 1 / 255, "mean": [0.5] * 3, "std": [0.5] * 3}
NAMES = [f"kind {k}" for k in range(5)]


def net(seed: int = 0, side: int = 16, **options: Any) -> onnxvis.Model:
    options = {"preprocessing": SPEC | {"size": side}, "labels": NAMES, **options}
    return onnxvis.load(small_net(seed, side).file.proto, **options)


def damaged(model: onnxvis.Model, amount: float = 2.0) -> onnxvis.Model:
    """One number of the first convolution changed."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.file.proto)
    tensor = proto.graph.initializer[0]
    values = numpy_helper.to_array(tensor).copy()
    values.flat[4] += amount
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return onnxvis.load(proto, preprocessing=model.preprocessing, labels=NAMES)


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    """Five pictures of 40 x 30 pixels."""
    paths = []
    for k in range(5):
        small = np.random.default_rng(k).integers(0, 255, (3, 4, 3), np.uint8)
        path = tmp_path / f"photo {k}.png"
        Image.fromarray(small).resize((40, 30), Image.Resampling.BICUBIC).save(path)
        paths.append(str(path))
    return paths


# --- figures ---------------------------------------------------------------------------------------


def test_a_model_is_like_itself(photos: list[str]) -> None:
    found = compare(net(), net(), photos, methods=["grad-cam", "saliency"])
    assert found.flips == 0
    assert found.failures == ()
    for row in found.pictures:
        assert (row.logit_max, row.logit_mean, row.logit_relative, row.top5_overlap) == (0, 0, 0, 1)
        assert [(m.rank, m.ssim) for m in row.maps] == [(pytest.approx(1), pytest.approx(1))] * 2


def test_every_figure_of_two_linear_models_by_hand() -> None:
    """A: logits (mean, 0). B: logits (mean - 0.5, 0). Where the mean is between 0 and 0.5, the answer flips."""
    weights = np.ones((1, SIDE, SIDE)) / SIDE**2
    a, b = linear_model(weights), linear_model(weights, bias=-0.5)
    values = (0.25, 2.0, -1.0)
    arrays = [np.full((1, 1, SIDE, SIDE), v, np.float32) for v in values]
    found = compare(a, b, arrays, methods=[])
    rows = {round(row.logit_relative, 6): row for row in found.pictures}
    assert found.flips == 1
    assert found.pictures[0].flipped
    assert found.pictures[0].top1 == ((0, "class 0"), (1, "class 1"))
    for v in values:
        row = rows[round(0.5 / abs(v), 6)]
        assert row.logit_max == pytest.approx(0.5)
        assert row.logit_mean == pytest.approx(0.25)
        top = v if v > 0 else -v  # logits (v, 0): the answer's margin over the other class
        below = top - 0.5 if v > 0 else top + 0.5
        expected = [1 / (1 + np.exp(-margin)) for margin in (top, below)]
        assert row.probability == pytest.approx(expected, abs=1e-6)
        assert row.top5_overlap == 1
    assert found.summary()["flips"].mean == pytest.approx(1 / 3)
    assert found.summary()["logit difference, largest"].mean == pytest.approx(0.5)


def test_maps_are_of_the_first_model_s_answer_in_both(photos: list[str]) -> None:
    a, b = net(), damaged(net())
    found = compare(a, b, photos[:1], methods=["grad-cam"])
    index = found.pictures[0].top1[0][0]
    first, second = (onnxvis.explain(m, photos[0], "grad-cam", index).heat() for m in (a, b))  # type: ignore[union-attr]
    drift = found.pictures[0].maps[0]
    assert drift.rank == pytest.approx(rank_correlation(first, second), abs=1e-6)
    assert drift.ssim == pytest.approx(ssim(first, second), abs=1e-6)
    assert drift.rank is not None
    assert drift.rank < 1


def test_a_changed_weight_and_another_preprocessing_are_caught(photos: list[str]) -> None:
    a = net()
    honest = compare(a, net(), photos)
    weight = compare(a, damaged(a), photos)
    prepared = compare(a, net(preprocessing=SPEC | {"mean": [0.0] * 3, "std": [1.0] * 3}), photos)
    largest = [max(row.logit_relative for row in c.pictures) for c in (honest, weight, prepared)]
    assert largest[0] == 0
    assert min(largest[1:]) > 0.05
    assert min(m.rank for row in weight.pictures for m in row.maps if m.rank is not None) < 0.999
    assert any("different preprocessing" in note for note in prepared.notes)


def test_inputs_of_another_size_are_compared_on_the_picture(photos: list[str]) -> None:
    found = compare(net(), net(side=32), photos)
    assert any("different shape" in note for note in found.notes)
    ranks = [row.maps[0].rank for row in found.pictures]
    assert all(rank is not None and 0.3 < rank < 1 for rank in ranks)


def test_the_worst_comes_first() -> None:
    plain = PictureDrift("a", "", "", ((0, "x"), (0, "x")), (0.9, 0.8), False, 1.0, 0.1, 0.1, 0.01, ())
    rows = [
        plain,
        dataclasses.replace(plain, name="b", logit_relative=0.5),
        dataclasses.replace(plain, name="c", flipped=True),
    ]
    assert [row.name for row in worst_first(rows)] == ["c", "b", "a"]


# --- refusals and failures -------------------------------------------------------------------------


def test_models_that_answer_other_questions_are_refused(photos: list[str]) -> None:
    with pytest.raises(UsageError, match="has 5 classes and 'model' 2"):
        compare(net(), linear_model(np.ones((3, 16, 16))), photos)
    other = net(labels=[*NAMES[:3], "another", "word"])
    with pytest.raises(UsageError, match=r"2 classes have other names.*3 is 'kind 3' in A and 'another' in B"):
        compare(net(), other, photos)
    found = compare(net(), other, photos[:1], ignore_labels=True)
    assert "names of A are shown" in found.notes[0]
    build = Builder(("batch", 3, 16, 16))
    dense = onnxvis.load(build.model(build.conv(build.name, 3, 5)), preprocessing=SPEC)
    with pytest.raises(UsageError, match="they cannot be compared"):
        compare(net(), dense, photos)
    with pytest.raises(UsageError, match="no method"):
        compare(net(), net(), photos, methods=["grad-kam"])


def test_a_broken_picture_costs_only_itself(photos: list[str], tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG no picture")
    found = compare(net(), net(), [photos[0], str(bad), *photos[1:], str(tmp_path / "missing.png")])
    assert len(found.pictures) == 5
    assert [name for name, _ in found.failures] == ["bad.png", "missing.png"]


def test_a_picture_that_makes_one_model_fail_costs_only_itself() -> None:
    """Overflow: the answer is infinite on one picture of a batch."""
    weights = np.full((1, SIDE, SIDE), 1e3)
    model = linear_model(weights)
    arrays = [np.full((1, 1, SIDE, SIDE), v, np.float32) for v in (1.0, 3e38, 2.0)]
    found = compare(model, model, arrays, methods=[])
    assert len(found.pictures) == 2
    assert len(found.failures) == 1
    assert "NaN or infinity" in found.failures[0][1]


def test_a_method_that_one_model_cannot_do_is_left_out_and_said(photos: list[str]) -> None:
    flat = onnxvis.load(
        linear_model(np.random.default_rng(0).standard_normal((3, 16, 16))).file.proto, preprocessing=SPEC
    )
    found = compare(flat, flat, photos, methods=["cam", "saliency"])
    assert found.methods == ("saliency",)
    assert any(note.startswith("cam was left out") for note in found.notes)


def test_finished_pictures_are_not_run_again(photos: list[str]) -> None:
    a = net()
    rows: list[PictureDrift] = []
    whole = compare(a, net(), photos, on_picture=rows.append)
    assert len(rows) == 5
    stored = {row.sha256: PictureDrift.from_dict(dataclasses.asdict(row)) for row in rows[:3]}
    again: list[PictureDrift] = []
    resumed = compare(a, net(), photos, finished=stored, on_picture=again.append)
    assert len(again) == 2
    assert set(resumed.pictures) == set(whole.pictures)
    assert resumed.to_dict()["summary"] == whole.to_dict()["summary"]


# --- the page --------------------------------------------------------------------------------------


def hostile(comparison: Comparison) -> Comparison:
    mean = "</style><script>alert(1)</script>\u202e"
    row = dataclasses.replace(comparison.pictures[0], name=mean, top1=((0, mean), (1, mean * 400)), flipped=True)
    return dataclasses.replace(
        comparison,
        pictures=(row,),
        notes=(mean,),
        failures=((mean, mean),),
        a=comparison.a | {"name": mean, "path": mean},
    )


def test_the_page_is_self_contained_and_treats_every_string_as_text(photos: list[str]) -> None:
    a, b = net(), damaged(net())
    found = compare(a, b, photos, methods=["grad-cam", "saliency"])
    drawn = list(draw_worst(a, b, found, 2))
    assert [p.name for p in drawn] == [row.name for row in found.pictures[:2]]
    assert [len(group["cells"]) for group in drawn[0].groups] == [2, 2]
    assert len({cell["limits"] for cell in drawn[0].groups[0]["cells"]}) == 1  # one scale for both
    page = build_drift_page(hostile(found), drawn, ["<b>broken"], "today")
    assert page.count("<script>") == 1
    assert "<b>broken" not in page
    assert "\u202e" not in page
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!data:|#)", page)
    assert not re.search(r"\son\w+\s*=", page)
    assert " style=" not in page
    for tag in ("style", "script"):
        body = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert body is not None
        digest = base64.b64encode(hashlib.sha256(body[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in page


def test_the_verdict_counts() -> None:
    weights = np.ones((1, SIDE, SIDE)) / SIDE**2
    arrays = [np.full((1, 1, SIDE, SIDE), v, np.float32) for v in (0.25, 2.0)]
    found = compare(linear_model(weights), linear_model(weights, bias=-0.5), arrays, methods=[])
    assert verdict(found).startswith("The answer flips on 1 of 2 pictures (50.0 %;")
    assert verdict(dataclasses.replace(found, pictures=())) == "No picture could be compared."
