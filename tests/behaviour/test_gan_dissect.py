"""Dissecting a generator whose units paint known squares; segmenters of every kind; interrupted runs."""

import json

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.gan import SIDE, SQUARES, UNITS, squares_model

import onnxvis
from onnxvis.behaviour.gan.concepts import BUILT_IN, built_in, color_clusters
from onnxvis.behaviour.gan.dissecting import dissect
from onnxvis.behaviour.gan.dissection import Dissection
from onnxvis.behaviour.gan.generator import open_generator
from onnxvis.behaviour.gan.information import JointCounts, QuantileEdges
from onnxvis.behaviour.gan.segmenters import CallableSegmenter, OnnxSegmenter, chosen_segmenter
from onnxvis.errors import LayerError, ModelError, UsageError

COLORS = ("red", "green", "blue")
SAMPLES = 120


@pytest.fixture(scope="module")
def generator():
    return open_generator(squares_model())


@pytest.fixture(scope="module")
def found(generator):
    return dissect(generator, built_in([*COLORS, "top", "dark"]), samples=SAMPLES, seed=2)


def test_each_color_is_found_at_the_unit_that_paints_it(found):
    for unit, color in enumerate(COLORS):
        first, second = found.ranked(color, 2)
        assert first.unit == unit
        assert first.above_chance
        assert first.iou > 0.85
        assert first.chance < 0.45
        assert not second.above_chance
    assert dict(found.labels())[1] == "green"


