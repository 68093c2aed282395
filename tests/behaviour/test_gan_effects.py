"""Interventions on a generator whose formula is known: pictures, effects, searches and repairs, by hand."""

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from support.gan import SIDE, UNITS, PaintedSquares, squares_model

from onnxvis.behaviour.gan import unit_sets
from onnxvis.behaviour.gan.concepts import built_in
from onnxvis.behaviour.gan.dissecting import dissect
from onnxvis.behaviour.gan.effects import averaged, measure, random_effects, trunks, unit_effects
from onnxvis.behaviour.gan.generator import open_generator
from onnxvis.behaviour.gan.interventions import Interventions, Region, parse_region
from onnxvis.behaviour.gan.picking import pick_units
from onnxvis.behaviour.gan.repairing import METADATA_KEY, artifact_units, repair
from onnxvis.behaviour.gan.unit_sets import greedy_set, optimized_set
from onnxvis.errors import UsageError
from onnxvis.runtime.choose_gradients import gradient_backend

MADE = PaintedSquares()
COLORS = ("red", "green", "blue")
SEGMENTER = built_in(COLORS)
HALF = Region(0.0, 0.0, 1.0, 0.5)
KINDS = [{}, {"layout": "NHWC"}, {"half": True}, {"batch": 1}, {"batch": 3}, {"opset": 7}]


def opened(**options):
    generator = open_generator(squares_model(**options))
    return Interventions(generator, generator.layer("features"))


@pytest.fixture(scope="module")
def plain():
    return opened()


def by_hand(z, mask, value):
    """Raw pictures ``(N, 3, H, W)`` with features forced."""
    features = MADE.features(z)
    return MADE.picture(np.where(mask, value, features))


def pictures_of(raw):
    return np.rint(np.clip((np.moveaxis(raw, 1, -1) + 1) * 127.5, 0, 255)).astype(np.uint8)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_forced_units_draw_what_the_formula_says(options):
    interventions = opened(**options)
    assert interventions.difference == 0
    generator = interventions.generator
    feeds = generator.feeds(range(7), 1)
    units = [1, 4]
    inside = np.zeros((1, UNITS, SIDE, SIDE), bool)
    inside[:, units, :, : SIDE // 2] = True
    value = np.arange(UNITS) * 0.5
    expected = by_hand(feeds["z"].reshape(-1, UNITS), inside, value.reshape(1, -1, 1, 1))
    if options.get("layout") == "NHWC":
        expected = np.moveaxis(expected, 1, -1)
    mask, forced = interventions.mask(units, HALF), interventions.values(value)
    raw = interventions.raw(feeds, mask, forced)
    np.testing.assert_allclose(raw, expected, atol=4e-3 if options.get("half") else 1e-6)
    assert np.array_equal(interventions.tail(interventions.trunk(feeds), feeds, mask, forced), raw)


@pytest.mark.parametrize("batch", ["batch", 3])
def test_each_sample_can_have_its_own_mask_and_value(batch):
    interventions = opened(batch=batch)
    feeds = interventions.generator.feeds(range(20), 0)
    rng = np.random.default_rng(0)
    mask = (rng.random((20, UNITS, 1, 1)) < 0.5).astype(np.float32)
    value = rng.random((20, UNITS, 1, 1)).astype(np.float32)
    raw = interventions.raw(feeds, mask, value)
    np.testing.assert_allclose(raw, by_hand(feeds["z"], mask > 0, value), atol=1e-6)
    tail = interventions.tail(interventions.trunk(feeds), feeds, mask, value[:1])
    np.testing.assert_allclose(tail, by_hand(feeds["z"], mask > 0, value[:1]), atol=1e-6)
    with pytest.raises(UsageError, match="19 masks or values were given for 20 samples"):
        interventions.raw(feeds, mask[1:], value)


def test_an_old_operator_set_is_edited_in_its_canonical_form():
    interventions = opened(opset=7)
    assert "canonical form of the file is edited" in interventions.notes[0]
    assert repair(interventions.generator, "features", [0]).difference == 0


def test_a_neutral_mask_gives_the_files_bits(plain):
    assert plain.notes == ["the edited graph with a neutral mask gives the file's own bits (checked on 3 samples)"]
    feeds = plain.generator.feeds(range(5), 9)
    before = plain.generator.run(plain.generator.sessions, feeds, ("picture",))["picture"]
    after = plain.raw(feeds, plain.mask([]), plain.values(np.nan))
    assert np.array_equal(before.view(np.uint32), after.view(np.uint32))


def test_what_the_part_behind_the_layer_reads_is_fed_to_it():
    """As in a StyleGAN, the latent enters again behind the layer: here it scales the picture."""
    model = squares_model()
    shift = next(n for n in model.graph.node if n.name == "shift")
    place = list(model.graph.node).index(shift)
    made = [
        helper.make_node("ReduceMean", ["z"], ["size"], "size", axes=[1], keepdims=1),
        helper.make_node("Reshape", ["size", "to_map"], ["size_map"], "to_map"),
        helper.make_node("Mul", ["mixed", "size_map"], ["scaled"], "scale"),
    ]
    for i, node in enumerate(made):
        model.graph.node.insert(place + i, node)
    shift.input[0] = "scaled"
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 1, 1, 1], np.int64), "to_map"))
    generator = open_generator(model)
    interventions = Interventions(generator, generator.layer("features"))
    assert interventions.read_behind == ("z",)
    feeds = generator.feeds(range(20), 0)
    mask, value = interventions.mask([0]), interventions.values(0.8)
    raw = interventions.raw(feeds, mask, value)
    features = MADE.features(feeds["z"])
    features[:, 0] = np.float32(0.8)
    mixed = np.einsum("nuhw,cu->nchw", features, MADE.colors) * feeds["z"].mean(axis=1)[:, None, None, None]
    np.testing.assert_allclose(raw, np.tanh(mixed + MADE.ground), atol=1e-5)
    assert np.array_equal(interventions.tail(interventions.trunk(feeds), feeds, mask, value), raw)


