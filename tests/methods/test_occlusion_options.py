"""Options of occlusion: sizes, what covers, what is scored, the engine, the check, and resuming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support import zoo
from support.nets import SmallNet, noise

import onnxvis
from onnxvis.errors import ModelError, UsageError
from onnxvis.methods import occlusion_drops, occlusion_engine
from onnxvis.runtime.incremental import Incremental
from onnxvis.runtime.incremental.run import Piece

SIZE = 32


@pytest.fixture(scope="module")
def net() -> SmallNet:
    return SmallNet()


@pytest.fixture(scope="module")
def model(net: SmallNet) -> onnxvis.Model:
    return onnxvis.load(net.model())


@pytest.fixture(scope="module")
def squeezenet() -> onnxvis.Model:
    return onnxvis.load(zoo.export("squeezenet1_1", "legacy", 17, 96, dynamic_batch=True))


def by_hand(
    net: SmallNet, x: np.ndarray, fill: Any, window: tuple[int, int], stride: tuple[int, int], score: Any
) -> np.ndarray:
    """The map as defined: for each pixel the mean drop over the windows that cover it, in float64."""
    height, width = x.shape[2:]
    sums, counts = np.zeros((height, width)), np.zeros((height, width))
    base = score(net.reference(x))[0]
    for y in range(0, height - window[0] + stride[0], stride[0]):
        for left in range(0, width - window[1] + stride[1], stride[1]):
            area = np.s_[y : y + window[0], left : left + window[1]]
            covered = x.copy()
            covered[0][:, area[0], area[1]] = fill(x[0], area)
            sums[area] += base - score(net.reference(covered))[0]
            counts[area] += 1
    return sums / counts


def class_two(logits: np.ndarray) -> np.ndarray:
    return logits[:, 2]


def softmax_two(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials[:, 2] / exponentials.sum(axis=1)


def whole_mean(image: np.ndarray, area: Any) -> np.ndarray:
    return image.mean(axis=(1, 2), keepdims=True)


def rim_mean(image: np.ndarray, area: Any) -> np.ndarray:
    rows, cols = area
    inside = np.zeros(image.shape[1:], bool)
    inside[rows, cols] = True
    near = np.zeros_like(inside)
    near[max(rows.start - 1, 0) : rows.stop + 1, max(cols.start - 1, 0) : cols.stop + 1] = True
    return image[:, near & ~inside].mean(axis=1)[:, None, None]


ENGINES = ("plain", "incremental")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("baseline", "fill"),
    [(0.5, lambda image, area: 0.5), ("mean", whole_mean), ("local-mean", rim_mean)],
    ids=["number", "mean", "local-mean"],
)
def test_baselines(net: SmallNet, model: onnxvis.Model, engine: str, baseline: Any, fill: Any) -> None:
    x = noise(1, 3, SIZE, SIZE, seed=4)
    found = onnxvis.explain(model, x, "occlusion", 2, window=8, stride=6, baseline=baseline, engine=engine)
    expected = by_hand(net, x, fill, (8, 8), (6, 6), class_two)
    np.testing.assert_allclose(found.attribution, expected, atol=1e-5)
    assert found.parameters["engine"] == engine
    assert found.units == "drop of the logit"


def test_signed(model: onnxvis.Model) -> None:
    x = noise(1, 3, SIZE, SIZE, seed=4)
    one, other = onnxvis.explain(model, x, "occlusion", ("2 - 3", "3 - 2"), window=8, stride=8)
    np.testing.assert_allclose(one.attribution, -other.attribution, atol=1e-7)
    assert min(one.attribution.min(), other.attribution.min()) < -0.01  # evidence against the target stays


@pytest.mark.parametrize("engine", ENGINES)
def test_blur_and_an_array(net: SmallNet, model: onnxvis.Model, engine: str) -> None:
    x = noise(1, 3, SIZE, SIZE, seed=5)
    array = noise(3, SIZE, SIZE, seed=6)
    options = {"window": (8, 5), "stride": (8, 4), "engine": engine}
    found = onnxvis.explain(model, x, "occlusion", 2, baseline=array, **options)
    expected = by_hand(net, x, lambda image, area: array[:, area[0], area[1]], (8, 5), (8, 4), class_two)
    np.testing.assert_allclose(found.attribution, expected, atol=1e-5)
    flat = np.full((1, 3, SIZE, SIZE), 0.7, np.float32)
    blurred = onnxvis.explain(model, flat, "occlusion", 2, baseline="blur", **options)
    np.testing.assert_allclose(blurred.attribution, 0, atol=1e-6)  # a flat picture is its own blur
    assert any("blurred by" in note for note in blurred.notes)


@pytest.mark.parametrize("engine", ENGINES)
def test_probability(net: SmallNet, model: onnxvis.Model, engine: str) -> None:
    x = noise(1, 3, SIZE, SIZE, seed=7)
    found = onnxvis.explain(model, x, "occlusion", 2, window=8, stride=8, score="probability", engine=engine)
    expected = by_hand(net, x, lambda image, area: 0.0, (8, 8), (8, 8), softmax_two)
    np.testing.assert_allclose(found.attribution, expected, atol=1e-6)
    assert found.units == "drop of the probability"
    assert found.score == pytest.approx(softmax_two(net.reference(x))[0], abs=1e-6)
    assert any("computed here" in note for note in found.notes)


def test_probability_of_a_sigmoid(net: SmallNet) -> None:
    after = [helper.make_node("Sigmoid", ["logits"], ["p"], "sigmoid")]
    x = noise(1, 3, SIZE, SIZE, seed=8)
    found = onnxvis.explain(
        onnxvis.load(net.model(after=after, output="p")), x, "occlusion", 2, window=16, stride=16, score="probability"
    )
    expected = by_hand(net, x, lambda image, area: 0.0, (16, 16), (16, 16), lambda v: 1 / (1 + np.exp(-v[:, 2])))
    np.testing.assert_allclose(found.attribution, expected, atol=1e-6)
    assert any("sigmoid of the logits, the file's own" in note for note in found.notes)


def test_parts_of_the_side_and_pairs(model: onnxvis.Model) -> None:
    x = noise(1, 3, SIZE, SIZE)
    found = onnxvis.explain(model, x, "occlusion", 0, window=0.25, stride="0.125,2")
    assert found.parameters["window"] == [8, 8]
    assert found.parameters["stride"] == [4, 2]
    assert onnxvis.explain(model, x, "occlusion", 0, window=(6, 0.5), stride=3).parameters["window"] == [6, 16]
    json.dumps(found.parameters)


@pytest.mark.parametrize(
    "options",
    [
        {"window": 0},
        {"window": -3},
        {"window": 2.5},
        {"window": True},
        {"window": "a"},
        {"window": (1, 2, 3)},
        {"window": float("nan")},
        {"window": 4, "stride": 5},
        {"baseline": "grey"},
        {"baseline": np.zeros((7, 7))},
        {"score": "percent"},
        {"engine": "fast"},
        {"exact_check": "some"},
    ],
)
def test_bad_options(model: onnxvis.Model, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="occlusion"):
        onnxvis.explain(model, noise(1, 3, SIZE, SIZE), "occlusion", 0, **options)


def test_a_probability_of_a_function_is_refused(model: onnxvis.Model) -> None:
    with pytest.raises(UsageError, match="target function"):
        onnxvis.explain(model, noise(1, 3, SIZE, SIZE), "occlusion", lambda z: z[:, 0], score="probability")


def test_channels_last_and_not_square(net: SmallNet) -> None:
    before = [helper.make_node("Transpose", ["image"], ["x"], "t", perm=[0, 3, 1, 2])]
    last = onnxvis.load(net.model(["N", "h", "w", 3], before=before), size=(40, 28))
    first = onnxvis.load(
        net.model(["N", 3, "h", "w"]), size=(64, 64)
    )  # planned for the picture's size, not for this one
    x = noise(1, 3, 40, 28, seed=2)
    expected = by_hand(net, x, lambda image, area: 0.25, (10, 7), (5, 7), class_two)
    for model, tensor in ((first, x), (last, np.ascontiguousarray(x.transpose(0, 2, 3, 1)))):
        for engine in ENGINES:
            found = onnxvis.explain(
                model, tensor, "occlusion", 2, window=(10, 7), stride=(5, 7), baseline=0.25, engine=engine
            )
            assert found.parameters["engine"] == engine, found.parameters["engine_reason"]
            np.testing.assert_allclose(found.attribution, expected, atol=1e-5)


def test_several_targets_and_pictures_share_the_passes(squeezenet: onnxvis.Model) -> None:
    images = [zoo.image(96, seed=s) for s in (1, 2)]
    options = {"window": 24, "stride": 12}
    fast = onnxvis.explain(squeezenet, images, "occlusion", ("top2", "3 - 4"), engine="incremental", **options)
    slow = onnxvis.explain(squeezenet, images, "occlusion", ("top2", "3 - 4"), engine="plain", **options)
    for found, expected in zip(fast, slow, strict=True):
        assert len(found) == 3
        for one, other in zip(found, expected, strict=True):
            scale = max(1.0, abs(other.score))
            np.testing.assert_allclose(one.attribution, other.attribution, atol=1e-5 * scale)
            assert one.parameters["engine"] == "incremental"
            assert one.parameters["operations"] < 0.9
            assert one.parameters["exact_check"]["largest_relative_error"] < 1e-5


# --- the engine -----------------------------------------------------------------------------------


def test_every_position_can_be_checked(squeezenet: onnxvis.Model) -> None:
    x = zoo.image(96)
    found = onnxvis.explain(
        squeezenet, x, "occlusion", 0, window=24, stride=24, engine="incremental", exact_check="all"
    )
    assert found.parameters["exact_check"]["positions"] == found.parameters["positions"] == 16
    none = onnxvis.explain(
        squeezenet, x, "occlusion", 0, window=24, stride=24, engine="incremental", exact_check="none"
    )
    assert none.parameters["exact_check"] is None
    np.testing.assert_allclose(found.attribution, none.attribution, atol=1e-5)


def test_a_forecast_is_announced(squeezenet: onnxvis.Model) -> None:
    stages: list[tuple[str, int, int]] = []
    found = onnxvis.explain(
        squeezenet, zoo.image(96), "occlusion", 0, window=24, stride=12, engine="incremental",
        progress=lambda *call: stages.append(call),
    )  # fmt: skip
    assert any("positions" in s and "operations saved, about" in s for s, _, _ in stages)
    assert stages[-1][1:] == (49, 49)
    assert found.parameters["forecast_seconds"] > 0


@pytest.mark.parametrize("check", ["sample", "all"])
def test_wrong_logits_are_never_returned(
    squeezenet: onnxvis.Model, monkeypatch: pytest.MonkeyPatch, check: str
) -> None:
    x, options = zoo.image(96, seed=9), {"window": 24, "stride": 12}
    expected = onnxvis.explain(squeezenet, x, "occlusion", 0, engine="plain", **options)
    honest = Incremental.logits
    monkeypatch.setattr(Incremental, "logits", lambda *call: honest(*call) * np.float32(1.001))
    found = onnxvis.explain(squeezenet, x, "occlusion", 0, engine="incremental", exact_check=check, **options)
    np.testing.assert_allclose(found.attribution, expected.attribution, atol=1e-5)  # a thousandth would show
    assert found.parameters["engine"] == "plain"
    assert any(note.startswith("fell back to whole pictures") for note in found.notes)


def test_a_failing_crop_runs_whole(squeezenet: onnxvis.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    x, options = zoo.image(96, seed=9), {"window": 24, "stride": 12}
    expected = onnxvis.explain(squeezenet, x, "occlusion", 0, engine="plain", **options)
    honest, calls = Incremental.logits, []

    def fail(*call: Any) -> np.ndarray:
        calls.append(call)
        if len(calls) > 4:
            raise ModelError("too small")
        return honest(*call)

    monkeypatch.setattr(Incremental, "logits", fail)
    found = onnxvis.explain(squeezenet, x, "occlusion", 0, engine="incremental", **options)
    np.testing.assert_allclose(found.attribution, expected.attribution, atol=1e-5)
    assert found.parameters["engine"] == "incremental, then plain"
    assert any("too small" in note for note in found.notes)


def test_the_slower_way_is_left(squeezenet: onnxvis.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(occlusion_drops, "_SHORT", 0.0)
    monkeypatch.setattr(occlusion_drops, "_HOPE", 1e9)
    monkeypatch.setattr(occlusion_drops, "_FASTER", 0.0)
    options = {"window": 24, "stride": 12}
    found = onnxvis.explain(squeezenet, zoo.image(96), "occlusion", 0, **options)
    assert "incremental, then plain" in found.parameters["engine"]
    expected = onnxvis.explain(squeezenet, zoo.image(96), "occlusion", 0, engine="plain", **options)
    np.testing.assert_allclose(found.attribution, expected.attribution, atol=1e-5)


def test_what_is_always_slower_is_not_tried_for_ever(
    squeezenet: onnxvis.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(occlusion_drops, "_SHORT", 0.0)
    monkeypatch.setattr(occlusion_drops, "_HOPE", 1e9)
    monkeypatch.setattr(occlusion_drops, "_FASTER", 0.0)
    options = {"window": 26, "stride": 12}
    found = [onnxvis.explain(squeezenet, zoo.image(96), "occlusion", 0, **options) for _ in range(3)]
    assert [one.parameters["engine"] for one in found] == ["incremental, then plain"] * 2 + ["plain"]
    assert any("on earlier maps of this kind" in note for note in found[2].notes)
    for one in found[1:]:
        np.testing.assert_allclose(one.attribution, found[0].attribution, atol=1e-5)


def test_whole_pictures_are_timed_in_batches_once(squeezenet: onnxvis.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(occlusion_drops, "_SHORT", 0.0)
    monkeypatch.setattr(occlusion_drops, "_HOPE", 1e9)
    monkeypatch.setattr(occlusion_drops, "_FASTER", np.inf)
    monkeypatch.setattr(occlusion_drops, "_PATIENCE", np.inf)
    options, checked = {"window": 28, "stride": 12}, []
    for _ in range(2):
        found = onnxvis.explain(squeezenet, zoo.image(96), "occlusion", 0, **options)
        checked.append(found.parameters["exact_check"]["positions"])
    assert checked == [2 + 2 * 8, 2]  # the results of the timed batches serve the check
    (kind,) = [k for key, k in occlusion_engine._learned[squeezenet.engine].items() if key[2][0].y1 == 28]
    assert kind.batch_gain is not None
    assert 0 < kind.batch_gain.wall <= 1
    assert 0 < kind.batch_gain.cpu <= 1


def test_short_runs_are_not_planned(model: onnxvis.Model) -> None:
    found = onnxvis.explain(model, noise(1, 3, SIZE, SIZE), "occlusion", 0, window=16)
    assert found.parameters["engine"] == "plain"
    assert "too few" in found.parameters["engine_reason"]


def test_half_precision_stays_plain(net: SmallNet) -> None:
    half = net.model(kind=TensorProto.FLOAT16)
    for tensor in half.graph.initializer:
        tensor.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
        )
    half.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    found = onnxvis.explain(onnxvis.load(half), noise(1, 3, SIZE, SIZE), "occlusion", 0, window=8, engine="incremental")
    assert found.parameters["engine"] == "plain"
    assert "float16" in found.parameters["engine_reason"]


def test_memory_is_a_few_batches(squeezenet: onnxvis.Model) -> None:
    x = zoo.image(96)
    onnxvis.explain(squeezenet, x, "occlusion", 0, window=24, stride=4, engine="incremental")
    runner = occlusion_engine._built[squeezenet.engine][1]
    assert isinstance(runner, Incremental)
    held = sum(b.nbytes for b in runner._buffers.values()) + runner._whole.nbytes + sum(b.nbytes for b in runner._base)
    largest = max(int(np.prod(s)) for s in squeezenet.shapes.values()) * 4
    assert held < 2 * 8 * largest  # 361 positions


@pytest.mark.parametrize("stride", [24, 12, 6])
def test_the_work_grows_with_the_positions_and_nothing_else(
    squeezenet: onnxvis.Model, monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    options = {"window": 24, "stride": stride, "engine": "incremental", "exact_check": "none"}
    onnxvis.explain(squeezenet, zoo.image(96), "occlusion", 0, **options)  # plans
    rows: list[int] = []
    honest = Piece.__call__
    monkeypatch.setattr(Piece, "__call__", lambda self, values: (rows.append(len(values)), honest(self, values))[1])
    found = onnxvis.explain(squeezenet, zoo.image(96), "occlusion", 0, **options)
    pieces = occlusion_engine._built[squeezenet.engine][1].segments + 1
    assert sum(rows) == pieces * (found.parameters["positions"] + 1)  # the picture itself, once
    assert max(rows) <= 8


def test_small_maps_run_whole_until_together_they_would_have_paid_for_a_plan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = onnxvis.load(zoo.export("squeezenet1_1", "legacy", 17, 96, dynamic_batch=True))
    monkeypatch.setattr(occlusion_drops, "_SHORT", 0.0)
    monkeypatch.setattr(occlusion_drops, "planning_seconds", lambda task, places: 1.0)
    monkeypatch.setattr(occlusion_drops, "_FASTER", np.inf)
    monkeypatch.setattr(occlusion_drops, "_PATIENCE", np.inf)
    spent = iter([0.0, 0.0, 100.0, 100.0])
    monkeypatch.setattr(occlusion_drops, "spend", lambda task, places, seconds=0.0: next(spent) if not seconds else 0.0)
    monkeypatch.setattr(occlusion_drops, "_HOPE", 1e-4)
    engines = [
        onnxvis.explain(model, zoo.image(96), "occlusion", 0, window=24, stride=12).parameters["engine"]
        for _ in range(2)
    ]
    assert engines == ["plain", "plain"]
    monkeypatch.setattr(occlusion_drops, "_HOPE", 1.0)
    found = onnxvis.explain(model, zoo.image(96), "occlusion", 0, window=24, stride=12)
    assert found.parameters["engine"] == "incremental"


# --- interrupted ----------------------------------------------------------------------------------


class _StopError(KeyboardInterrupt):
    pass


@pytest.mark.parametrize("engine", ENGINES)
def test_an_interrupted_run_goes_on(squeezenet: onnxvis.Model, tmp_path: Path, engine: str) -> None:
    x, folder = zoo.image(96, seed=3), tmp_path / "partial"
    options = {"window": 24, "stride": 12, "engine": engine, "checkpoint": folder}
    whole = onnxvis.explain(squeezenet, x, "occlusion", (0, 1), window=24, stride=12, engine=engine)

    def stop(stage: str, done: int, total: int) -> None:
        if done >= 24:
            raise _StopError

    with pytest.raises(_StopError):
        onnxvis.explain(squeezenet, x, "occlusion", (0, 1), progress=stop, **options)
    assert len(list(folder.iterdir())) == 1
    seen: list[int] = []
    found = onnxvis.explain(
        squeezenet, x, "occlusion", (0, 1), progress=lambda stage, done, total: seen.append(done), **options
    )
    assert min(seen) >= 24  # the finished ones did not run again
    for one, other in zip(found, whole, strict=True):
        np.testing.assert_allclose(one.attribution, other.attribution, atol=1e-5)
        assert any("taken from an interrupted run" in note for note in one.notes)
    assert not folder.exists()


def test_another_picture_or_option_does_not_go_on(model: onnxvis.Model, tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if done:
            raise _StopError

    x = noise(1, 3, SIZE, SIZE)
    with pytest.raises(_StopError):
        onnxvis.explain(model, x, "occlusion", 0, window=8, checkpoint=tmp_path, progress=stop)
    for picture, options in ((x + 1, {}), (x, {"baseline": 1}), (x, {"score": "probability"}), (x, {"stride": 3})):
        found = onnxvis.explain(model, picture, "occlusion", 0, **{"window": 8, "checkpoint": tmp_path, **options})
        assert not any("interrupted" in note for note in found.notes)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_damaged_file_is_said_and_not_used(model: onnxvis.Model, tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if done:
            raise _StopError

    x = noise(1, 3, SIZE, SIZE)
    with pytest.raises(_StopError):
        onnxvis.explain(model, x, "occlusion", 0, window=8, checkpoint=tmp_path, progress=stop)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    found = onnxvis.explain(model, x, "occlusion", 0, window=8, checkpoint=tmp_path)
    expected = onnxvis.explain(model, x, "occlusion", 0, window=8)
    np.testing.assert_array_equal(found.attribution, expected.attribution)
    assert any("started from the beginning" in note for note in found.notes)