def test_agreement_and_chance_are_those_of_every_pixel(generator, found):
    first, second = range(SAMPLES // 2), range(SAMPLES // 2, SAMPLES)
    segmenter = built_in([*COLORS, "top", "dark"])
    parts = {}
    for name, ids in (("choose", first), ("test", second)):
        batch = generator.sample(ids, 2, ("features",))
        parts[name] = (batch.tensors["features"], segmenter(batch.pictures))
    quantiles = QuantileEdges(UNITS, len(first))
    quantiles.add(parts["choose"][0])
    counts = JointCounts(quantiles.edges(), 5)
    counts.add(*parts["choose"])
    levels, quality = counts.best_levels()
    np.testing.assert_allclose(found.quality, quality)
    features, masks = parts["test"]
    # Batches of 16: each sample's partner is the one before it, the first one's the last of the first batch.
    others = masks[[15, *range(len(masks) - 1)]]
    for u in range(UNITS):
        for k in range(5):
            threshold = quantiles.edges()[u, levels[u, k]]
            assert found.thresholds[u, k] == threshold
            over = features[:, u] > threshold  # features are as large as pictures: nothing is enlarged
            either = (over | masks[:, k]).sum()
            assert found.iou[u, k] == pytest.approx((over & masks[:, k]).sum() / either if either else 0.0)
            if found.varies[k]:
                union = (over | others[:, k]).sum()
                assert found.chance[u, k] == pytest.approx((over & others[:, k]).sum() / union if union else 0.0)
    np.testing.assert_allclose(found.area, masks.mean(axis=(0, 2, 3)))


def test_the_standard_error_is_that_of_a_jackknife(generator, found):
    ids = range(SAMPLES // 2, SAMPLES)
    batch = generator.sample(ids, 2, ("features",))
    masks = built_in(COLORS)(batch.pictures)
    for unit, k in ((0, 0), (1, 1), (4, 2)):
        over = batch.tensors["features"][:, unit] > found.thresholds[unit, k]
        both = (over & masks[:, k]).sum(axis=(1, 2)).astype(float)
        union = (over | masks[:, k]).sum(axis=(1, 2)).astype(float)
        left_out = (both.sum() - both) / (union.sum() - union)
        n = len(both)
        jackknife = np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())
        assert found.iou_error[unit, k] == pytest.approx(jackknife, rel=0.1)


def test_places_are_compared_with_independent_masks(found):
    k = found.concept("top")
    assert not found.varies[k]
    rows, cols = SQUARES[0]
    size = (rows.stop - rows.start) * (cols.stop - cols.start)
    assert found.iou[0, k] < size / (SIDE * SIDE / 2)
    assert found.chance[0, k] < found.iou[0, k]
    assert not found.above_chance[:, found.concept("dark")].any()


def test_what_is_inserted_is_the_mean_where_the_concept_is(generator, found):
    batch = generator.sample(range(SAMPLES), 2, ("features",))
    masks = built_in(["green"])(batch.pictures)[:, 0]
    features = batch.tensors["features"]
    expected = [features[:, u][masks].mean() for u in range(UNITS)]
    np.testing.assert_allclose(found.values("green"), expected, rtol=1e-5)
    with pytest.raises(UsageError, match="'dark' never appeared"):
        found.values("dark")
    np.testing.assert_allclose(found.mean, features.mean(axis=(0, 2, 3)), rtol=1e-5)


def test_the_strongest_samples_are_remembered(generator, found):
    ids = np.arange(SAMPLES // 2, SAMPLES)
    features = generator.sample(ids, 2, ("features",)).tensors["features"]
    strongest = features.max(axis=(2, 3))
    for unit in range(3):
        order = np.argsort(-strongest[:, unit], kind="stable")[: found.top_ids.shape[1]]
        assert found.top_ids[unit].tolist() == ids[order].tolist()


def test_an_interrupted_run_goes_on_and_ends_the_same(generator, found, tmp_path):
    segmenter = built_in([*COLORS, "top", "dark"])
    for stop_at in ("thresholds", "held-out"):
        calls = 0

        def progress(stage, done, total, stop_at=stop_at):
            nonlocal calls
            calls += stage == stop_at
            if stage == stop_at and done >= 32:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            dissect(generator, segmenter, samples=SAMPLES, seed=2, folder=tmp_path, progress=progress)
        assert len(list(tmp_path.glob(".dissection-*.npz"))) == 1
    stages = []
    again = dissect(
        generator, segmenter, samples=SAMPLES, seed=2, folder=tmp_path, progress=lambda s, d, t: stages.append((s, d))
    )
    assert "thresholds" not in {stage for stage, _ in stages}
    assert next(d for s, d in stages if s == "held-out") == 48
    for name in ("iou", "chance", "iou_error", "margin_error", "conditional_mean", "top_ids", "mean", "varies"):
        np.testing.assert_allclose(getattr(again, name), getattr(found, name), rtol=1e-12)
    assert not list(tmp_path.glob(".dissection-*"))


def test_a_damaged_rest_is_left_behind(generator, found, tmp_path):
    segmenter = built_in([*COLORS, "top", "dark"])

    def stop(stage, done, total):
        if stage == "held-out":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dissect(generator, segmenter, samples=SAMPLES, seed=2, folder=tmp_path, progress=stop)
    next(tmp_path.glob(".dissection-*")).write_bytes(b"PK\x03\x04 broken")
    again = dissect(generator, segmenter, samples=SAMPLES, seed=2, folder=tmp_path)
    assert np.array_equal(again.iou, found.iou)


def test_large_pictures_are_counted_at_some_of_their_pixels(generator, monkeypatch):
    monkeypatch.setattr("onnxvis.behaviour.gan.dissecting._LARGEST_SIDE", 8)
    thinned = dissect(generator, built_in(["green"]), samples=60)
    assert thinned.facts["counted"] == "one pixel of 2 each way"
    masks = built_in(["green"])(generator.sample(range(30, 60)).pictures)
    assert thinned.area[0] == pytest.approx(masks[:, :, 1::2, 1::2].mean())
    assert thinned.ranked("green")[0].unit == 1


def test_saved_and_read_again(found, tmp_path):
    found.save(tmp_path)
    again = Dissection.load(tmp_path)
    assert np.array_equal(again.iou, found.iou)
    assert again.concepts == found.concepts
    assert again.ranked("green", 3) == found.ranked("green", 3)
    manifest = json.loads((tmp_path / "dissection.json").read_text())
    assert manifest["concepts"]["green"]["ranked"][0]["unit"] == 1
    (tmp_path / "dissection.npz").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="no dissection"):
        Dissection.load(tmp_path)
    with pytest.raises(UsageError, match=r"'gren' was not dissected.*'green'"):
        found.ranked("gren")


@pytest.mark.parametrize("options", [{"layout": "NHWC"}, {"half": True}, {"batch": 1}, {"batch": 5}])
def test_other_files_of_the_same_network_give_the_same(found, options):
    other = dissect(open_generator(squares_model(**options)), built_in(COLORS), samples=SAMPLES, seed=2)
    close = 0.02 if options.get("half") else 1e-9
    np.testing.assert_allclose(other.iou, found.iou[:, :3], atol=close)


def test_a_python_function_marks_what_it_likes(generator):
    def marks(pictures):
        return {"greenish": pictures[..., 1] > 150, "whole": np.ones(pictures.shape[:3], bool)}

    segmenter = chosen_segmenter(generator, marks)
    assert segmenter.concepts == ("greenish", "whole")
    found = dissect(generator, segmenter, samples=60)
    assert found.ranked("greenish")[0].unit == 1

    def numbered(pictures):
        return pictures.argmax(axis=-1)

    numbered.concepts = ("r", "g", "b")
    assert chosen_segmenter(generator, numbered, ["b"]).concepts == ("b",)
    with pytest.raises(UsageError, match="no concept 'x'"):
        chosen_segmenter(generator, numbered, ["x"])
    with pytest.raises(UsageError, match="mapping of names"):
        CallableSegmenter(lambda p: p, generator.sample([0]).pictures)
    with pytest.raises(UsageError, match="failed: ZeroDivisionError"):
        CallableSegmenter(lambda p: 1 // 0, generator.sample([0]).pictures)
    with pytest.raises(UsageError, match="'bad' is float64"):
        CallableSegmenter(lambda p: {"bad": np.zeros(p.shape[:3])}, generator.sample([0]).pictures)


def test_a_function_is_found_by_its_name(generator, tmp_path, monkeypatch):
    (tmp_path / "my_segmenter_for_test.py").write_text("def bright(p):\n    return {'g': p[..., 1] > 150}\n")
    monkeypatch.chdir(tmp_path)
    assert chosen_segmenter(generator, "my_segmenter_for_test:bright").concepts == ("g",)
    with pytest.raises(UsageError, match="no function 'dark'"):
        chosen_segmenter(generator, "my_segmenter_for_test:dark")
    with pytest.raises(UsageError, match="cannot be imported"):
        chosen_segmenter(generator, "no_such_module_here:f")


def color_network(size):
    """Segments by the largest of R, G, B: logits are the channels themselves, at half the size."""
    nodes = [
        helper.make_node("AveragePool", ["image"], ["small"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["small", "w"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "colors",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3, size // 2, size // 2])],
        [numpy_helper.from_array(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_segmentation_network_marks_its_classes(generator):
    model = onnxvis.load(color_network(32), preprocessing={"size": 32, "resize": "stretch"}, labels=list(COLORS))
    segmenter = OnnxSegmenter(model, ["green", "blue"])
    pictures = np.zeros((2, SIDE, SIDE, 3), np.uint8)
    pictures[0, :, :8, 1], pictures[0, :, 8:, 0] = 200, 200
    pictures[1, :, :, 2] = 90
    masks = segmenter(pictures)
    assert masks.shape == (2, 2, SIDE, SIDE)
    assert np.array_equal(masks[0, 0], np.broadcast_to(np.arange(SIDE) < 8, (SIDE, SIDE)))
    assert masks[1, 1].all()
    assert not masks[0, 1].any()
    found = dissect(generator, segmenter, samples=40)
    assert found.ranked("green")[0].unit == 1
    with pytest.raises(UsageError, match=r"no class 'grin'.*'green'"):
        OnnxSegmenter(model, ["grin"])


def test_a_classifier_is_no_segmenter():
    from support.nets import SmallNet

    with pytest.raises(ModelError, match="no segmentation network"):
        OnnxSegmenter(onnxvis.load(SmallNet().model([1, 3, 32, 32])))


def test_built_in_colors_mark_what_their_words_say():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    r, g, b = (pictures[..., c].astype(float) for c in range(3))
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    cb, cr = 128 + 0.564 * (b - luma), 128 + 0.713 * (r - luma)
    top = (np.arange(8) < 4)[None, :, None]
    expected = {
        "dark": luma < 40,
        "bright": luma > 200,
        "green": (g > r + 12) & (g > b + 12),
        "red": (r > g + 60) & (r > b + 60),
        "dark-top": (luma < 40) & top,
        "skin-colored": (cb > 77) & (cb < 127) & (cr > 133) & (cr < 173) & (luma > 40),
        "top": np.broadcast_to(top, luma.shape),
    }
    masks = built_in(list(expected))(pictures)
    for k, (name, mask) in enumerate(expected.items()):
        assert np.count_nonzero(masks[:, k] != mask) <= 1, name
    with pytest.raises(UsageError, match=r"no built-in concept 'grean'.*'green'"):
        built_in(["grean"])


def test_clusters_cut_the_colors_apart():
    rng = np.random.default_rng(0)
    centers = np.array([[20, 20, 30], [200, 40, 40], [60, 180, 90]])
    which = rng.integers(0, 3, (4, 16, 16))
    pictures = np.clip(centers[which] + rng.normal(0, 8, (4, 16, 16, 3)), 0, 255).astype(np.uint8)
    parts = color_clusters(pictures, 3, seed=1)
    masks = np.stack([part.mask(pictures) for part in parts], axis=1)
    assert (masks.sum(axis=1) == 1).all()  # every pixel is nearest to one center
    order = [0, 1, 2]  # by luma: dark, red, green
    assert np.array_equal(masks.argmax(axis=1), np.array(order)[which])
    assert [p.name for p in parts] == [p.name for p in color_clusters(pictures, 3, seed=1)]
    with pytest.raises(UsageError, match="2 to 64"):
        color_clusters(pictures, 1)
    with pytest.raises(UsageError, match="fewer than 3 colors"):
        color_clusters(np.zeros((1, 4, 4, 3), np.uint8), 3)


def test_the_soft_form_has_the_derivative_it_says():
    rng = np.random.default_rng(3)
    colors = rng.uniform(0, 255, (1, 4, 4, 3)).astype(np.float32)
    for concept in BUILT_IN.values():
        score, slope = concept.soft(colors)
        for channel in range(3):
            step = np.zeros(3, np.float32)
            step[channel] = 0.5
            difference = (concept.soft(colors + step)[0] - concept.soft(colors - step)[0]) / 1.0
            np.testing.assert_allclose(slope[..., channel], difference, atol=2e-4)
        hard = concept.mask(np.rint(colors).astype(np.uint8))
        assert ((score > 0.9) <= hard).all()


def test_refusals(generator):
    with pytest.raises(UsageError, match="at least 8 samples"):
        dissect(generator, built_in(COLORS), samples=4)
    with pytest.raises(LayerError, match="no feature map"):
        dissect(generator, built_in(COLORS), "nothing", samples=8)