def test_the_average_causal_effect_is_exact(plain):
    ids, units, value = range(40), [0, 3], np.full(UNITS, 1.1)
    samples = trunks(plain, SEGMENTER, ids, 4, HALF)
    found = measure(plain, SEGMENTER, units, samples, value)
    z = plain.generator.feeds(ids, 4)["z"]
    inside = np.zeros((1, UNITS, SIDE, SIDE), bool)
    inside[:, units, :, : SIDE // 2] = True
    presence = {}
    for name, mask, forced in (("base", False, 0.0), ("off", inside, 0.0), ("on", inside, 1.1)):
        marks = SEGMENTER(pictures_of(by_hand(z, mask, forced)))
        presence[name] = marks[..., : SIDE // 2].mean(axis=(2, 3))
    np.testing.assert_allclose(found.base, presence["base"])
    np.testing.assert_allclose(found.off, presence["off"])
    np.testing.assert_allclose(found.on, presence["on"])
    red = presence["on"][:, 0] - presence["off"][:, 0]
    mean, error = found.ace("red")
    assert mean == pytest.approx(red.mean())
    assert error == pytest.approx(red.std(ddof=1) / np.sqrt(40))
    assert found.drop("red")[0] == pytest.approx((presence["base"] - presence["off"])[:, 0].mean())
    assert found.gain("blue") == (0.0, 0.0)  # the blue square lies in the other half
    assert found.to_dict()["concepts"]["red"]["ace"] == [mean, error]
    with pytest.raises(UsageError, match="only ablated"):
        measure(plain, SEGMENTER, units, samples).ace("red")


def test_activations_too_large_to_keep_are_computed_again(plain, monkeypatch):
    kept = trunks(plain, SEGMENTER, range(20), 0)
    monkeypatch.setattr("onnxvis.behaviour.gan.effects._KEPT_BYTES", 1000)
    again = trunks(plain, SEGMENTER, range(20), 0)
    assert [a is None for a in again.activations] == [True, True]
    found, expected = (measure(plain, SEGMENTER, [1], t, np.ones(UNITS)) for t in (again, kept))
    assert np.array_equal(found.on, expected.on)
    assert np.array_equal(found.off, expected.off)
    with pytest.raises(UsageError, match=r"marks red, green, blue, not 'gren'.*'green'"):
        found.drop("gren")


def test_every_unit_alone(plain):
    samples = trunks(plain, SEGMENTER, range(24), 0)
    found = unit_effects(plain, SEGMENTER, samples, np.full(UNITS, 1.2))
    for unit in range(UNITS):
        alone = measure(plain, SEGMENTER, [unit], samples, np.full(UNITS, 1.2))
        for k, color in enumerate(COLORS):
            assert (found.drop[unit, k], found.drop_error[unit, k]) == alone.drop(color)
            assert (found.ace[unit, k], found.ace_error[unit, k]) == alone.ace(color)
    assert [found.ranked(color)[0] for color in COLORS] == [0, 1, 2]
    table = np.tile([1.2, 0.9, 0.1], (UNITS, 1))
    own = unit_effects(plain, SEGMENTER, samples, table)
    for k, value in enumerate((1.2, 0.9, 0.1)):
        alone = measure(plain, SEGMENTER, [k], samples, np.full(UNITS, value))
        assert own.ace[k, k] == alone.ace(COLORS[k])[0]


def test_random_units_never_hold_one_of_the_set(plain):
    samples = trunks(plain, SEGMENTER, range(16), 0)
    sets = random_effects(plain, SEGMENTER, [0], samples, sets=6, seed=1)
    assert all(0 not in e.units and len(e.units) == 1 for e in sets)
    assert len({e.units for e in sets}) > 1
    mean = averaged(sets)
    np.testing.assert_allclose(mean.off, np.mean([e.off for e in sets], axis=0))
    assert mean.drop("red")[0] == 0
    with pytest.raises(UsageError, match="2 other units, too few"):
        random_effects(plain, SEGMENTER, [0, 1, 2, 3], samples)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("gradients", ["torch", "onnx"])
def test_the_gradient_of_the_search_is_that_of_its_objective(gradients, layout):
    interventions = opened(layout=layout)
    generator = interventions.generator
    backend = gradient_backend(gradients, generator.canonical.model, generator.provider, False)
    pool, feeds = unit_sets._pool(interventions, range(4), 0)
    rng = np.random.default_rng(0)
    alpha, values = rng.uniform(0.2, 0.8, UNITS), rng.uniform(0.3, 1.0, UNITS)
    place = unit_sets._rectangle(rng, (SIDE, SIDE))

    def objective(at):
        return unit_sets._objective(
            generator, interventions, backend, SEGMENTER, "green", pool, feeds, at, values, place
        )

    slope = objective(alpha)[1]
    for unit in range(3):
        step = np.eye(UNITS)[unit] * 1e-3
        difference = (objective(alpha + step)[0] - objective(alpha - step)[0]) / 2e-3
        assert slope[unit] == pytest.approx(difference, abs=2e-4)
    assert abs(slope[1]) > 0.02
    np.testing.assert_allclose(slope[3:], 0, atol=1e-9)


def test_the_searches_find_the_unit_that_paints(plain):
    values = np.full(UNITS, 1.0)
    for k, color in enumerate(COLORS):
        found = optimized_set(plain, SEGMENTER, color, values, ids=range(16), count=1, steps=40, seed=k)
        assert found.units == (k,)
        assert found.history[-1] < found.history[0]
        samples = trunks(plain, SEGMENTER, range(16), 0)
        greedy = greedy_set(plain, SEGMENTER, color, values, samples, range(UNITS), count=2)
        assert greedy.units[0] == k
        assert greedy.strength[0] == pytest.approx(measure(plain, SEGMENTER, [k], samples, values).ace(color)[0])


def test_units_are_picked_in_four_ways(plain):
    dissection = dissect(plain.generator, SEGMENTER, samples=60)
    for by in ("iou", "effect", "optimized", "greedy"):
        picked = pick_units(plain, SEGMENTER, dissection, "blue", 1, by, ids=range(100, 124))
        assert picked.units == (2,), by
    plainer = built_in(COLORS)

    class Marks:
        concepts = COLORS

        def __call__(self, pictures):
            return plainer(pictures)

        def describe(self):
            return {}

    picked = pick_units(plain, Marks(), dissection, "blue", 1, "optimized", ids=range(100, 124))
    assert picked.units == (2,)
    assert "no differentiable form" in picked.reason
    with pytest.raises(UsageError, match="picked by iou, effect"):
        pick_units(plain, SEGMENTER, dissection, "blue", 1, "best", ids=range(9))
    with pytest.raises(UsageError, match="has 6 units, so 7"):
        pick_units(plain, SEGMENTER, dissection, "blue", 7, ids=range(9))


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_a_repaired_file_is_the_intervention(options, tmp_path):
    interventions = opened(**options)
    generator = interventions.generator
    repaired = repair(generator, "features", [0, 2], region=HALF)
    assert repaired.difference == 0
    path = repaired.save(tmp_path / "repaired.onnx")
    model = onnx.load(path)
    assert len(model.graph.input) == len(generator.file.proto.graph.input)
    assert json.loads({e.key: e.value for e in model.metadata_props}[METADATA_KEY])["units"] == [0, 2]
    rows = generator.fixed or 5
    feeds = generator.feeds(range(rows), 3)
    answer = ort.InferenceSession(str(path)).run(None, feeds)[0]
    forced = interventions.raw(feeds, interventions.mask([0, 2], HALF), interventions.values())
    assert np.array_equal(answer, forced)
    reopened = open_generator(path)
    marks = built_in(["red", "green"])(reopened.sample(range(30)).pictures)
    assert not marks[:, 0].any()
    assert marks[:, 1].any()


def test_units_of_spoiled_pictures_come_first(plain):
    ids = np.arange(400)
    z = plain.generator.feeds(ids, 0)["z"]
    bad = ids[z[:, 1] > 1.3][:12]
    ranked = artifact_units(plain.generator, "features", bad.tolist())
    assert ranked[0].unit == 1
    assert ranked[0].z > 5
    features = plain.generator.sample(bad, 0, ("features",)).tensors["features"]
    assert ranked[0].bad == pytest.approx(features[:, 1].mean(), rel=1e-5)
    assert all(row.z < 4 for row in ranked[1:])
    with pytest.raises(UsageError, match="at least two"):
        artifact_units(plain.generator, "features", [3])
    with pytest.raises(UsageError, match="sample 4 is on both sides"):
        artifact_units(plain.generator, "features", [3, 4], [4, 5])
    with pytest.raises(UsageError, match="no unit was given"):
        repair(plain.generator, "features", [])


def test_regions():
    assert np.array_equal(Region(0.25, 0, 0.75, 0.5).mask((4, 4))[1:3, :2], np.ones((2, 2), bool))
    assert Region(0.25, 0, 0.75, 0.5).mask((4, 4)).sum() == 4
    assert Region(0.5, 0.5, 0.51, 0.51).mask((3, 3)).sum() == 1
    assert parse_region("0,0,0.5,1") == Region(0, 0, 0.5, 1)
    assert parse_region(None).whole
    for text in ("0,0,0,1", "0,0,2,1", "a,b,c,d", "1,2"):
        with pytest.raises(UsageError, match="TOP,LEFT,BOTTOM,RIGHT"):
            parse_region(text)
    with pytest.raises(UsageError, match="units 0 to 5, not 6"):
        opened().mask([6])
